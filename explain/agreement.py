"""How alike two maps are. A description, not a verdict: two maps can agree and both be wrong.

Every measure reads the positive part of a map, divided by its sum; leading dimensions broadcast. Next to a
value belongs its null, the value that maps of the same word in other images reach: smooth maps agree by
chance.

Cosine and top-k overlap are read as in OpenXAI (Agarwal et al. 2022), the Jensen-Shannon divergence as in
Jain & Wallace (2019) but in base 2 and under a root, which makes it a metric; Spearman's rho is kept for
comparison with the literature (its value is dominated by the order of near-zero cells).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import rel_entr

from explain.ranking import by_cell, rank_cells

TOP_SHARE = 0.1
"""Share of the cells that count as the top ones; rounded to whole cells, at least one."""


class Agreement(NamedTuple):
    """One number per pair of maps; all NaN where a map has no positive value."""

    cosine: Float[np.ndarray, "*pairs"]
    """Cosine of the angle, 0 to 1."""
    root_jsd: Float[np.ndarray, "*pairs"]
    """Square root of the Jensen-Shannon divergence in bits: 0 identical, 1 disjoint."""
    top10_iou: Float[np.ndarray, "*pairs"]
    """Overlap of the top tenths, 0 to 1. A cell tied at the edge belongs to the top with the probability that
    a random choice would give it, and the overlap is sum(min) / sum(max) of these memberships: 1 for equal
    maps even with ties, and the value of chance, 0.05, for a constant map."""
    spearman: Float[np.ndarray, "*pairs"]
    """Correlation of the ranks, -1 to 1, average ranks for ties; undefined if either map is constant."""


def agreement(
    maps: Float[np.ndarray, "*maps cells"], others: Float[np.ndarray, "*others cells"]
) -> Agreement:
    """Compares maps of the same grid.

    Args:
        maps: any values; what is not positive counts as zero.
        others: likewise; its leading dimensions broadcast with those of `maps`.

    Returns:
        Four measures of each pair.
    """
    p, q = positive_shares(maps), positive_shares(others)
    with np.errstate(invalid="ignore"):  # undefined maps are NaN, and 0/0 is where a constant map's ranks end
        mean = (p + q) / 2
        jsd = (rel_entr(p, mean) + rel_entr(q, mean)).sum(axis=-1) / (2 * np.log(2))
        p_top, q_top = _top_membership(p), _top_membership(q)
        overlap = np.minimum(p_top, q_top).sum(axis=-1) / np.maximum(p_top, q_top).sum(axis=-1)
        undefined = np.isnan(jsd)
        return Agreement(
            cosine=_cosine(p, q),
            root_jsd=np.sqrt(np.clip(jsd, 0.0, 1.0)),
            top10_iou=np.where(undefined, np.nan, overlap),
            spearman=np.where(undefined, np.nan, _cosine(_centred_ranks(p), _centred_ranks(q))),
        )


def null_agreement(
    maps: Float[np.ndarray, "*maps cells"], donors: Float[np.ndarray, "*sets donor cells"]
) -> Agreement:
    """The agreement that other images' maps reach: the mean over donors for which it is defined.

    Args:
        maps: the maps that `agreement` judged.
        donors: what they would be compared with if the image did not matter, e.g. the attention maps of words
            of the same class in other images.

    Returns:
        One value per map and measure; undefined without a donor.
    """
    pairs = agreement(maps[..., None, :], donors)
    means = []
    for values in pairs:
        defined = ~np.isnan(values)
        counts = defined.sum(axis=-1)
        sums = np.where(defined, values, 0.0).sum(axis=-1)
        means.append(np.where(counts > 0, sums / np.maximum(counts, 1), np.nan))
    return Agreement(*means)


def positive_shares(maps: Float[np.ndarray, "*maps cells"]) -> Float[np.ndarray, "*maps cells"]:
    """The positive part of each map in float64, divided by its sum; all NaN where no value is positive."""
    positive = np.maximum(maps.astype(np.float64), 0.0)
    with np.errstate(invalid="ignore"):  # 0/0 is NaN: undefined
        return np.asarray(positive / positive.sum(axis=-1, keepdims=True))


def _cosine(
    p: Float[np.ndarray, "*maps cells"], q: Float[np.ndarray, "*others cells"]
) -> Float[np.ndarray, "*pairs"]:
    norms = np.sqrt((p * p).sum(axis=-1)) * np.sqrt((q * q).sum(axis=-1))
    return np.asarray(np.clip((p * q).sum(axis=-1) / norms, -1.0, 1.0))


def _centred_ranks(maps: Float[np.ndarray, "*maps cells"]) -> Float[np.ndarray, "*maps cells"]:
    # Ties share the mean of their ranks, (above + 1 + through) / 2; the mean of all ranks is (cells + 1) / 2.
    ranking = rank_cells(maps)
    return by_cell(ranking, (maps.shape[-1] - ranking.above - ranking.through) / 2)


def _top_membership(maps: Float[np.ndarray, "*maps cells"]) -> Float[np.ndarray, "*maps cells"]:
    ranking = rank_cells(maps)
    top = max(1, round(TOP_SHARE * maps.shape[-1]))
    share = (top - ranking.above) / (ranking.through - ranking.above)
    return by_cell(ranking, np.clip(share, 0.0, 1.0))
