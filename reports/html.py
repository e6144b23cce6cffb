"""The report: one HTML file made from a run directory alone. It runs no script and asks no network.

Every text in a run is a stranger's: Jinja2 escapes all of it, `printable` defuses what escaping does not, and
a content security policy forbids whatever both might miss.
"""

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from reports import figures, legend, wording
from reports.explanations import LAGS, PATH_MAPS
from reports.explanations_page import explanation_figures, explanation_tables, grouped
from reports.records import CaptionRow, MethodInfo
from reports.store import RunStore, map_key, write_atomically
from reports.summary import Summary, summarise
from reports.verdict import caveats, headline, verdict

SHOWN_IMAGES = 48
"""Gaze strips in a report."""
SHOWN_WORDS = 40
"""Words of one caption in a strip."""
SHOWN_EXTREMES = 8
"""Captions in each of the tables of the worst and the best."""
_PREFERRED = {"grid": "grid_integrated_gradients", "pixels": "pixel_saliency"}


class Tile(NamedTuple):
    """One word's map."""

    source: str
    note: str
    """Whether its brightest cell hits, and its mass there; empty where the word has no place."""


class Strip(NamedTuple):
    """One caption, word by word."""

    row: CaptionRow
    words: tuple[tuple[str, str], ...]
    """Word and probability."""
    maps: Mapping[str, Sequence[Tile]]
    """Method's label -> one tile per word."""
    others: tuple[CaptionRow, ...]
    """The captions of the other beam sizes."""


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Writes the report of a run; raises `RunError` if the run directory can't be read.

    Args:
        run_dir: the run directory; nothing else is read.
        out: the file to write; report.html in the run directory if None.

    Returns:
        The file written.
    """
    out = out or run_dir / "report.html"
    page = render_report(RunStore(run_dir))
    with write_atomically(out) as file:
        file.write(page.encode())
    return out


def render_report(store: RunStore) -> str:
    """The report as text; the same run gives the same text."""
    summary = summarise(store)
    record, explained, best = summary.record, summary.record.explanations, summary.best
    captions = {(row.image_id, row.beam_size): row for row in store.read_captions()}
    rows = store.read_attributions() if explained else None
    if explained and rows is not None:
        rows = rows[rows["beam_size"] == explained.beam_size]
    shown = _shown(rows, captions) if rows is not None else []
    ordered = list(summary.ranking)
    half = len(ordered) // 2
    extremes = {"lowest": ordered[:half][:SHOWN_EXTREMES], "highest": ordered[half:][::-1][:SHOWN_EXTREMES]}
    pictures = store.read_thumbs(dict.fromkeys([*shown, *extremes["lowest"], *extremes["highest"]]))
    groups = grouped(summary.methods)
    drawn = {"scores": figures.scores_by_beam(record.metrics)} | explanation_figures(summary, groups)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            summary=summary,
            record=record,
            explained=explained,
            verdict=verdict(summary),
            warnings=list(caveats(summary)),
            beams=sorted({row.beam_size for row in record.metrics}),
            pictures={image_id: base64.b64encode(jpeg).decode() for image_id, jpeg in pictures.items()},
            picture_class={image_id: f"p{number}" for number, image_id in enumerate(pictures)},
            strips=_strips(store, summary, rows, captions, shown) if rows is not None else [],
            extremes={
                title: [
                    captions[i, best.beam_size] for i in image_ids if best and (i, best.beam_size) in captions
                ]
                for title, image_ids in extremes.items()
            },
            failures=store.read_failures(),
            # Markup is right here: matplotlib drew these elements and escaped the labels in them as XML.
            figures={name: Markup(svg) for name, svg in drawn.items() if svg},  # noqa: S704
            tables=explanation_tables(summary, groups),
            headline=headline(summary),
            labels={method.name: method.label for method in summary.methods},
            **{name: getattr(legend, name) for name in ("arrow", "CAPTIONS", "MEASURES", "OPERATORS")},
            beam_name=wording.beam,
            **{
                name: getattr(wording, name)
                for name in (
                    "number",
                    "percent",
                    "measured",
                    "span",
                    "row_span",
                    "clip",
                    "signatures",
                    "subject",
                )
            },
        )
    )


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Markup is a str too: only text that is still to be escaped is made printable.
        finalize=lambda value: wording.printable(value) if type(value) is str else value,
    )


def _shown(rows: pd.DataFrame, captions: Mapping[tuple[str, int], CaptionRow]) -> list[str]:
    """The images to show, ordered by a hash of their ids: repeatable, and nobody's choice."""
    pairs = rows[["image_id", "beam_size"]].drop_duplicates().itertuples(index=False, name=None)
    known = [image_id for image_id, beam in pairs if (image_id, beam) in captions]
    return sorted(known, key=lambda i: hashlib.sha256(i.encode("utf-8", "replace")).digest())[:SHOWN_IMAGES]


def _strips(
    store: RunStore,
    summary: Summary,
    rows: pd.DataFrame,
    captions: Mapping[tuple[str, int], CaptionRow],
    shown: Sequence[str],
) -> list[Strip]:
    assert summary.record.explanations is not None
    beam, methods = summary.record.explanations.beam_size, _rows(summary)
    maps = store.read_maps(map_key(image_id, beam, method.name) for image_id in shown for method in methods)
    rows = rows[rows["image_id"].isin(shown)]
    columns = (rows[name] for name in ("image_id", "method", "word_index", "pointing", "mass"))
    notes = {(i, method, t): _note(hit, mass) for i, method, t, hit, mass in zip(*columns, strict=True)}
    others = {beam_size for _, beam_size in captions} - {beam}
    strips = []
    for image_id in shown:
        row = captions[image_id, beam]
        words = tuple((word, _probability(row, t)) for t, word in enumerate(row.words[:SHOWN_WORDS]))
        drawn = {method.name: maps.get(map_key(image_id, beam, method.name), ()) for method in methods}
        tiles = {
            method.label: [
                Tile(figures.overlay_png(cells), notes.get((image_id, method.name, t), ""))
                for t, cells in enumerate(drawn[method.name][: len(words)])
            ]
            for method in methods
        }
        said = tuple(captions[image_id, other] for other in sorted(others) if (image_id, other) in captions)
        strips.append(Strip(row, words, tiles, said))
    return strips


def _rows(summary: Summary) -> list[MethodInfo]:
    """Attention, one method on the grid and one on pixels: those preferred, else the first that is not struck out."""
    parts = (*PATH_MAPS, *(name for lag, name in LAGS.items() if lag))
    first = sorted(
        (method for method in summary.methods if method.name not in parts),
        key=lambda method: (method.name in summary.struck, method.name != _PREFERRED.get(method.kind)),
    )
    found = (
        next((method for method in first if method.kind == kind), None)
        for kind in ("attention", "grid", "pixels")
    )
    return [method for method in found if method]


def _note(hit: float, mass: float) -> str:
    if not np.isfinite(hit) or not np.isfinite(mass):
        return ""
    return f"{'hit' if hit >= 0.5 else 'miss'} {wording.percent(mass)}"


def _probability(row: CaptionRow, index: int) -> str:
    known = index < len(row.word_log_probs)
    return wording.percent(math.exp(min(row.word_log_probs[index], 0.0))) if known else ""
