"""What the sample browser of a page shows: every image with its captions, and some with picture and maps.

One gallery has N images and V variants. A variant is what one model said at one beam size: in the report of a run there
is one for each beam size, in a comparison one for each run. The script of the page (templates/gallery) reads exactly
what is written here.
"""

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from reports.explanations import PATH_MAPS
from reports.legend import CAPTION_METRICS, CAPTIONS, measure_of
from reports.overlay import colours
from reports.records import CaptionRow, MethodInfo
from reports.samples import WORD_MEASURES, Sample, Variant, map_bytes, samples, without_maps
from reports.wording import printable

PICTURES = 200
"""Images whose pictures and alternatives a page shows, unless asked for more or less."""
LISTED = 5_000
"""Images that a page lists, unless pictures of more are asked for."""
MAP_BYTES = 6 << 20
"""All maps of a page in one file, as text; a bundle has no such limit."""
_LABELS = {
    "cosine": "Cosine with attention",
    "share_now": "Gradient through this attention",
    "permute_drop": "Lost when it is shuffled",
}
"""Beside a single map, where a measure’s own name would say too little."""
_CONTROLS = ("oracle_grid", "other_image")
"""Controls that are worth a look; what an even map or noise looks like, everybody knows."""


@dataclass(frozen=True)
class Gallery:
    """The browser's data, as JSON values."""

    index: Mapping[str, object]
    """Everything about all images but what follows."""
    samples: Mapping[int, Mapping[str, Sample]]
    """By the image's place in the index: alternatives, words and maps."""
    pictures: Mapping[int, bytes]
    """JPEG."""
    mapped: int = 0
    """Images whose maps are in it."""

    @property
    def listed(self) -> Sequence[str]:
        """What the images in it are called on the page."""
        ids = self.index["ids"]
        assert isinstance(ids, list)
        return ids


class Wanted(NamedTuple):
    """How much of a run a page shows."""

    pictures: int | None = PICTURES
    """Images with their pictures; None for all."""
    whole: bool = False
    """Whether maps may take any space, as in a bundle."""

    def choose(self, ranking: Sequence[str], image_ids: Sequence[str], explained: Sequence[str]) -> list[str]:
        """Explained images first, then in turn the worst, the best and any, until there are enough.

        Args:
            ranking: images with a score, worst first.
            image_ids: all images.
            explained: those that have maps.

        Returns:
            Image ids, each once.
        """
        ways = [iter(ranking), reversed(ranking), iter(by_lot(image_ids))]
        most = len(image_ids) if self.pictures is None else min(self.pictures, len(image_ids))
        chosen = dict.fromkeys(explained[:most])
        while len(chosen) < most and ways:
            for way in list(ways):
                found = next((image_id for image_id in way if image_id not in chosen), None)
                if found is None:
                    ways.remove(way)
                elif len(chosen) < most:
                    chosen[found] = None
        return list(chosen)


def listed(
    image_ids: Sequence[str], ranking: Sequence[str], explained: Sequence[str], wanted: Wanted
) -> list[str]:
    """The images that a page lists: all, or `LISTED` of them where there are more.

    These are the ones that were explained, a quarter that scored worst, a quarter that scored best, and as many as are
    missing by lot.

    Args:
        image_ids: all images.
        ranking: those that have a score, worst first.
        explained: those that have maps.
        wanted: how many pictures the page shows; it lists as many images at least.

    Returns:
        Image ids, in the order of `image_ids`.
    """
    most = len(image_ids) if wanted.pictures is None else max(LISTED, wanted.pictures)
    if len(image_ids) <= most:
        return list(image_ids)
    quarter = most // 4
    chosen = dict.fromkeys((*explained[:quarter], *ranking[:quarter], *ranking[-quarter:]))
    for image_id in by_lot(image_ids):
        if len(chosen) >= most:
            break
        chosen[image_id] = None
    return [image_id for image_id in image_ids if image_id in chosen]


def by_lot(image_ids: Iterable[str]) -> list[str]:
    """In the order of a hash of their ids: repeatable, and nobody's choice."""
    return sorted(image_ids, key=lambda i: hashlib.sha256(i.encode("utf-8", "backslashreplace")).digest())


def gallery(
    variants: Sequence[Variant],
    image_ids: Sequence[str],
    *,
    noun: str,
    start: int,
    base: int | None = None,
    ranking: Sequence[str] = (),
    wanted: Wanted = Wanted(),  # noqa: B008 - never changed
    resolution: str | None = None,
    shown_id: Callable[[str], str] = str,
    more: str | None = None,
) -> Gallery:
    """Collects what the sample browser shows.

    Args:
        variants: at least one.
        image_ids: in the order in which they stand before anything is sorted; every variant may lack some.
        noun: what variants are, in the singular.
        start: the variant that is shown first.
        base: the variant that others are compared with at first; None for no comparison.
        ranking: images that have a score, the worst first.
        wanted: how much is shown of them.
        resolution: what must be said beside every map, as a sentence.
        shown_id: how an image is called on the page.
        more: the command that shows pictures which are not here.

    Returns:
        The gallery.
    """
    place = {image_id: number for number, image_id in enumerate(image_ids)}
    explained = [image_id for image_id in explained_images(variants) if image_id in place]
    shown = wanted.choose([image_id for image_id in ranking if image_id in place], image_ids, explained)
    pictures = {place[i]: jpeg for i, jpeg in _pictures(variants, shown).items()}
    methods = _methods(variants)
    room = math.inf if wanted.whole else MAP_BYTES
    found, with_maps = {}, []
    for image_id, sample in samples(variants, shown, set(explained), methods):
        size = sum(map(map_bytes, sample.values()))
        kept = size <= room
        room -= size if kept else 0
        found[place[image_id]] = sample if kept else {key: without_maps(of) for key, of in sample.items()}
        if kept and size:
            with_maps.append(place[image_id])
    index = _columns(variants, image_ids) | {
        "noun": noun,
        "start": start,
        "base": base,
        "ids": told_apart(printable(shown_id(image_id)) for image_id in image_ids),
        "random": [place[image_id] for image_id in by_lot(image_ids)],
        "shown": sorted(found),
        "pictures": sorted(pictures),
        "explained": sorted(with_maps),
        "methods": [_described(method, variants) for method in methods],
        "measures": [
            {
                "name": name,
                "label": _LABELS.get(name, of.label),
                "range": of.range,
                "higher": of.higher_is_better,
            }
            for name, of in ((name, measure_of(name)) for name in WORD_MEASURES)
        ],
        "colours": base64.b64encode(colours().tobytes()).decode(),
        "resolution": printable(resolution) if resolution else None,
        "more": more,
    }
    return Gallery(index, found, pictures, len(with_maps))


def _columns(variants: Sequence[Variant], image_ids: Sequence[str]) -> dict[str, object]:
    """What is known of every image, one list per variant."""
    metrics = [name for name in CAPTION_METRICS if any(_has(variant.scores, name) for variant in variants)]
    rows = [[variant.captions.get(image_id) for image_id in image_ids] for variant in variants]
    unknown = [variant.unknown_word for variant in variants]
    return {
        "variants": [printable(variant.name) for variant in variants],
        "metrics": [
            {"name": name, "range": of.range, "higher": of.higher_is_better, "digits": 3}
            for name, of in ((name, CAPTIONS[name]) for name in metrics)
        ],
        "sort": metrics[0] if metrics else None,
        "references": [_references(variants, image_id) for image_id in image_ids],
        "captions": [[_caption(row) for row in column] for column in rows],
        "lengths": [[len(row.words) if row else 0 for row in column] for column in rows],
        "unknown": [
            [row.words.count(word) if row else 0 for row in column] if word else None
            for word, column in zip(unknown, rows, strict=True)
        ],
        "unfinished": [
            [n for n, row in enumerate(column) if row and row.caption is not None and not row.finished]
            for column in rows
        ],
        "scores": [[_scores(variant.scores, name, image_ids) for name in metrics] for variant in variants],
    }


def told_apart(names: Iterable[str]) -> list[str]:
    """Names that are alike get a number, so that a link leads to one of them."""
    times: Counter[str] = Counter()
    told: dict[str, None] = {}
    for name in names:
        unique = name
        while unique in told:
            times[name] += 1
            unique = f"{name} ({times[name] + 1})"
        told[unique] = None
    return list(told)


def _has(scores: pd.DataFrame | None, metric: str) -> bool:
    return scores is not None and metric in scores and bool(scores[metric].notna().any())


def explained_images(variants: Sequence[Variant]) -> list[str]:
    """Images that any variant has explained, by lot; those that more have explained come first, to be compared."""
    sets = [set(v.attributions["image_id"]) for v in variants if v.attributions is not None]
    lot = by_lot(set().union(*sets))
    return sorted(lot, key=lambda image_id: -sum(image_id in found for found in sets))


def _pictures(variants: Sequence[Variant], image_ids: Sequence[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for store in {variant.store.path: variant.store for variant in variants}.values():
        found |= store.read_thumbs(image_id for image_id in image_ids if image_id not in found)
    return found


def _methods(variants: Sequence[Variant]) -> list[MethodInfo]:
    known = {method.name: method for variant in variants for method in variant.methods}
    return [m for m in known.values() if m.kind != "control" or m.name in _CONTROLS]


def _described(method: MethodInfo, variants: Sequence[Variant]) -> dict[str, object]:
    """What a reader must know of a method; it is struck out where every variant that has it strikes it out."""
    of = [variant for variant in variants if any(m.name == method.name for m in variant.methods)]
    reasons = [(variant.name, variant.struck[method.name]) for variant in of if method.name in variant.struck]
    note = method.note or ("a part of a gradient" if method.name in PATH_MAPS else None)
    struck = reasons[0][1] if reasons and len(reasons) == len(of) else None
    if reasons and struck is None:
        note = "; ".join(f"struck out in {name}: {reason}" for name, reason in reasons)
    return {
        "name": printable(method.name),
        "label": printable(method.label),
        "note": printable(note) if note else None,
        "struck": printable(struck) if struck else None,
    }


def _references(variants: Sequence[Variant], image_id: str) -> list[str]:
    row = next((variant.captions[image_id] for variant in variants if image_id in variant.captions), None)
    return [printable(reference) for reference in row.references] if row else []


def _caption(row: CaptionRow | None) -> str | None:
    return None if row is None or row.caption is None else printable(row.caption)


def _scores(scores: pd.DataFrame | None, metric: str, image_ids: Sequence[str]) -> list[float | None]:
    if scores is None or metric not in scores:
        return [None] * len(image_ids)
    return [_rounded(value) for value in scores[metric].reindex(list(image_ids)).tolist()]


def _rounded(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
