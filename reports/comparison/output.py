"""How a comparison is shown without a page: as JSON, on the terminal, and what stands in the cells of its tables.

Names, captions and settings come from strangers. None of them can end a line, a cell or an element.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from reports.comparison.captions import ChangedCaption
from reports.comparison.compare import Against, Comparison
from reports.comparison.explanations import ExplanationComparison
from reports.comparison.runs import ComparedRun
from reports.comparison.scores import ALPHA, SIGNS, MetricTest, Pair, reversed_pair
from reports.comparison.verdict import p_value, signed
from reports.gallery import told_apart
from reports.redaction import without_folder
from reports.stats import LEVEL, PERMUTATIONS, RESAMPLES, SEED, Interval
from reports.tables import number, span
from reports.verdict import Finding
from reports.wording import beam, clip, printable

SCHEMA_VERSION = 1
Shown = Callable[[str], str]


def shown_ids(*, with_paths: bool) -> Shown:
    """How image ids are shown: those that are paths without their folders, unless asked for."""
    return printable if with_paths else lambda text: printable(without_folder(text))


def told_ids(comparison: Comparison, shown: Shown) -> dict[str, str]:
    """What each image is called wherever the comparison is shown; ids that would be alike are numbered."""
    ids = comparison.image_ids
    return dict(zip(ids, told_apart(printable(shown(image_id)) for image_id in ids), strict=True))


def as_json(comparison: Comparison, *, shown: Shown = printable) -> str:
    """Everything, as one strict JSON document; numbers that can't be computed are null."""
    ids = told_ids(comparison, shown)
    content = {
        "schema_version": SCHEMA_VERSION,
        "command": comparison.command,
        "images": len(comparison.image_ids),
        "statistics": {
            "level": LEVEL, "alpha": ALPHA, "resamples": RESAMPLES, "permutations": PERMUTATIONS, "seed": SEED,
            "correction": "Holm over all pairs and metrics",
        },
        "runs": [_run(run) for run in comparison.runs],
        "metrics": [
            {"name": metric.name, "values": [_interval(i) for i in metric.intervals]}
            for metric in comparison.metrics
        ],
        "not_compared": comparison.left_out,
        "other_metrics": [
            {
                "name": other.name,
                "unit": other.unit,
                "higher_is_better": other.higher_is_better,
                "values": [row and {"value": row.value, "n": row.n, "reason": row.reason} for row in other.rows],
            }
            for other in comparison.others
        ],
        "pairs": [_pair(pair) for pair in comparison.pairs],
        "best": comparison.best,
        "captions": [_captions(against, ids) for against in comparison.against],
        "explanations": [
            {"run": against.run, **_explanations(against.explanations)} for against in comparison.against
        ],
        "speed": [
            {
                "run": against.run,
                "benchmarks": [{"name": r.name, "clock": r.clock, **r.pace._asdict()} for r in against.speed.rows],
                "notes": against.speed.notes,
            }
            for against in comparison.against
        ],
        "settings": [{"name": s.name, "values": s.values} for s in comparison.settings],
        "verdict": {
            "overall": [_finding(finding) for finding in comparison.verdict],
            "runs": [
                {"run": against.run, "answers": [_finding(finding) for finding in against.verdict]}
                for against in comparison.against
            ],
        },
        "warnings": comparison.warnings,
    }  # fmt: skip
    return json.dumps(_finite(content), indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def _run(run: ComparedRun) -> dict[str, object]:
    record = run.record
    return {
        "name": run.name,
        "run": record.name,
        "model": record.model and record.model.name,
        "data": record.data.name,
        "split": record.data.split,
        "beam_size": run.beam_size,
        "images": len(run.images),
        "status": record.status,
        "created": record.created,
        "command": record.command,
        "sha256": record.provenance.sha256,
    }


def _interval(interval: Interval) -> dict[str, object]:
    return interval._asdict()


def _pair(pair: Pair) -> dict[str, object]:
    return {
        "first": pair.first,
        "second": pair.second,
        "tests": [
            {
                "metric": found.metric,
                **_test(found.test._asdict(), found.adjusted_p, found.effect),
                "differing": found.differing,
                "outcome": found.outcome,
            }
            for found in pair.tests
        ],
    }


def _test(test: Mapping[str, object], adjusted_p: float, effect: float | None) -> dict[str, object]:
    kept = {key: value for key, value in test.items() if key not in ("p_worse", "p_differs")}
    return {**kept, "p": test["p_differs"], "corrected_p": adjusted_p, "effect": effect}


def _captions(against: Against, ids: Mapping[str, str]) -> dict[str, object]:
    found = against.captions
    return {
        "run": against.run,
        "same": _interval(found.same),
        "metric": found.metric,
        "changed": [{"image_id": ids[i], "difference": d} for i, d in found.differences.items()],
        "lost_most": [_changed(row, ids) for row in found.lost],
        "gained_most": [_changed(row, ids) for row in found.gained],
        "replaced": [swap._asdict() for swap in found.swaps],
    }


def _changed(row: ChangedCaption, ids: Mapping[str, str]) -> dict[str, object]:
    return {
        "image_id": ids[row.image_id],
        "changes": [change._asdict() for change in row.changes],
        "references": row.references,
        "scores": row.scores,
    }


def _explanations(found: ExplanationComparison) -> dict[str, object]:
    gaze = found.gaze
    return {
        "measures": [
            {
                "family": row.measure.family,
                "measure": row.measure.column,
                "method": row.measure.method,
                "values": [_interval(row.first), _interval(row.second)],
                **_test(row.test._asdict(), row.adjusted_p, row.effect),
                "outcome": row.outcome.split()[-1],
            }
            for row in found.tests
        ],
        "gaze": gaze
        and {
            "cosine": _interval(gaze.cosine),
            "null": gaze.null,
            "excess": _interval(gaze.excess),
            "words": gaze.words,
        },
        "notes": found.notes,
    }


def _finding(finding: Finding) -> dict[str, object]:
    return finding._asdict()


def score_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """A line for each metric and run: its value, and how it differs from the first run's."""
    rows = []
    for metric in comparison.metrics:
        for place, (run, interval) in enumerate(zip(comparison.runs, metric.intervals, strict=True)):
            value = f"{number(interval.value)} ({span(interval)})"
            cells: tuple[str, ...] = ("the first run", "", "", "", f"{interval.n:,}", "")
            if place:
                tests = comparison.against[place - 1].pair.tests
                cells = test_cells(next(test for test in tests if test.metric == metric.name))
            rows.append((metric.name, run.name, value, *cells))
    return rows


def test_cells(found: MetricTest) -> tuple[str, ...]:
    """Difference, its interval, corrected p, effect, images, and the outcome as sign and word."""
    test = found.test
    ends = "–" if test.low is None or test.high is None else f"{signed(test.low)} to {signed(test.high)}"
    return (
        signed(test.difference),
        ends,
        p_value(found.adjusted_p),
        "–" if found.effect is None else signed(found.effect, 2),
        f"{found.differing:,} of {test.n:,} differ",
        f"{SIGNS[found.outcome]} {found.outcome}",
    )


def matrix(comparison: Comparison, metric: str) -> list[list[MetricTest | None]]:
    """Each run (row) judged beside each other run (column) in one metric; None beside itself."""
    places = range(len(comparison.runs))
    tests = {}
    for pair in comparison.pairs:
        for turned in (pair, reversed_pair(pair)):
            found = next((test for test in turned.tests if test.metric == metric), None)
            tests[turned.second, turned.first] = found
    return [[tests.get((row, column)) for column in places] for row in places]


def matrix_cell(found: MetricTest | None) -> str:
    """Who is better, as sign and word, and by how much."""
    if found is None:
        return "–"
    return f"{SIGNS[found.outcome]} {found.outcome} {signed(found.test.difference)}"


def as_text(comparison: Comparison) -> str:
    """Verdict, scores, warnings, as lines without control characters; no line starts with a stranger's text."""
    lines = [f"compared over {len(comparison.image_ids):,} images:"]
    lines += [f"  {run.name}: {beam(run.beam_size)}" for run in comparison.runs]
    for finding in (*comparison.verdict, *(f for against in comparison.against for f in against.verdict)):
        lines += ["", f"{finding.question} {finding.answer}."]
        lines += [f"  {sentence}" for sentence in finding.sentences]
    rows: list[tuple[str, ...]] = [
        ("", "run", "value (95 %)", "difference", "95 % interval", "p", "effect", "images", "")
    ]
    rows += [(name, clip(run, 30), *cells) for name, run, *cells in score_rows(comparison)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines += [""] if comparison.metrics else []
    for row in rows if comparison.metrics else ():
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
    lines += ["", *(f"Note: {text}" for text in (*comparison.warnings, *comparison.left_out))]
    return "\n".join(clip(printable(line), 1000).rstrip() for line in lines).rstrip() + "\n"
