"""Captions word by word: a strip of small maps for each, which any page shows without a script."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from reports import wording
from reports.explanations import LAGS, PATH_MAPS
from reports.overlay import overlay_png
from reports.records import CaptionRow, MethodInfo
from reports.store import RunStore, map_key

SHOWN_WORDS = 40
"""Words of one caption in a strip."""
_PREFERRED = {"grid": "grid_integrated_gradients", "pixels": "pixel_saliency"}


class Tile(NamedTuple):
    """One word's map."""

    source: str
    """A data URI."""
    note: str
    """Whether its brightest cell hits, and its mass there; empty where the word has no place."""


class Strip(NamedTuple):
    """One caption, word by word."""

    row: CaptionRow
    words: tuple[tuple[str, str], ...]
    """Word and probability; the probability is empty where it is not known."""
    maps: Mapping[str, Sequence[Tile]]
    """Method's label -> one tile per word."""
    others: tuple[CaptionRow, ...]
    """The captions of the other beam sizes."""


def strips(
    store: RunStore,
    image_ids: Sequence[str],
    captions: Mapping[tuple[str, int], CaptionRow],
    methods: Sequence[MethodInfo],
    *,
    beam_size: int,
    rows: pd.DataFrame,
) -> list[Strip]:
    """The strips of some images, in their order.

    Args:
        store: the run, for its maps.
        image_ids: images that have a caption of that beam size.
        captions: by image id and beam size.
        methods: the rows of a strip, as `shown_methods` chooses them.
        beam_size: the one that was explained.
        rows: attributions of that beam size.

    Returns:
        One strip per image.
    """
    maps = store.read_maps(
        map_key(image_id, beam_size, method.name) for image_id in image_ids for method in methods
    )
    notes = _notes(rows[rows["image_id"].isin(image_ids)])
    others = sorted({size for _, size in captions} - {beam_size})
    found = []
    for image_id in image_ids:
        row = captions[image_id, beam_size]
        words = shown_words(row)
        drawn = {method.name: maps.get(map_key(image_id, beam_size, method.name), ()) for method in methods}
        tiles = {
            method.label: [
                Tile(overlay_png(cells), notes.get((image_id, method.name, t), ""))
                for t, cells in enumerate(drawn[method.name][: len(words)])
            ]
            for method in methods
        }
        said = tuple(captions[image_id, other] for other in others if (image_id, other) in captions)
        found.append(Strip(row, words, tiles, said))
    return found


def shown_words(row: CaptionRow) -> tuple[tuple[str, str], ...]:
    """The words of a strip, each with the model's probability of it; empty where that is not known."""
    logs = row.spoken_log_probs
    return tuple(
        (word, wording.percent(math.exp(min(logs[t], 0.0))) if logs else "")
        for t, word in enumerate(row.words[:SHOWN_WORDS])
    )


def shown_methods(methods: Iterable[MethodInfo], struck: Mapping[str, str]) -> list[MethodInfo]:
    """Attention, one method on the grid and one on pixels: those preferred, else the first that is not struck out."""
    parts = (*PATH_MAPS, *(name for lag, name in LAGS.items() if lag))
    first = sorted(
        (method for method in methods if method.name not in parts),
        key=lambda method: (method.name in struck, method.name != _PREFERRED.get(method.kind)),
    )
    found = (
        next((method for method in first if method.kind == kind), None)
        for kind in ("attention", "grid", "pixels")
    )
    return [method for method in found if method]


def _notes(rows: pd.DataFrame) -> dict[tuple[str, str, int], str]:
    columns = (rows[name] for name in ("image_id", "method", "word_index", "pointing", "mass"))
    return {(i, method, t): _note(hit, mass) for i, method, t, hit, mass in zip(*columns, strict=True)}


def _note(hit: float, mass: float) -> str:
    if not np.isfinite(hit) or not np.isfinite(mass):
        return ""
    return f"{'hit' if hit >= 0.5 else 'miss'} {wording.percent(mass)}"
