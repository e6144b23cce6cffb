"""Whether a word rests on the places that a map marks: what happens to it when they are taken away.

f is the word's probability given the caption's earlier words, which are fixed, and what is left of the image. Cells go
or come in steps of 1, 2, 4, ...: with equal steps most methods saturate at the first. A curve's area is that of the
trapezoids over the number of the step, so it is a mean of f, between 0 and 1, in which the first cells weigh most.

Whatever replaces a cell is itself something that the model was not trained on. `Faithfulness.abpc` is least bothered by
that, since it is in both of its curves.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from explain.hiding import Operator, hider
from explain.methods.base import ExplainedCaption
from explain.perturbing import removal_places, score_kept_cells, score_kept_pixels, top_cells

_Score = Callable[[Bool[np.ndarray, "row cells"], Int[np.ndarray, " row"]], Float[np.ndarray, " row"]]


class Faithfulness(NamedTuple):
    """One number per map; NaN where a map has a NaN. Cells of equal value are ordered at random."""

    deletion: Float[np.ndarray, "method word"]
    """Area under f while the most relevant cells go first (RISE, Petsiuk et al. 2018, arXiv:1806.07421); lower is
    better, 0 to 1."""
    insertion: Float[np.ndarray, "method word"]
    """Area under f while the most relevant cells come first, from nothing; higher is better, 0 to 1."""
    abpc: Float[np.ndarray, "method word"]
    """Area between two curves: with the least relevant cells going first, less `deletion` (Samek et al. 2017,
    arXiv:1509.06321; twice ROAD's combined score but for the steps); higher is better, 0 is chance, -1 to 1."""
    comprehensiveness: Float[np.ndarray, "method word"]
    """What f loses without the top tenth of the cells (ERASER, DeYoung et al. 2020, arXiv:1911.03429, at one share
    instead of five); higher is better, -1 to 1."""
    sufficiency: Float[np.ndarray, "method word"]
    """What f loses with nothing but the top tenth of the cells; lower is better, -1 to 1."""


def steps(cells: int) -> tuple[int, ...]:
    """How many cells have gone at each step between none and all: the powers of two below `cells`."""
    return tuple(2**power for power in range((cells - 1).bit_length()))


def cell_faithfulness(
    caption: ExplainedCaption,
    maps: Float[np.ndarray, "method word cells"],
    words: Sequence[int],
    *,
    seed: int,
) -> Faithfulness:
    """Measures maps by replacing annotation vectors with those of the caption's baseline.

    Args:
        caption: the one that the maps explain.
        maps: of every method; signed values count as they are, so evidence against a word goes last.
        words: the index in the caption of each word that the maps are for.
        seed: of the order of equal values.

    Returns:
        Five measures of each map.
    """
    return _measure(maps, words, seed, lambda kept, asked: score_kept_cells(caption, kept, asked))


def pixel_faithfulness(
    caption: ExplainedCaption,
    maps: Float[np.ndarray, "method word cells"],
    words: Sequence[int],
    *,
    operator: Operator,
    seed: int,
) -> Faithfulness:
    """Measures maps by hiding the pixels of cells; every picture that this makes is encoded.

    Args:
        caption: the one that the maps explain.
        maps: of every method, on the annotation grid.
        words: the index in the caption of each word that the maps are for.
        operator: what hidden pixels show; see `explain.hiding.hider`.
        seed: of the order of equal values, and of the operator.

    Returns:
        Five measures of each map.
    """
    hide = hider(caption.image, caption.captioner.grid, operator, seed=seed)
    return _measure(maps, words, seed, lambda kept, asked: score_kept_pixels(caption, hide, kept, asked))


def _measure(
    maps: Float[np.ndarray, "method word cells"], words: Sequence[int], seed: int, score: _Score
) -> Faithfulness:
    defined = ~np.isnan(maps).any(axis=2)
    places = removal_places(maps, words, seed=seed)[defined]
    cells = maps.shape[2]
    ladder = np.array(steps(cells), dtype=np.int64)
    top = top_cells(cells)
    # From each map: without the first k cells, then with nothing but the first k.
    without, only = np.array([0, *ladder, cells, top]), np.array([*(cells - ladder), *ladder, top])
    kept = np.concatenate(
        [places[:, None] >= without[:, None], places[:, None] < only[:, None]], axis=1
    )  # (map, rows per map, L)
    asked = np.broadcast_to(np.array(words, dtype=np.int64), defined.shape)[defined].repeat(kept.shape[1])
    p = np.exp(score(kept.reshape(-1, cells), asked)).reshape(kept.shape[:2])
    first_gone, (without_top,), last_gone, coming, (only_top,) = (
        part.T for part in np.split(p, np.cumsum([len(ladder) + 2, 1, len(ladder), len(ladder)]), axis=1)
    )
    whole, nothing = first_gone[0], first_gone[-1]
    deletion = _area(first_gone)
    found = (
        deletion,
        _area(np.stack([nothing, *coming, whole])),
        _area(np.stack([whole, *last_gone, nothing])) - deletion,
        whole - without_top,
        whole - only_top,
    )
    measures = np.full((len(found), *defined.shape), np.nan)
    measures[:, defined] = found
    return Faithfulness(*measures)


def _area(curve: Float[np.ndarray, "step map"]) -> Float[np.ndarray, " map"]:
    return np.asarray((curve[1:] + curve[:-1]).mean(axis=0) / 2)
