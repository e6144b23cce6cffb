"""What agreement is worth: how often maps that have nothing to do with each other agree as well.

Neighbouring cells of a map are alike, so that two independent maps correlate far more often than independent
numbers do: a p-value that counts cells as observations calls a third of all pairs or more significant at the 5 %
level. Rolling one map around the edges of the picture, as on a torus, keeps
its values and almost all of their neighbourhoods, and breaks only its relation to the other map.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from explain.ranking import centred_ranks, deviations, positive_shares, rank_cells, unit

_ROUNDING = 1e-12
"""Shifts whose scalar product falls short of the observed one by less, relative to both lengths, count as ties."""


def shift_indices(
    offsets: Int[np.ndarray, "*offsets 2"], grid: tuple[int, int]
) -> Int[np.ndarray, "*offsets cells"]:
    """For each shift, from which cell every cell takes its value.

    Args:
        offsets: how many rows down and how many columns to the right everything moves; what leaves the grid
            comes in again on the other side.
        grid: rows and columns.

    Returns:
        Indices into the flattened grid.
    """
    rows, cols = grid
    row = (np.arange(rows) - offsets[..., 0, None]) % rows
    col = (np.arange(cols) - offsets[..., 1, None]) % cols
    return np.asarray(row[..., :, None] * cols + col[..., None, :]).reshape(*offsets.shape[:-1], rows * cols)


def shifted(
    maps: Float[np.ndarray, "*maps cells"], offsets: Int[np.ndarray, "shift 2"], grid: tuple[int, int]
) -> Float[np.ndarray, "*maps shift cells"]:
    """Maps rolled around the edges of the picture, as `shift_indices` says; every map by every offset."""
    return np.asarray(maps[..., shift_indices(offsets, grid)])


def all_offsets(grid: tuple[int, int]) -> Int[np.ndarray, "shift 2"]:
    """Every shift of a grid that moves anything, one less than there are cells."""
    return np.stack(np.divmod(np.arange(1, grid[0] * grid[1]), grid[1]), axis=1)


def toroidal_p_value(
    maps: Float[np.ndarray, "*maps cells"],
    others: Float[np.ndarray, "*maps cells"],
    grid: tuple[int, int],
    *,
    measure: Literal["cosine", "pearson", "spearman"] = "cosine",
) -> Float[np.ndarray, "*maps"]:
    """How rarely two unrelated maps would agree as well as these do (Lotwick & Silverman 1982).

    One map is held, the other rolled to every place: p = (1 + number of shifts that agree at least as well) /
    (1 + number of shifts). Cosine and Pearson's correlation of the positive shares put the shifts in the same
    order and have one p-value.

    The test presumes that no part of the picture is preferred. Two maps that both prefer its centre, or its edges,
    agree for that reason, and are called alike. As a picture has edges and a torus has none, the level is held
    nearly, not exactly: independent smooth maps on 14 x 14 fall under p = 0.05 in 5 to 8 % of cases (smoothed by
    1 to 2 cells), where a p-value that counts cells does in 29 to 65 %.

    Args:
        maps: any values; what is not positive counts as zero.
        others: what each is compared with.
        grid: rows and columns.
        measure: of agreement, as in `explain.agreement.Agreement`.

    Returns:
        One value per pair, at least 1 / cells; NaN for a map without positive values, and for a constant one
        where a correlation is asked. No map's p-value says anything alone: test the distribution over images.
    """
    p, q = (_as_vectors(each, measure).reshape(*each.shape[:-1], *grid) for each in (maps, others))
    # Every scalar product of a map with a shift of the other at once: a circular cross-correlation.
    products = np.fft.irfft2(np.fft.rfft2(p) * np.conj(np.fft.rfft2(q)), s=grid)
    products = products.reshape(*maps.shape[:-1], -1)
    with np.errstate(invalid="ignore"):
        agrees = products >= products[..., :1] - _ROUNDING
    return np.where(np.isnan(products[..., 0]), np.nan, agrees.mean(axis=-1))


def _as_vectors(maps: Float[np.ndarray, "*maps cells"], measure: str) -> Float[np.ndarray, "*maps cells"]:
    """Vectors of length 1 whose scalar product is the measure."""
    shares = positive_shares(maps)
    if measure == "cosine":
        return unit(shares)
    if measure == "pearson":
        return unit(deviations(shares))
    ranks = centred_ranks(rank_cells(shares.reshape(-1, shares.shape[-1]))).reshape(shares.shape)
    return unit(np.where(np.isnan(shares), np.nan, ranks))
