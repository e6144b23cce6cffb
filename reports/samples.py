"""What the sample browser shows of one image: words, alternatives and maps, of every variant."""

import base64
import math
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from reports.overlay import quantised
from reports.records import CaptionRow, MethodInfo
from reports.store import RunStore, map_key
from reports.wording import printable

WORDS = 40
"""Words of one caption that have maps in a page."""
WORD_MEASURES = ("mass", "pointing", "auc", "cosine", "abpc_cells", "share_now", "permute_drop")
"""What is shown of a word under its map."""
_AT_ONCE = 256  # images whose maps are in memory

Sample = Mapping[str, object]
"""One variant's, as JSON values."""


class Variant(NamedTuple):
    """What one model said at one beam size, with what is known of it."""

    name: str
    store: RunStore
    beam_size: int
    captions: Mapping[str, CaptionRow]
    """By image id."""
    scores: pd.DataFrame | None = None
    """Rows of scores.parquet, indexed by image id."""
    attributions: pd.DataFrame | None = None
    """Rows of attributions.parquet of this beam size; None where nothing was explained."""
    methods: tuple[MethodInfo, ...] = ()
    struck: Mapping[str, str] = {}
    """Methods that are not to be believed, with the reason."""
    unknown_word: str | None = None


def samples(
    variants: Sequence[Variant],
    shown: Sequence[str],
    explained: Container[str],
    methods: Sequence[MethodInfo],
) -> Iterator[tuple[str, dict[str, Sample]]]:
    """What every variant has of each image.

    Args:
        variants: at least one.
        shown: image ids.
        explained: those that have maps.
        methods: whose maps are wanted.

    Yields:
        Image id, and samples by the variant's number.
    """
    for begun in range(0, len(shown), _AT_ONCE):
        image_ids = shown[begun : begun + _AT_ONCE]
        with_maps = [image_id for image_id in image_ids if image_id in explained]
        maps = [
            v.store.read_maps(map_key(i, v.beam_size, m.name) for i in with_maps for m in methods)
            if with_maps
            else {}
            for v in variants
        ]
        measures = [_word_measures(variant, set(with_maps)) for variant in variants]
        for image_id in image_ids:
            sample = {}
            for number, variant in enumerate(variants):
                if row := variant.captions.get(image_id):
                    keys = {m.name: map_key(image_id, variant.beam_size, m.name) for m in methods}
                    drawn = {
                        name: maps[number][key][:WORDS] for name, key in keys.items() if key in maps[number]
                    }
                    sample[str(number)] = _sample(row, drawn, measures[number].get(image_id, {}))
            yield image_id, sample


def map_bytes(sample: Sample) -> int:
    """How long a sample's maps are in a page."""
    maps = sample["maps"]
    assert isinstance(maps, dict)
    return sum(map(len, maps.values()))


def without_maps(sample: Sample) -> Sample:
    """The sample, without what takes most of its space."""
    return {**sample, "maps": {}, "measures": {}, "grid": None}


def _sample(
    row: CaptionRow, maps: Mapping[str, np.ndarray], measured: Mapping[str, Mapping[str, list[object]]]
) -> Sample:
    words = row.words[:WORDS]
    maps = {name: found for name, found in maps.items() if len(found) == len(words) and found.size}
    grid = next((found.shape[1:] for found in maps.values()), None)
    maps = {name: found for name, found in maps.items() if found.shape[1:] == grid}
    classes = measured.get("attention", next(iter(measured.values()), {})).get("word_class")
    return {
        "words": [printable(word) for word in words],
        "classes": classes[: len(words)] if classes else None,
        "probabilities": [
            round(math.exp(min(row.spoken_log_probs[t], 0.0)), 4) if row.spoken_log_probs else None
            for t in range(len(words))
        ],
        "alternatives": [
            {
                "caption": printable(other.caption),
                "log_prob": round(other.log_prob_nats, 3),
                "finished": other.finished,
            }
            for other in row.alternatives
        ],
        "grid": list(grid) if grid else None,
        "maps": {name: base64.b64encode(quantised(found).tobytes()).decode() for name, found in maps.items()},
        "measures": {
            name: {
                measure: values[: len(words)]
                for measure, values in found.items()
                if measure in WORD_MEASURES and any(value is not None for value in values[: len(words)])
            }
            for name, found in measured.items()
            if name in maps
        },
    }


def _word_measures(variant: Variant, image_ids: set[str]) -> dict[str, dict[str, dict[str, list[object]]]]:
    """Image id -> method -> measure or "word_class" -> one value per word."""
    rows = variant.attributions
    if rows is None or not image_ids:
        return {}
    rows = rows[rows["image_id"].isin(image_ids)].sort_values("word_index", kind="stable")
    columns = [name for name in WORD_MEASURES if name in rows]
    numbers = rows[columns].to_numpy(np.float64).round(4)
    found: dict[str, dict[str, dict[str, list[object]]]] = {}
    keys = zip(rows["image_id"], rows["method"], rows["word_index"], rows["word_class"], strict=True)
    for (image_id, method, index, word_class), values in zip(keys, numbers, strict=True):
        ours = found.setdefault(image_id, {}).setdefault(method, {})
        if not 0 <= index < WORDS:
            continue
        for name, value in zip(columns, values.tolist(), strict=True):
            _put(ours.setdefault(name, []), index, value if math.isfinite(value) else None)
        _put(ours.setdefault("word_class", []), index, printable(word_class))
    return {
        image_id: {
            method: {name: values for name, values in ours.items() if any(v is not None for v in values)}
            for method, ours in of.items()
        }
        for image_id, of in found.items()
    }


def _put(values: list[object], index: int, value: object) -> None:
    values.extend([None] * (index + 1 - len(values)))
    values[index] = value
