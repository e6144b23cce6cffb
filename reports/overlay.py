"""Maps as colours, for pictures drawn here and for canvases that the reader's browser draws: one scale for both."""

import base64
import io

import numpy as np
import seaborn as sns
from jaxtyping import Float, Int8, UInt8
from PIL import Image

STEPS = 127
"""Levels of a map's strength, on either side of 0."""


def quantised(maps: Float[np.ndarray, "*maps rows columns"]) -> Int8[np.ndarray, "*maps rows columns"]:
    """Each map as whole numbers from -127 to 127, relative to its strongest cell; what is not finite counts as 0."""
    values = np.nan_to_num(maps.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    largest = np.abs(values).max(axis=(-2, -1), keepdims=True)
    levels: Int8[np.ndarray, "*maps rows columns"] = np.rint(
        STEPS * np.divide(values, largest, out=np.zeros_like(values), where=largest > 0)
    ).astype(np.int8)
    return levels


def colours() -> UInt8[np.ndarray, "255 4"]:
    """The colour, red green blue and opacity, of every level from -127 to 127.

    Cells glow from clear through magenta and orange to yellow; those below 0, which speak against the word, are
    teal. The more a cell says, the less of the picture shows through it.
    """
    strength = np.abs(np.arange(-STEPS, STEPS + 1)) / STEPS
    warm, cool = (sns.color_palette(palette, as_cmap=True) for palette in ("inferno", "mako"))
    speaks_against = (np.arange(-STEPS, STEPS + 1) < 0)[:, None]
    rgba = np.where(speaks_against, cool(0.5 + 0 * strength), warm(0.45 + 0.4 * strength))
    # Below 1, so that what is half as strong is still seen beside a single bright cell.
    rgba[:, 3] = 0.9 * strength**0.75
    table: UInt8[np.ndarray, "255 4"] = (rgba * 255).round().astype(np.uint8)
    return table


def overlay_png(cells: Float[np.ndarray, "rows columns"]) -> str:
    """A map as a PNG with one pixel per cell, to be laid over its picture by the browser.

    Args:
        cells: any scale.

    Returns:
        A data URI.
    """
    png = io.BytesIO()
    Image.fromarray(colours()[quantised(cells).astype(np.int16) + STEPS]).save(png, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
