"""The runs of a comparison: read, named, brought to one beam size each, and to the images that all of them have."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from reports.corpus import corpus_scores, metric_names, statistics_of
from reports.finished_run import hashes, model_place
from reports.records import CaptionRow, MetricRow, RunError, RunRecord
from reports.speed import SpeedRecord
from reports.store import RunStore
from reports.tables import count
from reports.terms import DIGITS, SLACK
from reports.wording import beam, clip, printable

FEWEST, MOST = 2, 8
"""Runs in one comparison."""
_AT_BEAM = re.compile(r"(.+)@(\d{1,4})")
_NAMED = 80  # characters of a stranger's text in a message


class ComparedRun(NamedTuple):
    """One run at one beam size."""

    name: str
    """Unique among the runs."""
    store: RunStore
    record: RunRecord
    beam_size: int
    captions: Mapping[str, CaptionRow]
    """By image id, of images that all runs have, in the order of the first run."""
    scores: pd.DataFrame | None
    """One row for each of these images, indexed by image id; None if nothing was scored."""
    images: frozenset[str]
    """All images that the run has a caption of at this beam size."""
    speed: SpeedRecord | None

    def metric(self, name: str) -> MetricRow | None:
        """The corpus score over all of the run's own images."""
        rows = self.record.metrics
        return next((row for row in rows if (row.name, row.beam_size) == (name, self.beam_size)), None)


class Selection(NamedTuple):
    """What is compared."""

    runs: tuple[ComparedRun, ...]
    image_ids: tuple[str, ...]
    warnings: tuple[str, ...]


class _Given(NamedTuple):
    """A run as it was asked for."""

    path: Path
    beam_size: int | None
    record: RunRecord
    sizes: frozenset[int]
    """Beam sizes that it has captions of."""

    def captions(self, size: int) -> dict[str, CaptionRow]:
        """By image id; without images that failed."""
        rows = RunStore(self.path).iter_captions()
        return {row.image_id: row for row in rows if row.beam_size == size and row.caption is not None}


def select(specs: Sequence[str], *, beam_size: int | None = None) -> Selection:
    """Reads runs and finds what can be compared.

    Args:
        specs: directories, each alone or as DIR@K for its captions at beam size K; a path that exists wins.
        beam_size: of runs without one of their own; None for the one named of another run, or the largest that all of
            these have.

    Returns:
        The runs, the images that all have, and what to know before comparing them.

    Raises:
        RunError: if there are too few or too many runs, one can't be read or contradicts itself, none has the beam
            size asked for, or they have no image, or not the same references, in common.
    """
    if not FEWEST <= len(specs) <= MOST:
        raise RunError(f"{len(specs)} runs were given; expected {FEWEST} to {MOST} run directories")
    given = [_read(spec, beam_size) for spec in specs]
    sizes, warnings = _beam_sizes(given)
    captions = [run.captions(size) for run, size in zip(given, sizes, strict=True)]
    names = _names(given, sizes)
    shared = set.intersection(*(set(rows) for rows in captions))
    image_ids = tuple(image_id for image_id in captions[0] if image_id in shared)
    _check_images(names, captions, image_ids)
    runs = tuple(
        _run(name, run, size, rows, image_ids)
        for name, run, size, rows in zip(names, given, sizes, captions, strict=True)
    )
    return Selection(runs, image_ids, (*warnings, *_warnings(runs, image_ids)))


def _read(spec: str, beam_size: int | None) -> _Given:
    at = None if Path(spec).exists() else _AT_BEAM.fullmatch(spec)
    path, asked = (Path(at[1]), int(at[2])) if at else (Path(spec), beam_size)
    store = RunStore(path)
    record = store.read_run()
    sizes = frozenset(row.beam_size for row in store.iter_captions() if row.caption is not None)
    if not sizes:
        raise RunError(f"{path} holds no caption; expected a run that captioned at least one image")
    if asked is not None and asked not in sizes:
        known = ", ".join(beam(size) for size in sorted(sizes))
        raise RunError(f"{path} has no captions of beam size {asked}; it has {known}")
    return _Given(path, asked, record, sizes)


def _beam_sizes(given: Sequence[_Given]) -> tuple[list[int], list[str]]:
    """For each run the size asked for, and a warning if sizes differ that were not all asked for.

    Where none was asked for it is the first that was asked for of another run, if the run has it; else the largest that
    all such runs have; else the one that scores best.
    """
    named = [run.beam_size for run in given if run.beam_size is not None]
    asked = [_asked(run, named) for run in given]
    free = [run for run, size in zip(given, asked, strict=True) if size is None]
    shared = set.intersection(*(set(run.sizes) for run in free)) if free else set()
    sizes = [
        size if size is not None else max(shared) if shared else _best(run)
        for run, size in zip(given, asked, strict=True)
    ]
    if len(named) == len(given) or len(set(sizes)) == 1:
        return sizes, []
    shown = ", ".join(f"{_called(run.path)} at {beam(size)}" for run, size in zip(given, sizes, strict=True))
    if free and not shared:
        why = "The runs have no beam size in common, so each is compared at its own best"
        return sizes, [f"{why}{' unless one was named' if named else ''}: {shown}."]
    return sizes, [f"The runs are compared at different beam sizes: {shown}."]


def _asked(run: _Given, named: Sequence[int]) -> int | None:
    if run.beam_size is not None:
        return run.beam_size
    return next((size for size in named if size in run.sizes), None)


def _best(run: _Given) -> int:
    """By CIDEr, else BLEU-4; of equals, and where nothing was scored, the smallest."""
    for name in ("CIDEr", "BLEU-4"):
        values = {
            row.beam_size: row.value
            for row in run.record.metrics
            if row.name == name and row.value is not None and row.beam_size in run.sizes
        }
        if values:
            return max(values, key=lambda size: (values[size], -size))
    return min(run.sizes)


def _called(path: Path) -> str:
    return clip(printable(path.resolve().name), _NAMED) or "run"


def _names(given: Sequence[_Given], sizes: Sequence[int]) -> list[str]:
    """The directories' names; with the beam size where one run is compared with itself, and numbered where alike."""
    paths = [run.path.resolve() for run in given]
    names = [
        f"{_called(path)} at {beam(size)}" if paths.count(path) > 1 else _called(path)
        for path, size in zip(paths, sizes, strict=True)
    ]
    seen: set[str] = set()
    for place, name in enumerate(names):
        number, unique = 2, name
        while unique in seen:
            unique, number = f"{name} ({number})", number + 1
        names[place] = unique
        seen.add(unique)
    return names


def _check_images(
    names: Sequence[str], captions: Sequence[Mapping[str, CaptionRow]], image_ids: Sequence[str]
) -> None:
    """Raises `RunError` if nothing is left to compare, or references differ."""
    if not image_ids:
        examples = ", ".join(
            f"“{name}” {_quoted(next(iter(rows)))}" for name, rows in zip(names, captions, strict=True)
        )
        raise RunError(
            f"the runs have no image in common; each begins with another: {examples}. "
            "Give runs over the same data set and split"
        )
    for name, rows in zip(names[1:], captions[1:], strict=True):
        differing = [i for i in image_ids if _references(captions[0][i]) != _references(rows[i])]
        if differing:
            raise RunError(
                f"“{names[0]}” and “{name}” have different references of {count(len(differing), 'image')}, such as "
                f"{_quoted(differing[0])}; scores against different references do not compare: "
                "give runs over the same captions file"
            )


def _references(row: CaptionRow) -> Counter[str]:
    return Counter(row.references)


def _quoted(image_id: str) -> str:
    return f"“{clip(printable(image_id), _NAMED)}”"


def _run(
    name: str, given: _Given, size: int, rows: Mapping[str, CaptionRow], image_ids: Sequence[str]
) -> ComparedRun:
    store = RunStore(given.path)
    scores = store.read_scores(beam_size=size)
    if scores is not None:
        scores = scores.drop(columns="beam_size").set_index("image_id")
        _check_scores(name, scores, given.record, size, set(rows))
        kept = scores.index.intersection(pd.Index(image_ids, dtype=object))
        scores = scores.loc[kept].reindex(list(image_ids)) if len(kept) else None
    return ComparedRun(
        name, store, given.record, size, {image_id: rows[image_id] for image_id in image_ids}, scores,
        frozenset(rows), store.read_speed(),
    )  # fmt: skip


def _check_scores(name: str, scores: pd.DataFrame, record: RunRecord, size: int, captioned: set[str]) -> None:
    """Raises `RunError` if the rows don't give the corpus scores that the run states."""
    if set(scores.index) != captioned:  # an unfinished run that was scored before it went on
        return
    whole = [
        metric for metric in metric_names(scores) if all(column in scores for column in statistics_of(metric))
    ]
    columns = list(dict.fromkeys(c for metric in whole for c in (metric, *statistics_of(metric))))
    stated = {row.name: row.value for row in record.metrics if row.beam_size == size}
    for metric, value in corpus_scores(scores[columns]).items():
        said = stated.get(metric)
        if said is not None and abs(said - (value or 0.0)) > SLACK:
            found = "none" if value is None else f"{value:.{DIGITS}f}"
            raise RunError(
                f"“{name}” says {printable(metric)} {said:.{DIGITS}f} at {beam(size)}, its scores.parquet {found}; "
                "score the run again"
            )


def _warnings(runs: Sequence[ComparedRun], image_ids: Sequence[str]) -> Iterator[str]:
    """What makes the runs differ in more than their captions, by name."""
    for run in runs:
        counts = run.record.images
        if run.record.status != "finished":
            yield (
                f"“{run.name}” is {run.record.status}: {counts.done:,} of {counts.expected:,} images are done."
            )
        if counts.failed:
            yield (
                f"In “{run.name}” {counts.failed:,} of {counts.expected:,} pictures could not be read: they are left "
                "out for all runs."
            )
        if run.scores is None:
            yield f"“{run.name}” has no scores; `gazebench score` computes them."
    yield from _other_images(runs, image_ids)
    for first, second in combinations(runs, 2):
        pair = f"“{first.name}” and “{second.name}”"
        ours, theirs = hashes(first.record), hashes(second.record)
        if first.images == second.images and _differ(ours, theirs, "data"):
            yield (
                f"{pair}: the hashes of their data differ: other picture files, or another order of images or "
                "references."
            )
        if _differ(ours, theirs, "vocabulary"):
            yield f"{pair} have different vocabularies."
        types = [model_place(run.record)[1] for run in (first, second)]
        if None not in types and types[0] != types[1]:
            yield f"{pair} encoded pictures in different precision: {types[0]} and {types[1]}."
        yield from _other_maps(first.record, second.record, pair)


def _other_maps(first: RunRecord, second: RunRecord, pair: str) -> Iterator[str]:
    """What makes measures of maps incomparable."""
    if first.model and second.model and first.model.grid != second.model.grid:
        grids = [f"{rows} × {columns}" for rows, columns in (first.model.grid, second.model.grid)]
        yield (
            f"{pair} have other attention grids, {grids[0]} and {grids[1]} cells: measures of maps do not compare "
            "across grids."
        )
    ours, theirs = first.explanations, second.explanations
    if ours and theirs and ours.annotation_baseline != theirs.annotation_baseline:
        baselines = [clip(printable(of.annotation_baseline), _NAMED) or "none" for of in (ours, theirs)]
        yield (
            f"{pair} were explained with other baselines, “{baselines[0]}” and “{baselines[1]}”: ABPC and the cosine "
            "with integrated gradients do not compare."
        )


def _other_images(runs: Sequence[ComparedRun], image_ids: Sequence[str]) -> Iterator[str]:
    """One sentence, if not all runs have the same images."""
    more = {run.name: len(run.images) - len(image_ids) for run in runs}
    if any(more.values()):
        shown = ", ".join(f"“{name}” has {number:,} more" for name, number in more.items() if number)
        yield (
            f"Not all runs have the same images: the comparison is over the {len(image_ids):,} that all have; "
            f"{shown}. Whether their pictures are the same can’t be told."
        )


def _differ(ours: Mapping[str, str], theirs: Mapping[str, str], name: str) -> bool:
    return name in ours and name in theirs and ours[name] != theirs[name]
