"""Gradients at the pixels, through encoder and decoder; maps are pooled to the grid by summing."""

import warnings
from collections.abc import Callable

import torch
from captum.attr import GuidedBackprop, IntegratedGradients, Saliency
from jaxtyping import Float
from torch import Tensor

from explain.methods.base import Attributions, ExplainedCaption, pool_to_grid, score_difference
from explain.target import WordScore

STEPS = 20
"""Gauss-Legendre nodes of the path integral."""
BATCH_PIXELS = 2**20
"""Pixels of one batch: 83 rows of 112 x 112, 20 of 224 x 224. Bounds memory, changes no map."""

Attribute = Callable[[Tensor, tuple[Tensor, Tensor]], Tensor]


def saliency(caption: ExplainedCaption) -> Attributions:
    """Largest absolute gradient of the three channels."""
    score = Saliency(WordScore(caption.captioner))
    gradients = _by_word(
        caption, lambda images, rows: score.attribute(images, abs=False, additional_forward_args=rows)
    )
    return _pool(caption, gradients.abs().amax(dim=1)), None


def guided_backprop(caption: ExplainedCaption) -> Attributions:
    """Largest absolute gradient of the three channels; ReLU modules let no negative gradient pass."""
    score = GuidedBackprop(WordScore(caption.captioner))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting backward hooks on ReLU activations")
        gradients = _by_word(
            caption, lambda images, rows: score.attribute(images, additional_forward_args=rows)
        )
    return _pool(caption, gradients.abs().amax(dim=1)), None


def integrated_gradients(caption: ExplainedCaption) -> Attributions:
    """Integrated gradients from the mean picture (zero after normalisation), summed over the channels."""
    score = IntegratedGradients(WordScore(caption.captioner))
    maps = _by_word(
        caption,
        lambda images, rows: score.attribute(
            images,
            additional_forward_args=rows,
            n_steps=STEPS,
            internal_batch_size=max(len(images), BATCH_PIXELS // caption.image[0].numel()),
        ),
    )
    with torch.no_grad():
        baseline = caption.captioner.encode(torch.zeros_like(caption.image).unsqueeze(0)).squeeze(0)
    return _pool(caption, maps.sum(dim=1)), score_difference(caption, baseline)


def _by_word(caption: ExplainedCaption, attribute: Attribute) -> Float[Tensor, "word 3 height width"]:
    """Runs a method over the caption's words, as many at once as `BATCH_PIXELS` allows."""
    size = max(1, BATCH_PIXELS // caption.image[0].numel())
    maps = []
    for prefix, step in zip(*(torch.split(part, size) for part in caption.rows), strict=True):
        images = caption.image.detach().repeat(len(step), 1, 1, 1).requires_grad_()
        maps.append(attribute(images, (prefix, step)).detach())
    return torch.cat(maps)


def _pool(caption: ExplainedCaption, maps: Float[Tensor, "word height width"]) -> Float[Tensor, "word cells"]:
    return pool_to_grid(maps, caption.captioner.grid).flatten(1)
