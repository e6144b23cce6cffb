"""A run's verdict and scores for the terminal."""

import sys

from reports.caveats import caveats
from reports.explanations import COMPARED_CONTROLS, ranked
from reports.legend import arrow, measure_of
from reports.records import MetricRow
from reports.store import RunStore
from reports.summary import Summary, summarise
from reports.verdict import headline, verdict
from reports.wording import beam, measured, number, printable, row_span, signatures, subject


def print_run(store: RunStore) -> None:
    """Writes the summary of a run to standard output."""
    sys.stdout.write(as_text(summarise(store)))


def as_text(summary: Summary) -> str:
    """Machine, verdict, scores per beam size, their signature and warnings, as lines without control characters."""
    record = summary.record
    lines = [
        f"{record.name}: {subject(record)} on {record.data.name} ({record.data.split}), {record.status}",
        f"made on {record.provenance.device}",
    ]
    answers = verdict(summary)
    for finding in (*answers, *(more for more in headline(summary) if more not in answers)):
        lines += [
            "",
            f"{finding.question} {finding.answer}.",
            *(f"  {sentence}" for sentence in finding.sentences),
        ]
    beams = sorted({row.beam_size for row in record.metrics})
    if beams:
        lines += ["", " " * 22 + "".join(f"{beam(size):>26}" for size in beams)]
    for name in dict.fromkeys(row.name for row in record.metrics):
        rows = {row.beam_size: row for row in record.metrics if row.name == name}
        any_row = next(iter(rows.values()))
        cells = "".join(f"{_cell(rows.get(size)):>26}" for size in beams)
        lines.append(f"{name:<22}{cells}  {any_row.unit}, {arrow(any_row.higher_is_better)}")
    lines += _methods(summary)
    if named := signatures(record.metrics):
        lines += ["", "signatures:", *(f"  {', '.join(names)}: {text}" for text, names in named.items())]
    elif record.metric_signature:
        lines += ["", f"signature: {record.metric_signature}"]
    lines += ["", *(f"Note: {warning}" for warning in caveats(summary))]
    return "\n".join(printable(line).rstrip() for line in lines).rstrip() + "\n"


_SHOWN = ("auc", "mass", "abpc_cells", "cosine")


def _methods(summary: Summary) -> list[str]:
    """A line per explanation, and per control that attention is compared with, in four measures."""
    tables = {"abpc_cells": summary.faithfulness, "cosine": summary.agreement}
    found = {measure: tables.get(measure, summary.localisation) for measure in _SHOWN}
    measures = [measure for measure in _SHOWN if any(measure in row for row in found[measure].values())]
    if not measures:
        return []
    names = [method.name for method in ranked(summary.methods, {})]
    names += [method.name for method in summary.methods if method.name in COMPARED_CONTROLS]
    labels = {method.name: method.label for method in summary.methods}
    heads = (f"{measure_of(measure).label:>14}" for measure in measures)
    lines = ["", " " * 36 + "".join(heads) + "   (cosine with attention; higher is better)"]
    for name in names:
        if name in summary.struck:
            lines.append(f"{labels[name][:34]:<36}  struck out: {summary.struck[name]}")
            continue
        rows = (found[measure].get(name, {}).get(measure) for measure in measures)
        cells = (f"{number(row.interval.value) if row else '–':>14}" for row in rows)
        lines.append(f"{labels[name][:34]:<36}{''.join(cells)}")
    return lines


def _cell(row: MetricRow | None) -> str:
    if row is None:
        return "–"
    if row.value is None:
        return "not computed"
    ends = row_span(row)
    return measured(row.value, row.unit) + (f" ({ends})" if ends else "")
