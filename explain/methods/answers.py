"""Maps made of the places that words speak of: what localisation must say of a perfect answer, and of wrong ones."""

import numpy as np
from jaxtyping import Bool, Float

from explain.localisation import mask_on_grid
from explain.methods.base import Place

ANSWERS = (
    ("oracle", "The word's true place", "the mask itself, at full resolution"),
    ("inverse", "All but the true place", "what the mask leaves out, at full resolution"),
    (
        "other_object",
        "The other thing",
        "mask of the other thing that the caption could speak of, at full resolution",
    ),
    ("distractors", "Distractors", "mask of the things that no caption speaks of, at full resolution"),
    ("oracle_grid", "True place, on the grid", "the mask pooled to the grid"),
    ("inverse_grid", "All but the true place, on the grid", "what the mask leaves out, pooled to the grid"),
    ("other_object_grid", "The other thing, on the grid", "mask of the other thing, pooled to the grid"),
    ("distractors_grid", "Distractors, on the grid", "mask of what no caption speaks of, pooled to the grid"),
)
"""Name, label and source of each; all are controls."""


def answer_masks(place: Place) -> dict[str, Float[np.ndarray, "height width"]]:
    """The maps at the masks' own resolution.

    Args:
        place: where the word is true.

    Returns:
        1 inside, 0 outside, by the names without "_grid"; all NaN where the data set knows no such thing.
    """
    return {
        name: np.full(place.mask.shape, np.nan) if mask is None else mask.astype(np.float64)
        for name, mask in _masks(place).items()
    }


def answer_maps(place: Place, grid: tuple[int, int]) -> dict[str, Float[np.ndarray, "rows cols"]]:
    """The maps on the grid.

    Args:
        place: where the word is true.
        grid: its rows and columns.

    Returns:
        Share of each cell's pixels inside, by the names with "_grid"; all NaN where the data set knows no such thing.
    """
    return {
        f"{name}_grid": np.full(grid, np.nan) if mask is None else mask_on_grid(mask, grid)
        for name, mask in _masks(place).items()
    }


def _masks(place: Place) -> dict[str, Bool[np.ndarray, "height width"] | None]:
    return {
        "oracle": place.mask,
        "inverse": ~place.mask,
        "other_object": place.other,
        "distractors": place.distractors,
    }
