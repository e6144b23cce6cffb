"""What the annotation vectors are to a word: the encoder runs once per image, the decoder is what is explained."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from explain.methods.base import Attributions, ExplainedCaption, UnexplainableError, noise, score_difference
from explain.methods.decoding import word_gradients, word_scores
from explain.methods.gradients import GridGradients, gauss_legendre, grid_gradients
from models.decoder import Memory

STEPS = 20
"""Gauss-Legendre nodes of the path integral."""
SAMPLES = 16
"""Draws of SmoothGrad and of GradientShap."""
COALITIONS = 512
"""Draws of KernelShap, or twice the number of cells if that is more: the fit has one unknown per cell."""
SMOOTHGRAD_NOISE = 0.5
SHAP_NOISE = 0.1
"""Standard deviations of the noise, in standard deviations of all numbers in the annotation vectors. SmoothGrad's paper
measures noise by the range of the input; ReLUs give annotation vectors a range of dozens of deviations."""
BATCH_FLOATS = 2**22
"""Numbers in the annotation vectors of one batch (16 MiB). Bounds memory, changes no map."""


def gradient(caption: ExplainedCaption) -> Attributions:
    """Euclidean norm, over the D entries of each annotation vector, of the gradient."""
    return caption.once(grid_gradients).full.norm(dim=2), None


def input_x_gradient(caption: ExplainedCaption) -> Attributions:
    """Annotation vector times gradient, summed over D: HiResCAM on the annotation grid."""
    return (caption.annotations * caption.once(grid_gradients).full).sum(dim=2), None


def path(name: str) -> Callable[[ExplainedCaption], Attributions]:
    """Annotation vector times the partial gradient by one path, summed over D; the three sum to the full product.

    Args:
        name: a field of `GridGradients`: now, past or init.

    Returns:
        The method.
    """
    place = GridGradients._fields.index(name)

    def compute(caption: ExplainedCaption) -> Attributions:
        return caption.once(grid_gradients)[place], None

    return compute


def integrated_gradients(caption: ExplainedCaption) -> Attributions:
    """Integrated gradients from the data set's mean annotation vectors, summed over D."""
    along, weights = gauss_legendre(STEPS, caption.annotations)
    baseline = caption.annotation_baseline
    change = caption.annotations - baseline
    points = baseline + along[:, None, None] * change
    maps = _mean(caption, points, weights[:, None, None] * change)
    return maps, score_difference(caption, baseline)


def smoothgrad(caption: ExplainedCaption) -> Attributions:
    """Norm, over the D entries, of the mean gradient at annotation vectors with noise."""
    points = caption.annotations + _noise(caption, SMOOTHGRAD_NOISE)
    total = caption.annotations.new_zeros(caption.words, *caption.annotations.shape)
    for part in torch.split(points, _at_a_time(caption)):
        total += word_gradients(caption.captioner, part, caption.token_ids[: caption.words]).sum(dim=0)
    return (total / SAMPLES).norm(dim=2), None


def gradient_shap(caption: ExplainedCaption) -> Attributions:
    """Gradients at random points between the mean annotation vectors and noisy ones, times what lies between."""
    noisy = caption.annotations + _noise(caption, SHAP_NOISE)
    along = noise(caption, "shap").random(SAMPLES, dtype=np.float64)
    share = torch.from_numpy(along).to(noisy)[:, None, None]
    baseline = caption.annotation_baseline
    points = share * noisy + (1.0 - share) * baseline
    return _mean(caption, points, (noisy - baseline) / SAMPLES), None


def ablation(caption: ExplainedCaption) -> Attributions:
    """What the word's log-probability loses when one cell is replaced by the baseline's cell."""
    cells = len(caption.annotations)
    kept = ~torch.eye(cells + 1, cells, dtype=torch.bool, device=caption.annotations.device)  # the last: all
    scores = _scores(caption, kept)
    return (scores[-1] - scores[:-1]).T, None


def kernel_shap(caption: ExplainedCaption) -> Attributions:
    """Shapley values of the cells, by weighted least squares over coalitions of cells; the others are the baseline's.

    The fit is Captum's: no cell and all cells weigh a million times as much as a drawn coalition.
    """
    coalitions = shap_coalitions(caption)
    device = caption.annotations.device
    scores = _scores(caption, torch.from_numpy(coalitions).to(device)).double().cpu().numpy()
    weights = np.where(np.isin(coalitions.sum(axis=1), (0, coalitions.shape[1])), 1e6, 1.0)[:, None]
    present = coalitions.astype(np.float64)
    present -= (weights * present).sum(axis=0) / weights.sum()
    change = scores - (weights * scores).sum(axis=0) / weights.sum()
    values = np.linalg.lstsq(np.sqrt(weights) * present, np.sqrt(weights) * change, rcond=None)[0]
    return torch.from_numpy(values.T), score_difference(caption, caption.annotation_baseline)


def shap_coalitions(caption: ExplainedCaption) -> Bool[np.ndarray, "coalition cells"]:
    """Which cells take part: all, none, then draws whose size k has probability proportional to 1 / (k (L - k)).

    With that, an unweighted fit is KernelShap's (Lundberg & Lee 2017, arXiv:1705.07874, theorem 2). The words of a
    caption share the draws.
    """
    draws, cells = noise(caption, "coalitions"), len(caption.annotations)
    if cells < 2:
        raise UnexplainableError("a grid of one cell has nothing to share out")
    number = max(COALITIONS, 2 * cells) - 2
    sizes = np.arange(1, cells)
    chances = 1.0 / (sizes * (cells - sizes))
    size = draws.choice(sizes, size=number, p=chances / chances.sum())
    places = draws.random((number, cells)).argsort(axis=1).argsort(axis=1)
    ends = np.array([True, False])[:, None].repeat(cells, axis=1)
    return np.concatenate([ends, places < size[:, None]])


def _noise(caption: ExplainedCaption, deviations: float) -> Float[Tensor, "sample cells dim"]:
    normal = noise(caption, "grid").standard_normal((SAMPLES, *caption.annotations.shape), dtype=np.float32)
    return torch.from_numpy(normal).to(caption.annotations) * (deviations * caption.annotations.std())


def _mean(
    caption: ExplainedCaption,
    points: Float[Tensor, "point cells dim"],
    factors: Float[Tensor, "point cells dim"],
) -> Float[Tensor, "word cells"]:
    """Sums, over points and D, of the words' gradients there times factors."""
    size, words = _at_a_time(caption), caption.token_ids[: caption.words]
    maps = points.new_zeros(len(words), points.shape[1])
    for part, factor in zip(torch.split(points, size), torch.split(factors, size), strict=True):
        maps += torch.einsum("pwld,pld->wl", word_gradients(caption.captioner, part, words), factor)
    return maps


def _at_a_time(caption: ExplainedCaption) -> int:
    """Points whose gradients for all words fit into one batch."""
    return max(1, BATCH_FLOATS // (caption.annotations.numel() * caption.words))


@torch.no_grad()
def _scores(caption: ExplainedCaption, kept: Bool[Tensor, "input cells"]) -> Float[Tensor, "input word"]:
    """Scores of all words where some cells are kept and the others are the baseline's."""
    here, there = (
        caption.captioner.decoder.remember(annotations.unsqueeze(0))
        for annotations in (caption.annotations, caption.annotation_baseline)
    )
    scores = []
    for part in torch.split(kept.unsqueeze(2), max(1, BATCH_FLOATS // caption.annotations.numel())):
        # A cell's projection is the cell's alone: no need to project every mixture.
        memory = Memory(*(torch.where(part, a, b) for a, b in zip(here, there, strict=True)))
        scores.append(word_scores(caption.captioner, memory, caption.token_ids[: caption.words]))
    return torch.cat(scores)
