"""How alike two maps are. A description, not a verdict: two maps can agree and both be wrong.

Every measure reads the positive part of a map, divided by its sum; leading dimensions broadcast. Next to a
value belong its nulls, the values that maps reach which can't know of each other: smooth maps agree by chance.
Between them lies the share of the way from chance to perfect agreement, (value - null) / (best - null).

Cosine and top-k overlap are read as in OpenXAI (Agarwal et al. 2022), the Jensen-Shannon divergence as in
Jain & Wallace (2019) but in base 2 and under a root, which makes it a metric; Pearson's correlation is the CC
of saliency benchmarks (Bylinskii et al. 2018); Spearman's rho is kept for comparison with the literature (its
value is dominated by the order of near-zero cells).
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from explain.nulls import all_offsets, shift_indices
from explain.ranking import centred_ranks, deviations, positive_shares, rank_cells, top_membership, unit

_TINY = 1e-300
"""Added to every share before its logarithm: p ln p of an empty cell is then 0, and no other cell changes."""


class Agreement(NamedTuple):
    """One number per pair of maps; all NaN where a map has no positive value."""

    cosine: Float[np.ndarray, "*pairs"]
    """Cosine of the angle, 0 to 1."""
    root_jsd: Float[np.ndarray, "*pairs"]
    """Square root of the Jensen-Shannon divergence in bits: 0 identical, 1 disjoint. Below 1e-7 it is rounding."""
    top10_iou: Float[np.ndarray, "*pairs"]
    """Overlap of the top tenths, 0 to 1. A cell tied at the edge belongs to the top with the probability that
    a random choice would give it, and the overlap is sum(min) / sum(max) of these memberships: 1 for equal
    maps even with ties, and the value of chance, 0.05, for a constant map."""
    pearson: Float[np.ndarray, "*pairs"]
    """Correlation of the shares, -1 to 1; undefined if either map is constant."""
    spearman: Float[np.ndarray, "*pairs"]
    """Correlation of the ranks, -1 to 1, average ranks for ties; undefined if either map is constant."""


BEST = {"cosine": 1.0, "root_jsd": 0.0, "top10_iou": 1.0, "pearson": 1.0, "spearman": 1.0}
"""What each measure takes for equal maps."""


class AgreementWithNulls(NamedTuple):
    """Agreement, and what it is by chance in three senses; one number per method and word."""

    observed: Agreement
    """Of each map with attention for its word."""
    null: Agreement
    """Mean over attention for words of the same class in other images."""
    null_word: Agreement
    """Mean over attention for the other words of the same caption."""
    null_shift: Agreement
    """Mean over the same attention, rolled around the edges of the picture."""


def agreement(
    maps: Float[np.ndarray, "*maps cells"], others: Float[np.ndarray, "*others cells"]
) -> Agreement:
    """Compares maps of the same grid.

    Args:
        maps: any values; what is not positive counts as zero.
        others: likewise; its leading dimensions broadcast with those of `maps`.

    Returns:
        Five measures of each pair.
    """
    return _compare(_read(maps), _read(others))


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
    return _mean(_compare(_read(maps[..., None, :]), _read(donors)))


def agreement_with_nulls(
    maps: Float[np.ndarray, "method word cells"],
    alphas: Float[np.ndarray, "word cells"],
    donors: Float[np.ndarray, "word donor cells"],
    *,
    grid: tuple[int, int],
    shifts: int,
    seed: int,
) -> AgreementWithNulls:
    """Compares the maps of every method with attention, and with what attention could as well have been.

    Args:
        maps: any values; what is not positive counts as zero.
        alphas: where the model looked for each word.
        donors: where it looked for words of the same class in other images; NaN where there are fewer.
        grid: rows and columns.
        shifts: by how many random offsets attention is rolled, each word's drawn anew and all different; as many
            as the grid has, if it has fewer. All methods meet the same ones.
        seed: of the offsets; not negative.

    Returns:
        One value per method, word and measure. A null that nothing is known of is NaN: without donors, for the
        only word of a caption, without shifts.
    """
    mine = _read(maps[:, :, None])
    in_caption = _compare(mine, _read(alphas))
    own = np.eye(len(alphas), dtype=bool)
    rolled = np.take_along_axis(alphas[:, None], _random_shifts(len(alphas), grid, shifts, seed), axis=2)
    return AgreementWithNulls(
        observed=Agreement(*(np.diagonal(values, axis1=1, axis2=2) for values in in_caption)),
        null=_mean(_compare(mine, _read(donors))),
        null_word=_mean(Agreement(*(np.where(own, np.nan, values) for values in in_caption))),
        null_shift=_mean(_compare(mine, _read(rolled))),
    )


class _Reading(NamedTuple):
    """All that the measures need to know of a map; made once, however many maps it meets."""

    shares: Float[np.ndarray, "*maps cells"]
    neg_entropy: Float[np.ndarray, "*maps"]
    """Sum of p ln p."""
    direction: Float[np.ndarray, "*maps cells"]
    """The shares as a vector of length 1."""
    deviation: Float[np.ndarray, "*maps cells"]
    """Shares less their mean, of length 1; NaN for a constant map."""
    ranks: Float[np.ndarray, "*maps cells"]
    """Ranks less their mean, of length 1; NaN for a constant map."""
    top: Float[np.ndarray, "*maps cells"]
    """Membership of the top tenth, 0 to 1."""


def _read(maps: Float[np.ndarray, "*maps cells"]) -> _Reading:
    shares = positive_shares(maps)
    ranking = rank_cells(shares.reshape(math.prod(shares.shape[:-1]), shares.shape[-1]))
    ranks = centred_ranks(ranking).reshape(shares.shape)
    undefined = np.isnan(shares)
    return _Reading(
        shares=shares,
        neg_entropy=_neg_entropy(shares),
        direction=unit(shares),
        deviation=unit(deviations(shares)),
        ranks=unit(np.where(undefined, np.nan, ranks)),
        top=np.where(undefined, np.nan, top_membership(ranking).reshape(shares.shape)),
    )


def _compare(p: _Reading, q: _Reading) -> Agreement:
    # Jensen-Shannon divergence: entropy of the mean less the mean of the entropies.
    of_mean = _neg_entropy((p.shares + q.shares) / 2)
    jsd = ((p.neg_entropy + q.neg_entropy) / 2 - of_mean) / math.log(2)
    common = np.minimum(p.top, q.top).sum(axis=-1)
    joined = p.top.sum(axis=-1) + q.top.sum(axis=-1) - common  # max(a, b) = a + b - min(a, b)
    return Agreement(
        cosine=_scalar_product(p.direction, q.direction),
        root_jsd=np.sqrt(np.clip(jsd, 0.0, 1.0)),
        top10_iou=common / joined,
        pearson=_scalar_product(p.deviation, q.deviation),
        spearman=_scalar_product(p.ranks, q.ranks),
    )


def _neg_entropy(shares: Float[np.ndarray, "*maps cells"]) -> Float[np.ndarray, "*maps"]:
    filled = shares + _TINY
    logs = np.log(filled)
    logs *= filled
    return np.asarray(logs.sum(axis=-1))


def _scalar_product(
    p: Float[np.ndarray, "*maps cells"], q: Float[np.ndarray, "*others cells"]
) -> Float[np.ndarray, "*pairs"]:
    return np.asarray(np.clip(np.einsum("...c,...c->...", p, q), -1.0, 1.0))


def _mean(pairs: Agreement) -> Agreement:
    """Means over the last axis of what is defined there."""
    means = []
    for values in pairs:
        defined = ~np.isnan(values)
        counts = defined.sum(axis=-1)
        sums = np.where(defined, values, 0.0).sum(axis=-1)
        means.append(np.where(counts > 0, sums / np.maximum(counts, 1), np.nan))
    return Agreement(*means)


def _random_shifts(
    words: int, grid: tuple[int, int], shifts: int, seed: int
) -> Int[np.ndarray, "word shift cells"]:
    offsets = all_offsets(grid)
    order = np.random.default_rng(seed).random((words, len(offsets))).argsort(axis=1)
    return shift_indices(offsets[order[:, :shifts]], grid)
