"""Outlines as COCO's instances hold them: polygons, run lengths, or a box; checked before anything is drawn.

Whatever is drawn takes time and memory in proportion to the picture, never to a number in the file.
"""

import reprlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from pycocotools import mask as coco_mask  # type: ignore[import-untyped]

from bench.data.captions_file import json_field
from bench.errors import DataError
from models.preprocessing import MAX_PIXELS

MAX_LENGTH = 1_000_000
"""Longest polygon, in pixels along its sides: COCO's program takes 80 bytes for each."""


class Outline(NamedTuple):
    """Where one thing is."""

    polygons: tuple[Float[np.ndarray, " coordinates"], ...]
    """x and y in turn, in pixels from the top left corner, within the picture."""
    runs: Int[np.ndarray, " runs"] | None = None
    """Lengths of runs outside and inside, in turn, down each column; their sum is the picture's. None for polygons."""
    is_box: bool = False
    """Whether a box stands for the thing."""


def read_outline(annotation: dict[str, object], size: tuple[int, int], where: str) -> Outline:
    """Reads the outline of one annotation.

    Args:
        annotation: with a "segmentation", or with a "bbox" (left, top, width, height) if it has none.
        size: the picture's width and height.
        where: the annotation's place, for messages.

    Returns:
        The outline; polygons that leave the picture have their corners moved to its edge.

    Raises:
        DataError: if it is of another form, or not of a picture of this size.
    """
    if size[0] * size[1] > MAX_PIXELS:
        raise DataError(
            f"{where}: its picture has {size[0]} x {size[1]} pixels; expected up to {MAX_PIXELS:,}"
        )
    segmentation = annotation.get("segmentation")
    if not segmentation:
        box = _numbers(json_field(annotation, "bbox", list, where), where, "a bbox")
        if len(box) != 4:
            raise DataError(f"{where}: expected a bbox of four numbers, found {reprlib.repr(box)}")
        left, top, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
        corners = (left, top, left, bottom, right, bottom, right, top)
        return Outline((_polygon(corners, size, where),), is_box=True)
    match segmentation:
        case list(parts):
            polygons = [_numbers(part, where, "a polygon") for part in parts]
            return Outline(tuple(_polygon(polygon, size, where) for polygon in polygons))
        case {"size": [height, width], "counts": str() | list() as counts}:
            runs = _unpack(counts, where) if isinstance(counts, str) else counts
            if (width, height) != size or not _fills(runs, size[0] * size[1]):
                found = f"the size {height!r:.20} x {width!r:.20} and {len(runs):,} runs"
                raise DataError(
                    f"{where}: its segmentation has {found}; expected {size[1]} x {size[0]}, with runs that fill it"
                )
            return Outline((), np.array(runs, dtype=np.int64))
    raise DataError(
        f"{where}: expected a segmentation of polygons or run lengths, found {reprlib.repr(segmentation)}"
    )


def draw(outlines: Sequence[Outline], size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """The pixels inside any of the outlines, polygons as COCO's own program fills them.

    Args:
        outlines: of one picture.
        size: its width and height, for which they were read.

    Returns:
        A mask; it can be empty.
    """
    mask = np.zeros((size[1], size[0]), dtype=bool)
    for outline in outlines:
        if outline.runs is not None:
            mask |= _filled(outline.runs, size)
        for polygon in outline.polygons:
            (packed,) = coco_mask.frPyObjects([polygon.tolist()], size[1], size[0])
            mask |= _filled(_unpack(packed["counts"].decode(), "a polygon"), size)
    return mask


def _filled(
    runs: Sequence[int] | Int[np.ndarray, " runs"], size: tuple[int, int]
) -> Bool[np.ndarray, "height width"]:
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(size).T


def _numbers(values: object, where: str, what: str) -> list[float]:
    """Coordinates in pairs; what is farther out than a billion is no place in a picture."""
    if not isinstance(values, list) or not all(
        type(value) in (int, float) and -1e9 < value < 1e9 for value in values
    ):
        raise DataError(f"{where}: expected {what} of finite numbers, found {reprlib.repr(values)}")
    return values


def _polygon(
    numbers: Sequence[float], size: tuple[int, int], where: str
) -> Float[np.ndarray, " coordinates"]:
    if len(numbers) < 6 or len(numbers) % 2:
        raise DataError(f"{where}: a polygon has {len(numbers)} numbers; expected three pairs or more")
    corners = np.array(numbers, dtype=np.float64).reshape(-1, 2).clip(0, size)
    length = np.abs(np.diff(corners, axis=0, append=corners[:1])).max(axis=1).sum()
    if length > MAX_LENGTH:
        raise DataError(f"{where}: its polygon is {length:,.0f} pixels long; expected up to {MAX_LENGTH:,}")
    return corners.ravel()


def _fills(runs: Sequence[Any], pixels: int) -> bool:
    return all(type(run) is int and 0 <= run <= pixels for run in runs) and sum(runs) == pixels


def _unpack(text: str, where: str) -> list[int]:
    """Run lengths from COCO's compressed text.

    Each character holds six bits from "0" on: five of a signed number, the low ones first, and whether more follow.
    From the fourth number on, each is the change since the last but one (cocoapi, maskApi.c).
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise DataError(f"{where}: its segmentation's counts are damaged at {character!r}")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits >> 4 & 1) << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise DataError(f"{where}: its segmentation's counts are cut off")
    return runs
