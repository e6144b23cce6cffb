"""Whether a map says what small and large changes do, and whether it stays what it is: infidelity and sensitivity.

Both are of Yeh et al. 2019 (arXiv:1901.09392), taken at the annotation vectors. Neither is for ranking methods:
infidelity hardly tells gradients from noise here, and a map that never changes has the best sensitivity.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from explain.methods.base import ExplainedCaption
from explain.perturbing import score_kept_cells, top_cells

_SWAPS_STREAM, _NOISE_STREAM = 3, 4


class Swaps(NamedTuple):
    """What replacing random cells does to words."""

    swapped: Bool[np.ndarray, "draw cells"]
    """The cells that have the baseline's annotation vectors, a tenth of them in each draw."""
    change: Float[np.ndarray, "draw word"]
    """f(x) - f(x - I) in nats."""


def draw_swaps(caption: ExplainedCaption, words: Sequence[int], *, draws: int, seed: int) -> Swaps:
    """Replaces a random tenth of the cells, again and again; every draw is decoded once for all words.

    Args:
        caption: its `annotation_baseline` replaces cells.
        words: indices of the words in the caption.
        draws: how often, at least once.
        seed: of the draws.

    Returns:
        What was replaced, and what it did.
    """
    cells = len(caption.annotations)
    random = np.random.Generator(np.random.PCG64([seed, _SWAPS_STREAM])).random((draws, cells))
    swapped = random.argsort(axis=1).argsort(axis=1) < top_cells(cells)
    kept = np.concatenate([np.ones((1, cells), dtype=bool), ~swapped])
    asked = np.tile(np.array(words, dtype=np.int64), len(kept))
    scores = score_kept_cells(caption, kept.repeat(len(words), axis=0), asked).reshape(len(kept), len(words))
    return Swaps(swapped, scores[0] - scores[1:])


def infidelity(
    caption: ExplainedCaption,
    maps: Float[np.ndarray, "*methods word cells"],
    words: Sequence[int],
    *,
    multiply_by_inputs: bool,
    draws: int,
    seed: int,
) -> Float[np.ndarray, "*methods word"]:
    """Normalised infidelity: mean over draws of (b I . map - (f(x) - f(x - I)))^2, the least that any factor b leaves.

    That is what `captum.metrics.infidelity` computes with `normalize=True` for the perturbations of `draw_swaps`: the
    paper's infidelity with its optimal scaling. A map has one number per cell, so I has one, too.

    Args:
        caption: the one that the maps explain.
        maps: signed.
        words: the index in the caption of each word that the maps are for.
        multiply_by_inputs: whether a map says what each cell contributes, as integrated gradients do; then I is 1 for
            replaced cells. If not, it says what a change of unit length does, as a gradient's norm does; then I is the
            Euclidean length of the change.
        draws: how many perturbations.
        seed: of the perturbations.

    Returns:
        Nats squared, lower is better; 0 for a map that foretells every change, the mean square of the changes for a map
        of zeros. NaN where a map has a NaN.
    """
    swaps = draw_swaps(caption, words, draws=draws, seed=seed)
    size = swaps.swapped.astype(np.float64)
    if not multiply_by_inputs:
        size *= (
            (caption.annotations.detach() - caption.annotation_baseline).double().norm(dim=1).cpu().numpy()
        )
    foretold = maps.astype(np.float64) @ size.T  # (..., word, draw)
    square = (foretold**2).sum(axis=-1, keepdims=True)
    factor = (foretold * swaps.change.T).sum(axis=-1, keepdims=True) / np.where(square == 0.0, 1.0, square)
    return np.asarray(((factor * foretold - swaps.change.T) ** 2).mean(axis=-1))


def max_sensitivity(
    caption: ExplainedCaption,
    explain: Callable[[ExplainedCaption], Float[np.ndarray, "word cells"]],
    *,
    radius: float,
    draws: int,
    seed: int,
) -> Float[np.ndarray, " word"]:
    """Largest change of a map, as a share of its length, when the annotation vectors change a little.

    Every entry of every annotation vector is moved by an independent uniform number; the decoder then looks again, so
    that attention changes, too. The picture stays, and with it whatever is computed from pixels. Divided by the map's
    length as in `captum.metrics.sensitivity_max`; the paper's is not.

    Args:
        caption: the one to explain.
        explain: from a caption to a map of each of its words; deterministic, or the change is also that of chance.
        radius: the largest move, in standard deviations of all entries of the caption's annotation vectors.
        draws: how many times they are moved.
        seed: of the moves.

    Returns:
        max ||map - moved map|| / ||map||, Euclidean; 0 or more, lower is steadier. NaN for maps of zeros, and where a
        map has a NaN.
    """
    if caption.words == 0:
        return np.zeros(0)
    maps = explain(caption).astype(np.float64)
    length = np.linalg.norm(maps, axis=1)
    furthest = np.zeros(len(maps))
    for noise in draw_noise(caption, radius=radius, draws=draws, seed=seed):
        moved = explain(_look_again(caption, caption.annotations.detach() + noise)).astype(np.float64)
        furthest = np.maximum(furthest, np.linalg.norm(moved - maps, axis=1))
    return furthest / np.where(length == 0.0, np.nan, length)


def draw_noise(
    caption: ExplainedCaption, *, radius: float, draws: int, seed: int
) -> Float[Tensor, "draw cells dim"]:
    """By how much `max_sensitivity` moves the annotation vectors."""
    annotations = caption.annotations.detach()
    rng = np.random.Generator(np.random.PCG64([seed, _NOISE_STREAM]))
    noise = torch.from_numpy(rng.uniform(-1.0, 1.0, (draws, *annotations.shape))).to(annotations)
    return noise * (radius * annotations.std())


@torch.no_grad()
def _look_again(caption: ExplainedCaption, annotations: Float[Tensor, "cells dim"]) -> ExplainedCaption:
    """The same caption of other annotation vectors."""
    captioner = caption.captioner
    said = torch.tensor([caption.token_ids[: caption.words]], device=annotations.device)
    alphas = captioner.decoder(annotations.unsqueeze(0), said, captioner.vocabulary.start).alphas[0]
    return replace(caption, annotations=annotations, alphas=alphas.double().cpu().numpy())
