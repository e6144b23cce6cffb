"""A run's verdict and scores for the terminal."""

import sys

from reports.legend import arrow
from reports.records import MetricRow
from reports.store import RunStore
from reports.summary import Summary, summarise
from reports.verdict import caveats, verdict
from reports.wording import beam, measured, printable, row_span, signatures, subject


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
    for finding in verdict(summary):
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
    if named := signatures(record.metrics):
        lines += ["", "signatures:", *(f"  {', '.join(names)}: {text}" for text, names in named.items())]
    elif record.metric_signature:
        lines += ["", f"signature: {record.metric_signature}"]
    lines += ["", *(f"Note: {warning}" for warning in caveats(summary))]
    return "\n".join(printable(line).rstrip() for line in lines).rstrip() + "\n"


def _cell(row: MetricRow | None) -> str:
    if row is None:
        return "–"
    if row.value is None:
        return "not computed"
    ends = row_span(row)
    return measured(row.value, row.unit) + (f" ({ends})" if ends else "")
