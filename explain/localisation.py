"""How well a map finds the place a word speaks of, measured against a mask at pixel resolution.

A map of cells stands for the picture that nearest-neighbour upsampling makes of it. That picture is never
built: every measure needs only the value of each cell and how many of its pixels lie inside the mask. A map
as fine as the mask is the special case of one pixel per cell. Every measure reads the positive part of the
map.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from explain.ranking import Ranking, rank_cells


class Localisation(NamedTuple):
    """One number per map, higher is better; all NaN for a map without positive values or an empty mask."""

    mass: Float[np.ndarray, " map"]
    """Share of the map inside the mask, 0 to 1: attention correctness (Liu et al. 2017), relevance mass
    accuracy (Arras et al. 2022)."""
    lift: Float[np.ndarray, " map"]
    """`mass` over the mask's share of the picture; 1 by chance, at most 1 / `area_share`."""
    rank: Float[np.ndarray, " map"]
    """Share of the n highest pixels that lie inside a mask of n pixels (relevance rank accuracy, Arras et al.
    2022), ties expected."""
    auc: Float[np.ndarray, " map"]
    """Probability that a pixel inside is higher than one outside, ties counting half; undefined also if the
    mask covers the whole picture."""
    pointing: Float[np.ndarray, " map"]
    """Probability that the highest pixel lies inside (pointing game, Zhang et al. 2016, without its
    tolerance), ties expected."""


def area_share(mask: Bool[np.ndarray, "height width"]) -> float:
    """The mask's share of the picture, 0 to 1; `Localisation.lift` can't exceed its inverse."""
    return float(mask.mean())


def localise(
    maps: Float[np.ndarray, "map rows cols"], mask: Bool[np.ndarray, "height width"]
) -> Localisation:
    """Scores maps of one word against the place it speaks of.

    Args:
        maps: on the grid, or as fine as the mask; a signed map is judged by its positive part.
        mask: true where the word is true.

    Returns:
        Five measures of each map.
    """
    inside, total = cell_counts(mask, (maps.shape[1], maps.shape[2]))
    seen = total > 0  # a grid finer than the mask has cells without a pixel
    inside, outside = inside[seen].astype(np.float64), (total - inside)[seen].astype(np.float64)
    values = np.compress(seen, np.maximum(maps.astype(np.float64), 0.0).reshape(len(maps), -1), axis=1)
    peak = values.max(axis=1, keepdims=True, initial=0.0)
    n_inside, n_outside = inside.sum(), outside.sum()
    with np.errstate(invalid="ignore", divide="ignore"):  # 0/0 is NaN: undefined
        values = values / peak
        mass = (values * inside).sum(axis=1) / (values * (inside + outside)).sum(axis=1)
        # At each place of the ranking: inside and outside pixels with a higher, and with the same value.
        ranking = rank_cells(values)
        hits_above, hits_tied = _above_and_tied(inside, ranking)
        misses_above, misses_tied = _above_and_tied(outside, ranking)
        tied = hits_tied + misses_tied
        # Which share of a tie group is among the n_inside highest pixels; how many outside pixels it beats.
        taken = np.clip((n_inside - hits_above - misses_above) / tied, 0.0, 1.0)
        beaten = n_outside - misses_above - misses_tied / 2
        ordered = inside[ranking.order]
        scores = Localisation(
            mass=mass,
            lift=mass / area_share(mask),
            rank=(ordered * taken).sum(axis=1) / n_inside,
            auc=(ordered * beaten).sum(axis=1) / (n_inside * n_outside),
            pointing=hits_tied[:, 0] / tied[:, 0],
        )
    undefined = np.isnan(mass) | (n_inside == 0)
    return Localisation(*(np.where(undefined, np.nan, measure) for measure in scores))


def null_localisation(mask: Bool[np.ndarray, "height width"]) -> Localisation:
    """What a map that knows nothing of the picture is expected to score."""
    area = area_share(mask)
    values = (area, 1.0, area, 0.5 if area < 1.0 else np.nan, area) if area > 0.0 else (np.nan,) * 5
    return Localisation(*(np.array([value]) for value in values))


def ceiling_localisation(mask: Bool[np.ndarray, "height width"], grid: tuple[int, int]) -> Localisation:
    """What the mask itself scores once it is pooled to a grid: the ceiling of this resolution.

    Not a bound: a map of one cell that lies wholly inside the mask has mass 1.
    """
    return localise(mask_on_grid(mask, grid)[None], mask)


def mask_on_grid(
    mask: Bool[np.ndarray, "height width"], grid: tuple[int, int]
) -> Float[np.ndarray, "rows cols"]:
    """Share of each cell's pixels that lie inside the mask, 0 to 1; 0 for a cell without pixels."""
    inside, total = cell_counts(mask, grid)
    return np.asarray(inside / np.maximum(total, 1)).reshape(grid)


def cell_counts(
    mask: Bool[np.ndarray, "height width"], grid: tuple[int, int]
) -> tuple[Int[np.ndarray, " cells"], Int[np.ndarray, " cells"]]:
    """Pixels of each cell inside the mask, and all of them; a pixel belongs where its centre lies."""
    # Row i has its centre at i + 1/2; in whole numbers, so that no rounding moves a pixel.
    row, col = ((2 * np.arange(n) + 1) * cells // (2 * n) for n, cells in zip(mask.shape, grid, strict=True))
    cell = (row[:, None] * grid[1] + col[None, :]).ravel()
    count = grid[0] * grid[1]
    return np.bincount(cell[mask.ravel()], minlength=count), np.bincount(cell, minlength=count)


def _above_and_tied(
    counts: Float[np.ndarray, " cells"], ranking: Ranking
) -> tuple[Float[np.ndarray, "map cells"], Float[np.ndarray, "map cells"]]:
    """Sums of the counts over the cells that rank above each place, and over those tied with it."""
    sums = np.cumsum(counts[ranking.order], axis=1)
    sums = np.concatenate([np.zeros((len(sums), 1)), sums], axis=1)
    above = np.take_along_axis(sums, ranking.above, axis=1)
    return above, np.take_along_axis(sums, ranking.through, axis=1) - above
