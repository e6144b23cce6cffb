"""The report of a run: one HTML file made from the run directory alone, or a folder of such files."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from markupsafe import Markup

from reports import figures, legend
from reports.beams import beams
from reports.caveats import caveats, unread
from reports.explanations_page import explanation_figures, explanation_tables, grouped
from reports.gallery import Gallery, Wanted, by_lot, gallery, listed, told_apart
from reports.legend import arrow
from reports.page import Page, render, write_bundle, write_page
from reports.records import CaptionRow, Failure, RunRecord
from reports.redaction import redacted, redacted_failure, without_folder
from reports.samples import Variant
from reports.speed_page import throughput
from reports.store import RunStore
from reports.strips import Strip, shown_methods, strips
from reports.summary import Material, Summary, read_material, summarise
from reports.verdict import headline, verdict
from reports.wording import beam, measured, number, printable, row_span, span
from reports.words import word_table

STRIPS = 8
"""Captions that are shown word by word without a script."""
EXTREMES = 8
"""Captions in each of the tables of the worst and the best."""


class Run(NamedTuple):
    """A run as its report tells of it."""

    store: RunStore
    summary: Summary
    material: Material
    """What its tables are made of."""
    captions: Mapping[tuple[str, int], CaptionRow]
    """By image id and beam size, of the images that are listed."""
    listed: Sequence[str]
    """The images that the page lists."""
    failures: Sequence[Failure]
    shown_ids: Mapping[str, str]
    """Image id -> how it is called on the page, all different."""

    @property
    def scores(self) -> pd.DataFrame | None:
        """Of scores.parquet what is shown."""
        return self.material.scores

    @property
    def attributions(self) -> pd.DataFrame | None:
        """Of the beam size that was explained."""
        return self.material.attributions

    @property
    def record(self) -> RunRecord:
        """run.json, without what is nobody's business."""
        return self.summary.record


def write_report(
    run_dir: Path,
    out: Path | None = None,
    *,
    wanted: Wanted = Wanted(),  # noqa: B008 - never changed
    bundle: Path | None = None,
    with_paths: bool = False,
) -> Path:
    """Writes the report of a run; raises `RunError` if the run directory can't be read.

    Args:
        run_dir: the run directory; nothing else is read.
        out: the file to write; report.html in the run directory if None.
        wanted: how many pictures it shows.
        bundle: a folder to write to instead, with all pictures and maps beside the page.
        with_paths: whether absolute paths, which name users and machines, are shown.

    Returns:
        The file written.
    """
    store = RunStore(run_dir)
    if bundle is not None:
        whole = Wanted(None, whole=True)
        write_bundle(render_report(store, wanted=whole, bundled=True, with_paths=with_paths), bundle)
        return bundle / "index.html"
    out = out or run_dir / "report.html"
    write_page(render_report(store, wanted=wanted, with_paths=with_paths), out)
    return out


def render_report(
    store: RunStore,
    *,
    wanted: Wanted = Wanted(),  # noqa: B008 - never changed
    bundled: bool = False,
    with_paths: bool = False,
) -> Page:
    """The report as text; the same run gives the same text."""
    run = _read(store, wanted, with_paths=with_paths)
    summary, explained = run.summary, run.record.explanations
    failed = max(run.record.images.failed, len({failure.image_id for failure in run.failures}))
    missing = unread(replace(run.record.images, failed=failed)) if failed else None
    groups = grouped(summary.methods)
    compared = beams(store, summary, run.material)
    speeds = throughput(store, run.record)
    drawn = {
        "floors": figures.multiples_of_floor(speeds.floors),
        "scores": figures.scores_by_beam(run.record.metrics),
        "beams": figures.quality_against_time(compared.points, compared.metric) if compared else None,
    } | explanation_figures(summary, groups)
    extremes = _extremes(run)
    static = _strips(run)
    shown = [strip.row for strip in static] + [row for rows in extremes.values() for row in rows]
    pictures = store.read_thumbs(dict.fromkeys(row.image_id for row in shown))
    browser = _gallery(run, wanted)
    return render(
        "report.html.j2",
        gallery=browser,
        bundled=bundled,
        summary=summary,
        record=run.record,
        explained=explained,
        verdict=verdict(summary),
        warnings=[told for told in caveats(summary, run.material.overview) if told != missing],
        unread=missing,
        numbers=_numbers(summary),
        words=word_table(summary.words),
        mapped=browser.mapped if browser else 0,
        listed=len(run.listed),
        images=len(run.shown_ids),
        shown_id=run.shown_ids.__getitem__,
        beam_table=compared,
        throughput=speeds,
        beams=sorted({row.beam_size for row in run.record.metrics}),
        pictures={image_id: base64.b64encode(jpeg).decode() for image_id, jpeg in pictures.items()},
        strips=static,
        extremes=extremes,
        failures=run.failures,
        # Markup is right here: matplotlib drew these elements and escaped the labels in them as XML.
        figures={name: Markup(svg) for name, svg in drawn.items() if svg},  # noqa: S704
        tables=explanation_tables(summary, groups),
        headline=headline(summary),
        labels={method.name: method.label for method in summary.methods},
        **{name: getattr(legend, name) for name in ("CAPTIONS", "MEASURES", "OPERATORS")},
    )


class Number(NamedTuple):
    """One of the numbers that come first."""

    label: str
    value: str
    span: str
    """Its 95 % interval."""
    direction: str


def _numbers(summary: Summary) -> list[Number]:
    """The captions' scores at the best beam size, and where attention lies."""
    shown = [
        Number(row.name, measured(row.value, row.unit), row_span(row), arrow(row.higher_is_better))
        for row in summary.record.metrics
        if summary.best and row.beam_size == summary.best.beam_size
        if row.value is not None and row.name in legend.CAPTION_METRICS
    ]
    attention = {} if "attention" in summary.struck else summary.localisation.get("attention", {})
    shown += [
        Number(
            f"Attention’s {legend.MEASURES[name].label.lower()}",
            number(found.interval.value),
            span(found.interval),
            arrow(True),
        )
        for name in ("pointing", "mass")
        if (found := attention.get(name))
    ]
    return shown


def _read(store: RunStore, wanted: Wanted, *, with_paths: bool) -> Run:
    material, failures = read_material(store), store.read_failures()
    summary = summarise(store, material)
    if not with_paths:
        summary = summary._replace(record=redacted(summary.record))
        failures = [redacted_failure(row) for row in failures]
    image_ids, rows = material.overview.image_ids, material.attributions
    known = set(image_ids)
    explained = [] if rows is None else [i for i in by_lot(rows["image_id"].unique()) if i in known]
    ranking = [image_id for image_id in summary.ranking if image_id in known]
    shown = listed(image_ids, ranking, explained, wanted)
    wished = set(shown)
    captions = {(row.image_id, row.beam_size): row for row in store.iter_captions() if row.image_id in wished}
    names = image_ids if with_paths else map(without_folder, image_ids)
    shown_ids = dict(zip(image_ids, told_apart(map(printable, names)), strict=True))
    return Run(store, summary, material, captions, shown, failures, shown_ids)


def _extremes(run: Run) -> dict[str, list[CaptionRow]]:
    """The captions that scored worst and best, at the best beam size."""
    best, ordered = run.summary.best, list(run.summary.ranking)
    if best is None:
        return {}
    half = len(ordered) // 2
    ends = {"lowest": ordered[:half][:EXTREMES], "highest": ordered[half:][::-1][:EXTREMES]}
    return {
        title: [run.captions[i, best.beam_size] for i in image_ids if (i, best.beam_size) in run.captions]
        for title, image_ids in ends.items()
    }


def _strips(run: Run) -> list[Strip]:
    explained = run.record.explanations
    if explained is None or run.attributions is None:
        return []
    known = (i for i in run.attributions["image_id"].unique() if (i, explained.beam_size) in run.captions)
    return strips(
        run.store,
        by_lot(known)[:STRIPS],
        run.captions,
        shown_methods(run.summary.methods, run.summary.struck),
        beam_size=explained.beam_size,
        rows=run.attributions,
    )


def _gallery(run: Run, wanted: Wanted) -> Gallery | None:
    """The sample browser, with a variant for each beam size; None if nothing was captioned."""
    sizes = run.material.overview.sizes
    if not sizes:
        return None
    explained, best = run.record.explanations, run.summary.best
    wished = [found.beam_size for found in (best, explained) if found]
    shown = next((size for size in wished if size in sizes), sizes[-1])
    return gallery(
        [_variant(run, size) for size in sizes],
        run.listed,
        noun="beam size",
        start=sizes.index(shown),
        ranking=list(run.summary.ranking),
        wanted=wanted,
        resolution=explained.resolution if explained else None,
        shown_id=run.shown_ids.__getitem__,
        more="gazebench report RUN --images all",
    )


def _variant(run: Run, size: int) -> Variant:
    explained, scores = run.record.explanations, run.scores
    is_explained = explained is not None and explained.beam_size == size
    return Variant(
        name=beam(size),
        store=run.store,
        beam_size=size,
        captions={image_id: row for (image_id, of), row in run.captions.items() if of == size},
        scores=None if scores is None else scores[scores["beam_size"] == size].set_index("image_id"),
        attributions=run.attributions if is_explained else None,
        methods=run.summary.methods if is_explained else (),
        struck=run.summary.struck,
        unknown_word=run.record.model.unknown_word if run.record.model else None,
    )
