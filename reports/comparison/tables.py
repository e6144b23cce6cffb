"""The tables of a comparison's page: what stands in each cell."""

from collections.abc import Iterable, Sequence

from reports.comparison.compare import Against, Comparison
from reports.comparison.explanations import MeasureTest, by_family
from reports.comparison.machines import MOST_SETTINGS
from reports.comparison.output import matrix, matrix_cell, test_cells
from reports.comparison.runs import ComparedRun
from reports.comparison.scores import MetricTest
from reports.comparison.verdict import p_value, pace_text, signed
from reports.legend import CAPTIONS, arrow
from reports.records import MetricRow
from reports.stats import Interval
from reports.tables import EMPTY, Cell, Grid, Row, count, number, span
from reports.wording import beam, clip, measured, row_span

_NAME, _VALUE = 60, 200  # characters of strangers' names and values in a cell


def scores(comparison: Comparison) -> Grid | None:
    """Two runs: a line per metric. More: a line per metric and run, each beside the first."""
    if not comparison.metrics:
        return None
    names = [clip(run.name, _NAME) for run in comparison.runs]
    heads = ("Difference", "Corrected p", "Effect", "Images", "Verdict")
    groups: dict[str, list[Row]] = {}
    for metric in comparison.metrics:
        meaning = CAPTIONS.get(metric.name)
        direction = f"{arrow(True)}, {meaning.range}" if meaning else arrow(True)
        values = [_value(interval) for interval in metric.intervals]
        tests = [_test_of(against, metric.name) for against in comparison.against]
        if len(names) == 2:
            row = Row(metric.name, (Cell(direction), *values, *_tested(tests[0])))
            groups.setdefault("", []).append(row)
            continue
        blank = (Cell("the first run"), *[Cell("")] * 4)
        groups[f"{metric.name} ({direction})"] = [
            Row(name, (value, *(_tested(tests[place - 1]) if place else blank)))
            for place, (name, value) in enumerate(zip(names, values, strict=True))
        ]
    columns = ("Direction", *names, *heads) if len(names) == 2 else ("Value", *heads)
    caption = "Each value and difference with its 95 % interval below it"
    return Grid(caption, "Metric" if len(names) == 2 else "Run", tuple(map(Cell, columns)), groups)


def _value(interval: Interval) -> Cell:
    return Cell(number(interval.value), (span(interval),))


def _test_of(against: Against, metric: str) -> MetricTest:
    return next(test for test in against.pair.tests if test.metric == metric)


def _tested(found: MetricTest) -> tuple[Cell, ...]:
    difference, ends, p, effect, images, outcome = test_cells(found)
    return (
        Cell(difference, (ends,)),
        Cell(p),
        Cell(effect),
        Cell(f"{found.test.n:,}", (images,)),
        Cell(outcome),
    )


def others(comparison: Comparison) -> list[Grid]:
    """What is shown without a test."""
    if not comparison.others:
        return []
    rows = []
    for other in comparison.others:
        direction = Cell(arrow(other.higher_is_better), (clip(other.unit, _NAME),))
        rows.append(Row(clip(other.name, _NAME), (*map(_stated, other.rows), direction)))
    columns = (*_names(comparison.runs), Cell("Direction", ("unit",)))
    caption = "As each run states it, over all of its own images; 95 % intervals below"
    return [Grid(caption, "Metric", columns, {"": rows})]


def _stated(row: MetricRow | None) -> Cell:
    if row is None:
        return EMPTY
    if row.value is None:
        return Cell("not computed", (clip(row.reason, _VALUE),) if row.reason else ())
    ends = row_span(row)
    return Cell(measured(row.value, row.unit), (ends,) if ends else ())


def _names(runs: Sequence[ComparedRun]) -> tuple[Cell, ...]:
    return tuple(Cell(clip(run.name, _NAME)) for run in runs)


def matrices(comparison: Comparison) -> list[Grid]:
    """One per metric, if there are more than two runs."""
    if len(comparison.runs) < 3:
        return []
    columns = _names(comparison.runs)
    return [
        Grid(
            f"{metric.name}: each row beside each column", "Run", columns,
            {"": [
                Row(head.value, tuple(Cell(matrix_cell(found)) for found in line))
                for head, line in zip(columns, matrix(comparison, metric.name), strict=True)
            ]},
        )
        for metric in comparison.metrics
    ]  # fmt: skip


def swaps(against: Against) -> Grid | None:
    """Which words took the place of which."""
    rows = [
        Row(
            clip(swap.before, _VALUE) or "(nothing)",
            (Cell(clip(swap.after, _VALUE) or "(nothing)"), Cell(f"{swap.captions:,}")),
        )
        for swap in against.captions.swaps
    ]
    columns = (Cell("Said instead"), Cell("Captions"))
    return Grid("The most frequent changes", "Words before", columns, {"": rows}) if rows else None


def explained(comparison: Comparison, against: Against) -> Grid | None:
    """A line per measure."""
    groups = {
        family[0].upper() + family[1:]: [_measured(test) for test in tests]
        for family, tests in by_family(against.explanations.tests).items()
    }
    first, second = comparison.runs[0], comparison.runs[against.run]
    columns = (
        *_names((first, second)),
        *map(Cell, ("Difference", "Corrected p", "Effect", "Images", "Verdict")),
    )
    caption = "Attention’s measures, each value and difference with its 95 % interval below it"
    return Grid(caption, "Measure", columns, groups) if groups else None


def _measured(found: MeasureTest) -> Row:
    meaning, test = found.measure.meaning, found.test
    ends = "–" if test.low is None or test.high is None else f"{signed(test.low)} to {signed(test.high)}"
    cells = (
        _value(found.first),
        _value(found.second),
        Cell(signed(test.difference), (ends, arrow(meaning.higher_is_better))),
        Cell(p_value(found.adjusted_p)),
        Cell("–" if found.effect is None else signed(found.effect, 2)),
        Cell(f"{test.n:,}"),
        Cell(found.outcome),
    )
    return Row(f"{meaning.label} ({meaning.range})", cells)


def paces(against: Against) -> Grid | None:
    """A line per benchmark and clock."""
    rows = [Row(f"{row.name}, {row.clock}", (Cell(pace_text(row)),)) for row in against.speed.rows]
    caption = "Time beside the first run’s, both as ratios to reference kernels (↓ lower is faster)"
    return Grid(caption, "Benchmark", (Cell("Change, with 90 % interval"),), {"": rows}) if rows else None


def decoding(runs: Sequence[ComparedRun]) -> Grid | None:
    """What decoding took in each run; whatever else the machine did is in it."""
    rows = []
    for run in runs:
        stage = next((stage for stage in run.record.stages if stage.name == "decode"), None)
        if stage is not None and stage.items > 0:
            each = f"{1000 * stage.seconds / stage.items:,.2f} ms"
            machine = f"{run.record.provenance.device}, {count(run.record.provenance.threads, 'thread')}"
            cells = (Cell(each), Cell(f"{stage.items:,}"), Cell(clip(machine, _VALUE)))
            rows.append(Row(clip(run.name, _NAME), cells))
    columns = tuple(map(Cell, ("A caption, by the clock", "Captions", "Machine")))
    caption = "Decoding as it happened, all beam sizes together; seconds do not compare between machines"
    return Grid(caption, "Run", columns, {"": rows}) if rows else None


def runs(comparison: Comparison) -> Grid:
    """A line per run."""
    rows = []
    for run in comparison.runs:
        record = run.record
        checkpoint = (record.provenance.sha256.get("checkpoint") or "")[:12]
        model = record.model.name if record.model else "captions from a file"
        rows.append(Row(clip(run.name, _NAME), (
            Cell(clip(model, _NAME), (checkpoint,) if checkpoint else ()),
            Cell(beam(run.beam_size)),
            Cell(f"{len(run.images):,}"),
            Cell(clip(record.data.name, _NAME), (clip(record.data.split, _NAME),)),
            Cell(clip(record.name, _NAME)),
            Cell(record.created[:16].replace("T", " "), (record.status,)),
        )))  # fmt: skip
    heads = ("Model", "Captions", "Images", "Data", "Name of the run", "Made")
    columns = (Cell(heads[0], ("SHA-256 begins",)), *map(Cell, heads[1:]))
    return Grid("The runs, the first being what others stand beside", "Run", columns, {"": rows})


def settings(comparison: Comparison) -> Grid | None:
    """A line for each setting in which the runs differ."""

    def shown(values: Iterable[str | None]) -> tuple[Cell, ...]:
        return tuple(EMPTY if value is None else Cell(clip(value, _VALUE)) for value in values)

    rows = [Row(setting.name, shown(setting.values)) for setting in comparison.settings[:MOST_SETTINGS]]
    caption = "Settings, versions and hashes; – where a run has none"
    if any(len(set(setting.values)) == 1 for setting in comparison.settings[:MOST_SETTINGS]):
        caption += (
            ". Values that are shown alike differ in what is cut: the folders of paths, the ends of hashes"
        )
    if len(rows) < len(comparison.settings):
        caption += (
            f". The first {len(rows):,} of {len(comparison.settings):,} are listed; compare.json has all"
        )
    return Grid(caption, "Setting", _names(comparison.runs), {"": rows}) if rows else None
