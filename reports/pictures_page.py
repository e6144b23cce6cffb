"""The page about pictures of one's own: what a model says of them, how sure it is, and where it looks.

It is made from a run directory alone, as the report of a run is. Nothing on it is a score: nobody has said what would
be right.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from reports.gallery import Gallery, Wanted, gallery
from reports.overlay import overlay_png
from reports.page import render
from reports.records import CaptionRow, Failure, MethodInfo, RunError, RunRecord
from reports.redaction import redacted, redacted_failure
from reports.samples import Variant
from reports.store import RunStore, map_key, write_atomically
from reports.strip import draw_strip
from reports.strips import Strip, shown_methods, shown_words, strips
from reports.summary import Summary, summarise
from reports.wording import clip, percent

_LEAST_CHANCE = 0.001
_NO_STRIPS: Mapping[str, Path] = MappingProxyType({})
_ROWS = 2
"""Kinds of maps in a strip: attention and one method that asks what the word depends on."""


class _Said(NamedTuple):
    """One caption that the search found."""

    caption: str
    chance: str
    """Its probability, in words; empty where that is not known."""
    log_prob_nats: float | None
    finished: bool


class _Shown(NamedTuple):
    """One picture."""

    row: CaptionRow
    said: tuple[_Said, ...]
    """The caption and those behind it, best first."""
    sureness: str
    """How probable the model held its words, in a sentence; empty where that is not known."""
    strip: Strip | None
    """None where no word is explained."""


class _Run(NamedTuple):
    """What is read of the run."""

    store: RunStore
    record: RunRecord
    summary: Summary
    captions: Mapping[str, CaptionRow]
    """By image id; pictures that failed are left out."""
    failures: Sequence[Failure]
    methods: Sequence[MethodInfo]
    """The rows of a strip."""


def write_pictures_page(
    store: RunStore, out: Path, *, with_paths: bool = False, strips: Mapping[str, Path] = _NO_STRIPS
) -> Path:
    """Writes the page; raises `RunError` if the run can't be read. Nothing is written before all is done.

    Args:
        store: the run, at one beam size.
        out: the file to write.
        with_paths: whether absolute paths are shown whole.
        strips: image id -> PNG file to write, with the word strip of that picture; those that failed are passed over.

    Returns:
        The page.
    """
    run = _read(store, with_paths=with_paths)
    contents = {out: _render(run, with_paths=with_paths).encode()} | {
        path: _drawn(run, run.captions[image_id])
        for image_id, path in strips.items()
        if image_id in run.captions
    }
    with ExitStack() as stack:
        for path, content in contents.items():
            stack.enter_context(write_atomically(path)).write(content)
    return out


def _read(store: RunStore, *, with_paths: bool) -> _Run:
    summary = summarise(store)
    record, failures = summary.record, store.read_failures()
    if record.model is None:
        raise RunError(
            f"{store.path} holds captions from a file; expected those of a model that saw the pictures"
        )
    if not with_paths:
        record, failures = redacted(record), [redacted_failure(failure) for failure in failures]
    captions = {row.image_id: row for row in store.read_captions() if row.error is None}
    methods = shown_methods(summary.methods, summary.struck)[:_ROWS]
    return _Run(store, record, summary, captions, failures, methods)


def _render(run: _Run, *, with_paths: bool) -> str:
    record = run.record
    explained = record.explanations
    pictures = run.store.read_thumbs(run.captions)
    shown = _shown(run)
    browsed = _gallery(run) if any(picture.strip for picture in shown) else None
    return render(
        "pictures.html.j2",
        gallery=browsed,
        record=record,
        explained=explained,
        shown=shown,
        failures=run.failures,
        warnings=_warnings(run),
        methods=run.methods,
        scale=overlay_png(np.linspace(-1, 1, 255)[None]),
        pictures={image_id: base64.b64encode(jpeg).decode() for image_id, jpeg in pictures.items()},
        beam_size=next((row.beam_size for row in run.captions.values()), None),
        allowance=record.config.get("length_exponent"),
        with_paths=with_paths,
    ).html


def _shown(run: _Run) -> list[_Shown]:
    record, rows = run.record, run.store.read_attributions()
    found: dict[str, Strip] = {}
    if record.explanations is not None and rows is not None:
        beam_size = record.explanations.beam_size
        captions = {(row.image_id, row.beam_size): row for row in run.captions.values()}
        rows = rows[rows["beam_size"] == beam_size]
        there = [image_id for image_id in rows["image_id"].unique() if (image_id, beam_size) in captions]
        drawn = strips(run.store, there, captions, run.methods, beam_size=beam_size, rows=rows)
        found = {strip.row.image_id: strip for strip in drawn}
    return [
        _Shown(row, _said(row), _sureness(row), found.get(image_id)) for image_id, row in run.captions.items()
    ]


def _said(row: CaptionRow) -> tuple[_Said, ...]:
    best = (row.caption or "", row.log_prob_nats, row.finished)
    others = [(other.caption, other.log_prob_nats, other.finished) for other in row.alternatives]
    return tuple(
        _Said(caption, "" if log_prob is None else _chance(log_prob), log_prob, finished)
        for caption, log_prob, finished in (best, *others)
    )


def _chance(log_prob_nats: float) -> str:
    """A probability in words; a tiny one is not given a figure that it does not have."""
    chance = math.exp(min(log_prob_nats, 0.0))
    return percent(chance) if chance >= _LEAST_CHANCE else f"below {percent(_LEAST_CHANCE)}"


def _sureness(row: CaptionRow) -> str:
    logs = row.spoken_log_probs
    if not logs:
        return ""
    least = min(range(len(logs)), key=logs.__getitem__)
    if len(logs) == 1:
        return f"The model held its word {_chance(logs[0])} probable."
    mean = _chance(sum(logs) / len(logs))
    return (
        f"The model held its {len(logs)} words {mean} probable each (geometric mean; 0 to 100 %, higher is surer, "
        f"not truer). The least probable was “{clip(row.words[least], 30)}” with {_chance(logs[least])}."
    )


def _warnings(run: _Run) -> list[str]:
    """What a reader should know before believing the page, in sentences."""
    record, rows = run.record, run.captions.values()
    found = [*record.data.warnings, *record.warnings]
    if run.failures:
        found.append(
            f"Pictures that failed: {len(run.failures):,} of {record.images.expected:,}, listed below."
        )
    if unfinished := sum(not row.finished for row in rows):
        found.append(f"Captions that reached the length limit before their end: {unfinished:,}.")
    unknown = record.model.unknown_word if record.model else None
    if unknown is not None and any(unknown in row.words for row in rows):
        found.append(f"“{unknown}” stands for a word that the model does not know.")
    labels = {method.name: method.label for method in run.summary.methods}
    found += [
        f"{labels[name]} is not to be believed here: {why}." for name, why in run.summary.struck.items()
    ]
    return found


def _gallery(run: _Run) -> Gallery:
    explained = run.record.explanations
    assert explained is not None
    rows = run.store.read_attributions()
    assert rows is not None
    take = Variant(
        name=f"beam size {explained.beam_size}",
        store=run.store,
        beam_size=explained.beam_size,
        captions=run.captions,
        attributions=rows[rows["beam_size"] == explained.beam_size],
        methods=explained.methods,
        struck=run.summary.struck,
        unknown_word=run.record.model.unknown_word if run.record.model else None,
    )
    return gallery(
        [take],
        list(run.captions),
        noun="beam size",
        start=0,
        wanted=Wanted(pictures=None),
        resolution=explained.resolution,
    )


def _drawn(run: _Run, row: CaptionRow) -> bytes:
    """The word strip of one picture, as a PNG file."""
    keys = {method.label: map_key(row.image_id, row.beam_size, method.name) for method in run.methods}
    maps = run.store.read_maps(keys.values())
    model, explained = run.record.model, run.record.explanations
    notes = [f"Model: {model.name}; captions searched for with beam size {row.beam_size}."] if model else []
    notes += [explained.resolution] if explained and explained.resolution else []
    if len(row.words) > len(shown_words(row)):
        notes.append(f"{len(row.words) - len(shown_words(row))} more words are not shown.")
    picture = run.store.read_thumbs([row.image_id]).get(row.image_id)
    if picture is None:
        raise RunError(f"{run.store.path} holds no picture of {row.image_id!r:.80}; explain it again")
    return draw_strip(
        row.caption or "no word",
        picture,
        shown_words(row),
        {label: maps[key] for label, key in keys.items() if key in maps},
        notes=notes,
    )
