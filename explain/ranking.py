"""Reading a map: its positive part, and the ranks of its cells with ties kept together."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

TOP_SHARE = 0.1
"""Share of the cells that count as the top ones; rounded to whole cells, at least one."""


class Ranking(NamedTuple):
    """The cells of each map from the highest value to the lowest, in groups of equal values.

    Groups stand in the order of the maps, and within a map from the highest value to the lowest.
    """

    order: Int[np.ndarray, "map cells"]
    """Which cell stands at each place. Cells of one group stand in no particular order."""
    owner: Int[np.ndarray, " group"]
    """Which map the group is part of."""
    above: Int[np.ndarray, " group"]
    """How many cells of its map have a higher value."""
    size: Int[np.ndarray, " group"]
    """How many cells share the value."""

    @property
    def first(self) -> Int[np.ndarray, " group"]:
        """Where in `order`, flattened, the group begins."""
        return np.asarray(self.owner * self.order.shape[1] + self.above)


def rank_cells(maps: Float[np.ndarray, "map cells"]) -> Ranking:
    """Ranks the cells of each map; NaN ranks last, each for itself."""
    order = np.argsort(-maps, axis=1)
    values = np.take_along_axis(maps, order, axis=1)
    begins = np.ones(maps.shape, dtype=bool)
    begins[:, 1:] = values[:, 1:] != values[:, :-1]
    first = np.flatnonzero(begins)
    owner, above = np.divmod(first, maps.shape[1])
    return Ranking(order, owner, above, np.diff(first, append=maps.size))


def by_cell(ranking: Ranking, of_group: Shaped[np.ndarray, " group"]) -> Shaped[np.ndarray, "map cells"]:
    """Brings numbers from the groups back to the cells."""
    result = np.empty(ranking.order.shape, of_group.dtype)
    at_place = np.repeat(of_group, ranking.size).reshape(result.shape)
    np.put_along_axis(result, ranking.order, at_place, axis=1)
    return result


def centred_ranks(ranking: Ranking) -> Float[np.ndarray, "map cells"]:
    """Ranks, higher for higher values and equal for ties, with a mean of 0."""
    # Ties share the mean of their ranks, above + (1 + size) / 2; the mean of all ranks is (cells + 1) / 2.
    return by_cell(ranking, (ranking.order.shape[1] - ranking.size) / 2 - ranking.above)


def top_membership(ranking: Ranking) -> Float[np.ndarray, "map cells"]:
    """The probability of each cell to be among the `TOP_SHARE` highest if ties are broken at random."""
    top = max(1, round(TOP_SHARE * ranking.order.shape[1]))
    return by_cell(ranking, np.clip((top - ranking.above) / ranking.size, 0.0, 1.0))


def positive_shares(maps: Float[np.ndarray, "*maps cells"]) -> Float[np.ndarray, "*maps cells"]:
    """The positive part of each map in float64, divided by its sum; all NaN where no value is positive."""
    positive = np.maximum(maps.astype(np.float64), 0.0)
    with np.errstate(invalid="ignore"):  # 0/0 is NaN: undefined
        return np.asarray(positive / positive.sum(axis=-1, keepdims=True))


def deviations(maps: Float[np.ndarray, "*maps cells"]) -> Float[np.ndarray, "*maps cells"]:
    """Each map less its mean; exactly 0 for a constant map, whose mean by rounding need not be its value."""
    constant = np.ptp(maps, axis=-1, keepdims=True) == 0.0
    return np.where(constant, 0.0, maps - maps.mean(axis=-1, keepdims=True))


def unit(maps: Float[np.ndarray, "*maps cells"]) -> Float[np.ndarray, "*maps cells"]:
    """Each map as a vector of length 1; NaN for one of length 0."""
    with np.errstate(invalid="ignore"):
        return np.asarray(maps / np.linalg.norm(maps, axis=-1, keepdims=True))
