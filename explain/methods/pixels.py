"""What the pixels are to a word, through encoder and decoder; maps are pooled to the grid by summing."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from explain.methods.base import Attributions, ExplainedCaption, noise, pool_to_grid, score_difference
from explain.methods.decoding import word_scores
from explain.methods.gradients import (
    gauss_legendre,
    grid_gradients,
    guided_pixel_gradients,
    mean_pixel_gradients,
    pixel_gradients,
)
from models.captioner import Captioner

STEPS = 20
"""Gauss-Legendre nodes of the path integral."""
SAMPLES = 16
"""Draws of SmoothGrad."""
NOISE = 0.15
"""Standard deviation of SmoothGrad's noise as a share of the picture's range; its paper takes 10 to 20 %."""
WINDOW = 2
"""Side of occlusion's window in cells of the grid; it moves by one cell."""
BATCH_PICTURES = 32
"""Occluded pictures at a time. Bounds memory, changes no map."""


def saliency(caption: ExplainedCaption) -> Attributions:
    """Largest absolute gradient of the three channels."""
    return _pool(caption, caption.once(pixel_gradients).abs().amax(dim=1)), None


def input_x_gradient(caption: ExplainedCaption) -> Attributions:
    """Pixel, after normalisation, times gradient, summed over the channels."""
    return _pool(caption, (caption.image * caption.once(pixel_gradients)).sum(dim=1)), None


def guided_backprop(caption: ExplainedCaption) -> Attributions:
    """Largest absolute gradient of the three channels; ReLU modules let no negative gradient pass."""
    return _pool(caption, caption.once(guided_pixel_gradients).abs().amax(dim=1)), None


def integrated_gradients(caption: ExplainedCaption) -> Attributions:
    """Integrated gradients from the mean picture (zero after normalisation), summed over the channels."""
    along, weights = gauss_legendre(STEPS, caption.image)
    gradients = mean_pixel_gradients(caption, along[:, None, None, None] * caption.image, weights)
    with torch.no_grad():
        baseline = caption.captioner.encode(torch.zeros_like(caption.image).unsqueeze(0)).squeeze(0)
    return _pool(caption, (caption.image * gradients).sum(dim=1)), score_difference(caption, baseline)


def smoothgrad(caption: ExplainedCaption) -> Attributions:
    """Largest absolute value of the three channels of the mean gradient at pictures with noise."""
    normal = noise(caption, "pixels").standard_normal((SAMPLES, *caption.image.shape), dtype=np.float32)
    deviation = NOISE * (caption.image.max() - caption.image.min())
    pictures = caption.image + deviation * torch.from_numpy(normal).to(caption.image)
    gradients = mean_pixel_gradients(caption, pictures, pictures.new_full((SAMPLES,), 1.0 / SAMPLES))
    return _pool(caption, gradients.abs().amax(dim=1)), None


@torch.no_grad()
def occlusion(caption: ExplainedCaption) -> Attributions:
    """What the word's log-probability loses when a window is grey, the mean over the windows that cover a pixel."""
    windows = [
        occlusion_windows(n, g) for n, g in zip(caption.image.shape[1:], caption.captioner.grid, strict=True)
    ]
    rows, cols = (window.to(caption.image.device) for window in windows)
    occluded = (rows[:, None, :, None] & cols[None, :, None, :]).flatten(0, 1).unsqueeze(1)
    occluded = torch.cat([torch.zeros_like(occluded[:1]), occluded])  # first the picture itself
    parts = []
    for part in torch.split(occluded, BATCH_PICTURES):
        memory = caption.captioner.decoder.remember(caption.captioner.encode(caption.image.where(~part, 0.0)))
        parts.append(word_scores(caption.captioner, memory, caption.token_ids[: caption.words]))
    scores = torch.cat(parts)
    loss = (scores[0] - scores[1:]).T.reshape(-1, len(rows), len(cols))
    over, across = rows.to(loss), cols.to(loss)
    maps = over.T @ loss @ across / torch.outer(over.sum(dim=0), across.sum(dim=0))
    return _pool(caption, maps), None


def occlusion_windows(pixels: int, cells: int) -> Tensor:
    """Which pixels each window covers along one side: as Captum lays them, the last cut off at the border.

    Args:
        pixels: length of the side.
        cells: of the grid along it.

    Returns:
        One row of booleans per window; together they cover every pixel.
    """
    stride = max(1, pixels // cells)
    width = min(pixels, WINDOW * stride)
    starts = stride * torch.arange(math.ceil((pixels - width) / stride) + 1).unsqueeze(1)
    places = torch.arange(pixels)
    return (places >= starts) & (places < starts + width)


def grad_cam(caption: ExplainedCaption) -> Attributions:
    """Channels of the encoder's last map weighted by their gradients' mean over all places; the positive part."""
    return pool_to_grid(caption.once(_cam), caption.captioner.grid).flatten(1), None


def guided_grad_cam(caption: ExplainedCaption) -> Attributions:
    """Guided backprop times Grad-CAM, each pixel taking the nearest place's; largest absolute of the channels."""
    size = caption.image.shape[1:]
    cam = nn.functional.interpolate(caption.once(_cam).unsqueeze(1), size, mode="nearest")
    return _pool(caption, (caption.once(guided_pixel_gradients) * cam).abs().amax(dim=1)), None


def last_map(captioner: Captioner) -> nn.Module:
    """The module whose output is the encoder's last convolutional map.

    What comes after it, pooling to the grid and position features, is no convolution. An encoder of another make is
    taken as a whole.
    """
    encoder = captioner.encoder
    for name in ("trunk", "layers"):
        inner = getattr(encoder, name, None)
        if isinstance(inner, nn.Module):
            return inner
    return encoder


def _cam(caption: ExplainedCaption) -> Float[Tensor, "word rows cols"]:
    """Grad-CAM at the resolution of the last map."""
    maps: list[Tensor] = []
    handle = last_map(caption.captioner).register_forward_hook(lambda _, __, output: maps.append(output))
    try:
        annotations = caption.captioner.encode(caption.image.detach().unsqueeze(0).requires_grad_())
    finally:
        handle.remove()
    gradients = torch.stack(
        [
            torch.autograd.grad(annotations, maps[0], gradient.unsqueeze(0), retain_graph=True)[0].squeeze(0)
            for gradient in caption.once(grid_gradients).full
        ]
    )
    weights = gradients.mean(dim=(2, 3))
    return torch.einsum("wc,cij->wij", weights, maps[0].detach().squeeze(0)).relu()


def _pool(caption: ExplainedCaption, maps: Float[Tensor, "word height width"]) -> Float[Tensor, "word cells"]:
    return pool_to_grid(maps, caption.captioner.grid).flatten(1)
