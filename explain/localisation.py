"""How well a map finds the place a word speaks of, measured against a mask at pixel resolution.

A map of cells stands for the picture that nearest-neighbour upsampling makes of it. That picture is never
built: every measure needs only the value of each cell and how many of its pixels lie inside the mask. A map
as fine as the mask is the special case of one pixel per cell. Every measure reads the positive part of the
map.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from explain.ranking import rank_cells


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
    topm_iou: Float[np.ndarray, " map"]
    """Overlap of the n highest pixels with a mask of n pixels, 0 to 1. A pixel tied at the edge belongs to them with
    the probability that a random choice would give it, and the overlap is sum(min) / sum(max) of these memberships
    and the mask: the expected intersection over the expected union. It is rank / (2 - rank), so it orders maps as
    `rank` does and is here for comparison with papers."""
    inside_outside: Float[np.ndarray, " map"]
    """Mean inside / (mean inside + mean outside), 0 to 1 and 0.5 by chance: the bounded form x of the ratio
    r = x / (1 - x) of mean inside to mean outside (Selvaraju et al. 2017, captioning). For one mask it orders maps
    as `mass` does; undefined also if the mask covers the whole picture."""


def area_share(mask: Bool[np.ndarray, "height width"]) -> float:
    """The mask's share of the picture, 0 to 1; `Localisation.lift` can't exceed its inverse."""
    return float(mask.mean())


def localise(
    maps: Float[np.ndarray, "map rows cols"], mask: Bool[np.ndarray, "height width"]
) -> Localisation:
    """Scores maps of one word against the place it speaks of.

    Args:
        maps: on the grid, or as fine as the mask; a signed map is judged by its positive part.
        mask: true where the word is true; of any size.

    Returns:
        Seven measures of each map.
    """
    inside, total = cell_counts(mask, (maps.shape[1], maps.shape[2]))
    values = np.maximum(maps.astype(np.float64), 0.0).reshape(len(maps), len(total))
    if not total.all():  # a grid finer than the mask has cells without a pixel
        seen = total > 0
        values, inside, total = values[:, seen], inside[seen], total[seen]
    hits, pixels = inside.astype(np.float64), total.astype(np.float64)
    n_inside, n_outside = hits.sum(), (pixels - hits).sum()
    with np.errstate(invalid="ignore", divide="ignore"):  # 0/0 is NaN: undefined
        values = values / values.max(axis=1, keepdims=True, initial=0.0)
        # Not a matrix product, which may round a map's sum differently if other maps stand beside it.
        on_place, elsewhere = (np.einsum("mc,c->m", values, each) for each in (hits, pixels - hits))
        mass = on_place / (on_place + elsewhere)
        mean_inside, mean_outside = on_place / n_inside, elsewhere / n_outside
        ordered = _order_pixels(values, hits, pixels)
        rank = ordered.taken / n_inside
        scores = Localisation(
            mass=mass,
            lift=mass / area_share(mask),
            rank=rank,
            auc=ordered.beaten / (n_inside * n_outside),
            pointing=ordered.highest,
            topm_iou=rank / (2 - rank),
            inside_outside=mean_inside / (mean_inside + mean_outside),
        )
    undefined = np.isnan(mass) | (n_inside == 0)
    return Localisation(*(np.where(undefined, np.nan, measure) for measure in scores))


class _Order(NamedTuple):
    """What the order of a map's pixels says of a mask of n pixels."""

    taken: Float[np.ndarray, " map"]
    """How many pixels inside are expected among the n highest."""
    beaten: Float[np.ndarray, " map"]
    """In how many pairs a pixel inside is higher than one outside; half a pair if they are equal."""
    highest: Float[np.ndarray, " map"]
    """Share of pixels inside among those with the highest value."""


def _order_pixels(
    values: Float[np.ndarray, "map cells"],
    inside: Float[np.ndarray, " cells"],
    pixels: Float[np.ndarray, " cells"],
) -> _Order:
    ranking = rank_cells(values)
    n_inside, n_outside = inside.sum(), (pixels - inside).sum()
    # Per group of equal values: its pixels inside and outside, and those that are higher. All are whole numbers.
    hits, tied = (np.add.reduceat(each[ranking.order].ravel(), ranking.first) for each in (inside, pixels))
    misses = tied - hits
    hits_above = np.cumsum(hits) - hits - ranking.owner * n_inside
    misses_above = np.cumsum(misses) - misses - ranking.owner * n_outside
    taken = np.clip((n_inside - hits_above - misses_above) / tied, 0.0, 1.0)
    beaten = n_outside - misses_above - misses / 2
    highest = ranking.above == 0
    maps = len(values)
    return _Order(
        np.bincount(ranking.owner, hits * taken, maps),
        np.bincount(ranking.owner, hits * beaten, maps),
        hits[highest] / tied[highest],
    )


def null_localisation(mask: Bool[np.ndarray, "height width"]) -> Localisation:
    """What an even map scores, the answer of one who knows nothing of the picture.

    Random maps score the same on average, but for `topm_iou` and `inside_outside`: these bend what they measure,
    and the mean over random maps lies a little off (`topm_iou`: above).
    """
    area = area_share(mask)
    if area == 0.0:
        return Localisation(*(np.array([np.nan]) for _ in Localisation._fields))
    half = 0.5 if area < 1.0 else np.nan
    values = (area, 1.0, area, half, area, area / (2 - area), half)
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
    if mask.shape == grid:
        return mask.ravel().astype(np.int64), np.ones(mask.size, np.int64)
    # Row i has its centre at i + 1/2; in whole numbers, so that no rounding moves a pixel.
    down, across = (
        (2 * np.arange(n) + 1) * cells // (2 * n) == np.arange(cells)[:, None]
        for n, cells in zip(mask.shape, grid, strict=True)
    )
    # Whole numbers up to 2^24, a mask of 4096 x 4096, are exact in float32.
    inside = down.astype(np.float32) @ mask.astype(np.float32) @ across.astype(np.float32).T
    total = np.outer(down.sum(axis=1), across.sum(axis=1))
    return inside.astype(np.int64).ravel(), total.ravel()
