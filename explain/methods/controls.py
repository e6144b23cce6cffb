"""Maps that know nothing of the model: what any measure must be compared with."""

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional

from explain.methods.base import Attributions, ExplainedCaption, pool_to_grid

CENTRE_WIDTH = 0.25
"""Standard deviation of the centre control, as a share of the picture's side."""
SMOOTH_WIDTH = 0.1
"""Standard deviation of the blur of the smooth random control, as a share of the picture's side."""


def uniform(caption: ExplainedCaption) -> Attributions:
    """Every cell the same."""
    return torch.full(caption.alphas.shape, 1.0 / caption.alphas.shape[1]), None


def centre(caption: ExplainedCaption) -> Attributions:
    """A Gaussian around the middle of the picture: where photographers put things."""
    rows, cols = ((torch.arange(cells) + 0.5) / cells - 0.5 for cells in caption.captioner.grid)
    heights = torch.exp(-(rows[:, None] ** 2 + cols[None, :] ** 2) / (2 * CENTRE_WIDTH**2))
    return (heights / heights.sum()).flatten().repeat(caption.words, 1), None


def random(caption: ExplainedCaption) -> Attributions:
    """Independent numbers in [0, 1) for every cell, from the seed and the word's place and nothing else."""
    cells = caption.alphas.shape[1]
    maps = [
        np.random.Generator(np.random.PCG64([caption.seed, word])).random(cells)
        for word in range(caption.words)
    ]
    return torch.from_numpy(np.stack(maps)), None


def smooth_random(caption: ExplainedCaption) -> Attributions:
    """Independent numbers blurred by a Gaussian, then moved to begin at 0: a blob where chance puts it.

    Real maps are smooth, and two smooth maps agree by chance far more often than two rough ones.
    """
    rows, cols = caption.captioner.grid
    width = (SMOOTH_WIDTH * rows, SMOOTH_WIDTH * cols)
    maps = []
    for word in range(caption.words):
        rough = np.random.Generator(np.random.PCG64([caption.seed, word, 1])).standard_normal((rows, cols))
        smooth = gaussian_filter(rough, width, mode="wrap")
        maps.append((smooth - smooth.min()).ravel())
    return torch.from_numpy(np.stack(maps)), None


def edges(caption: ExplainedCaption) -> Attributions:
    """Magnitude of the Sobel gradient of the mean channel, borders repeated: what stands out anyway."""
    grey = functional.pad(caption.image.detach().mean(dim=0)[None, None], (1, 1, 1, 1), mode="replicate")
    across = torch.tensor([[1.0, 2.0, 1.0]]).T @ torch.tensor([[-1.0, 0.0, 1.0]])
    kernels = torch.stack([across, across.T]).unsqueeze(1).to(grey)
    magnitude: Tensor = functional.conv2d(grey, kernels).norm(dim=1)  # (1, 2, H, W) -> (1, H, W)
    return pool_to_grid(magnitude, caption.captioner.grid).flatten(1).repeat(caption.words, 1), None


def other_image(caption: ExplainedCaption) -> Attributions:
    """Where the model looked for a word of the same class in another image."""
    return _known(caption, caption.donor_alphas)


def class_mean(caption: ExplainedCaption) -> Attributions:
    """Where the model looked on average for words of the same class in other images."""
    return _known(caption, caption.class_alphas)


def _known(caption: ExplainedCaption, alphas: Float[np.ndarray, "word cells"] | None) -> Attributions:
    if alphas is None:
        return torch.full(caption.alphas.shape, torch.nan), None
    return torch.from_numpy(alphas), None
