"""Ranking the cells of a map, with ties kept together."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped


class Ranking(NamedTuple):
    """The cells of each map from the highest value to the lowest, in groups of equal values."""

    order: Int[np.ndarray, "*maps cells"]
    """Which cell stands at each place."""
    above: Int[np.ndarray, "*maps cells"]
    """At each place: how many cells have a higher value."""
    through: Int[np.ndarray, "*maps cells"]
    """At each place: how many cells have a higher or an equal value."""


def rank_cells(maps: Float[np.ndarray, "*maps cells"]) -> Ranking:
    """Ranks the cells of each map."""
    order = np.argsort(-maps, axis=-1, kind="stable")
    values = np.take_along_axis(maps, order, axis=-1)
    cells = maps.shape[-1]
    places = np.arange(cells)
    rises = values[..., 1:] != values[..., :-1]
    edge = np.ones((*maps.shape[:-1], 1), dtype=bool)
    above = np.maximum.accumulate(np.where(np.concatenate([edge, rises], axis=-1), places, 0), axis=-1)
    ends = np.where(np.concatenate([rises, edge], axis=-1), places + 1, cells)
    through = np.minimum.accumulate(ends[..., ::-1], axis=-1)[..., ::-1]
    return Ranking(order, above, through)


def by_cell(
    ranking: Ranking, at_place: Shaped[np.ndarray, "*maps cells"]
) -> Shaped[np.ndarray, "*maps cells"]:
    """Brings numbers from the ranking's order back to the order of the cells."""
    result = np.empty_like(at_place)
    np.put_along_axis(result, ranking.order, at_place, axis=-1)
    return result
