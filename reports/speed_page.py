"""The report's part on throughput: how long this run took, how fast the machine is, how near the program is to it."""

import json
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import astuple
from statistics import median
from typing import NamedTuple

from reports.legend import arrow
from reports.records import RunError, RunRecord, StageRow, from_json, refuse_constant
from reports.speed import SpeedRecord, SpeedRow, clock
from reports.stats import LEVEL
from reports.store import RunStore
from reports.tables import EMPTY, Cell, Grid, Row, count, number
from reports.throughput import BenchmarkRow, Benchmarks, Machine
from reports.wording import clip

MOST_ROWS = 200
"""Benchmarks in a page; the suite has some forty."""
_MAX_BYTES = 64 << 20
_MAX_NUMBER = 1e18
_LEAST_SHARE = 1e-4  # of the floor, that is drawn: below, the others' bars would vanish
_NORMAL = 1.959964  # standard errors to each side, of a normal distribution's 95 %
assert LEVEL == 0.95


class Throughput(NamedTuple):
    """What the part on throughput shows; texts and tables that nothing was stored for are empty or None."""

    machine: str
    stages: Grid | None
    speed: Grid | None
    speed_machine: str
    suite: Grid | None
    suite_machine: tuple[str, ...]
    suite_findings: tuple[str, ...]
    floors: dict[str, dict[str, float]]
    """Group -> benchmark -> time as a multiple of the floor, for `reports.figures.multiples_of_floor`."""


def throughput(store: RunStore, record: RunRecord) -> Throughput:
    """What a run knows of times; raises `RunError` if its throughput.json is damaged.

    Args:
        store: the run; throughput.json is read.
        record: its run.json, with the stages.

    Returns:
        Texts and tables.
    """
    made, speed, kept = record.provenance, store.read_speed(), kept_benchmarks(store)
    threads = count(made.threads, "thread")
    return Throughput(
        machine=f"{made.platform}, {made.device}, {threads}",
        stages=_stages(record.stages),
        speed=_speed(speed) if speed else None,
        speed_machine=_speed_machine(speed) if speed else "",
        suite=_suite(kept.rows[:MOST_ROWS]) if kept else None,
        suite_machine=tuple(_suite_machine(kept)) if kept else (),
        suite_findings=tuple(_findings(kept.rows)) if kept else (),
        floors=_floors(kept.rows[:MOST_ROWS]) if kept else {},
    )


def kept_benchmarks(store: RunStore) -> Benchmarks | None:
    """The benchmarks that `reports.throughput.merge_into` kept with a run.

    Args:
        store: the run.

    Returns:
        The benchmarks; None if there are none.

    Raises:
        RunError: if throughput.json is no plain file in the run, is too large, or holds something else.
    """
    path = store.path / "throughput.json"
    if not path.exists():
        return None
    if not path.is_file() or not path.resolve().is_relative_to(store.path.resolve()):
        raise RunError(f"{path} is not a plain file inside the run directory; run it again with --fresh")
    if path.stat().st_size > _MAX_BYTES:
        raise RunError(f"{path} has {path.stat().st_size:,} bytes; at most {_MAX_BYTES:,} are read")
    try:
        content = json.loads(path.read_bytes(), parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is not JSON ({error}); run it again with --fresh") from error
    kept = content.get("benchmarks") if isinstance(content, dict) else None
    if kept is None:
        return None
    benchmarks = from_json(Benchmarks, kept, f"{path}: benchmarks")
    for value in _numbers(benchmarks.machine, benchmarks.rows):
        if not 0 <= value <= _MAX_NUMBER:
            raise RunError(f"{path} holds the number {value!r:.40} as a benchmark's; expected 0 to 1e18")
    return benchmarks


def _numbers(machine: Machine, rows: Iterable[BenchmarkRow]) -> Iterator[float]:
    values = [*astuple(machine), *(astuple(machine.gpu) if machine.gpu else ())]
    for row in rows:
        values += [*astuple(row), *row.ratios.values()]
    return (value for value in values if isinstance(value, int | float))


def _stages(stages: Sequence[StageRow]) -> Grid | None:
    rows = []
    for stage in stages:
        unit, speed = clip(stage.unit, 40), EMPTY
        if stage.seconds > 0:
            speed = Cell(f"{number(stage.items / stage.seconds, 2)} {unit} per second")
        amount = f"{stage.items:,} {unit.removesuffix('s') if stage.items == 1 else unit}"
        rows.append(Row(clip(stage.name, 80), (speed, Cell(f"{number(stage.seconds, 2)} s"), Cell(amount))))
    columns = (Cell("Speed", (arrow(True),)), Cell("Time", (arrow(False),)), Cell("Amount"))
    caption = "The stages of this run, by the clock; of a run that was resumed, what came to its end"
    return Grid(caption, "Stage", columns, {"": rows}) if rows else None


def _speed_machine(speed: SpeedRecord) -> str:
    return f"{speed.processor}, {speed.device}, {count(speed.threads, 'thread')}, torch {speed.torch}"


def _speed(speed: SpeedRecord) -> Grid | None:
    rows = [
        Row(
            clip(row.name, 80),
            (
                _clock(row.cpu_ratios),
                _clock(row.wall_ratios),
                Cell(_sizes(row)),
                Cell(f"{len(row.cpu_ratios or row.wall_ratios):,}"),
                *(Cell(f"{row.exact[name]:,}") if name in row.exact else EMPTY for name in _exact(speed)),
            ),
        )
        for row in speed.rows
    ]
    columns = (
        Cell("Ratio, processor time", ("1: as long as the kernels", arrow(False))),
        Cell("Ratio, on the clock", ("without others’ time", arrow(False))),
        Cell("Of"),
        Cell("Rounds"),
        *(Cell(clip(name.replace("_", " "), 40).capitalize(), ("exact",)) for name in _exact(speed)),
    )
    caption = "Times as multiples of the reference kernels’, medians over rounds, with 95 % intervals"
    return Grid(caption, "Task", columns, {"": rows}) if rows else None


def _exact(speed: SpeedRecord) -> list[str]:
    return list(dict.fromkeys(name for row in speed.rows for name in row.exact))[:8]


def _sizes(row: SpeedRow) -> str:
    names = {name: clip(name.replace("_", " "), 40) for name in row.sizes}
    return ", ".join(
        f"{size:,} {names[name]}" if name == "images" else f"{names[name]} {size:,}"
        for name, size in row.sizes.items()
    )


def _clock(ratios: Sequence[float]) -> Cell:
    if not ratios or min(ratios) <= 0:
        return EMPTY
    found = clock(ratios)
    if not math.isfinite(found.error):
        return Cell(number(found.ratio, 2), ("one round: no interval",))
    low, high = (found.ratio * math.exp(side * _NORMAL * found.error) for side in (-1, 1))
    return Cell(number(found.ratio, 2), (f"{number(low, 2)} to {number(high, 2)}",))


def _suite_machine(kept: Benchmarks) -> Iterator[str]:
    machine = kept.machine
    instructions = f" ({clip(', '.join(machine.instructions), 200)})" if machine.instructions else ""
    yield (
        f"Measured on {kept.created[:16].replace('T', ' ')} with {machine.threads} of {machine.cores} cores of "
        f"{machine.processor}{instructions}, {machine.system}, torch {machine.torch}, Python {machine.python}."
    )
    yield (
        f"In the same run one thread reached {_rates(machine.matmul_flops_per_second, machine.copy_bytes_per_second)}."
    )
    if gpu := machine.gpu:
        rates = _rates(gpu.matmul_flops_per_second, gpu.copy_bytes_per_second)
        yield f"{gpu.name} with {_gigabytes(gpu.memory_bytes)}, CUDA {gpu.cuda}, reached {rates}."


def _rates(flops: float, bytes_: float) -> str:
    return f"{number(flops / 1e9, 1)} GFLOP/s in float32 matrix products and {number(bytes_ / 1e9, 1)} GB/s in copies"


def _gigabytes(size: int) -> str:
    return f"{number(size / 1e9, 2)} GB"


def _findings(rows: Sequence[BenchmarkRow]) -> Iterator[str]:
    """The range of the floor's shares, the largest speed-up over the literal loop, and whether captions agree."""
    shares = [row.floor_fraction for row in rows if row.floor_fraction is not None]
    if shares:
        least, middle, most = (number(found(shares), 2) for found in (min, median, max))
        yield (
            f"{count(len(shares), 'benchmark')} with a known floor: the lowest share is {least}, the middle one "
            f"{middle}, the fastest {most}."
        )
    faster = [
        (row.ratio_to_literal, label)
        for row, label in zip(rows, _labels(rows), strict=True)
        if row.ratio_to_literal is not None
    ]
    if faster:
        (high, where), (low, _) = max(faster), min(faster)
        yield f"Beside the literal loop it is {number(low, 1)} to {number(high, 1)} times as fast (most: {where})."
    if checked := sum(row.captions_checked or 0 for row in rows):
        ties = sum(row.near_ties or 0 for row in rows)
        differ = f"{ties:,} differ, where rounding decides between two captions" if ties else "none differs"
        yield f"{count(checked, 'caption')} were compared with the slow path’s: {differ}."


_HEADS = (
    Cell("Time", (arrow(False),)),
    Cell("Images", ("per second", arrow(True))),
    Cell("Words", ("per second", arrow(True))),
    Cell("Each word", ("milliseconds", arrow(False))),
    Cell("Floor’s share", ("1 is at the floor", arrow(True))),
    Cell("Times as fast", ("as the literal loop", arrow(True))),
    Cell("Peak memory", (arrow(False),)),
    Cell("Captions checked"),
)


def _suite(rows: Sequence[BenchmarkRow]) -> Grid | None:
    groups: dict[str, list[Row]] = {}
    for row, label in zip(rows, _labels(rows), strict=True):
        groups.setdefault(_group(row), []).append(Row(label, _cells(row)))
    caption = "The throughput suite: times of one batch, medians over rounds"
    return Grid(caption, "Benchmark", _HEADS, groups) if groups else None


def _cells(row: BenchmarkRow) -> tuple[Cell, ...]:
    checked = EMPTY
    if row.captions_checked is not None:
        checked = Cell(
            f"{row.captions_checked:,}", (count(row.near_ties, "near-tie"),) if row.near_ties else ()
        )
    return (
        Cell(f"{number(1e3 * row.seconds, 2)} ms"),
        _number(row.images_per_second, 1),
        _number(row.words_per_second, 1),
        _number(row.ms_per_word, 3),
        _number(row.floor_fraction, 2),
        _number(row.ratio_to_literal, 1),
        EMPTY if row.peak_memory_bytes is None else Cell(_gigabytes(row.peak_memory_bytes)),
        checked,
    )


def _number(value: float | None, digits: int) -> Cell:
    return EMPTY if value is None else Cell(number(value, digits))


def _group(row: BenchmarkRow) -> str:
    return clip(row.group, 60).capitalize()


def _labels(rows: Sequence[BenchmarkRow]) -> list[str]:
    """The benchmarks in words; where all ran on one device, it is not named in each."""
    told = {"device"} if len({row.device for row in rows}) < 2 else set()
    return [_label(row, told) for row in rows]


def _label(row: BenchmarkRow, told: Collection[str]) -> str:
    name = row.name.partition("[")[0].removeprefix("test_").replace("_", " ")
    params = (
        value.replace("_", " ")
        if key in ("device", "dtype", "method")
        else f"{key.replace('_', ' ')} {value}"
        for key, value in row.params.items()
        if key not in told
    )
    return clip(", ".join([name, *params]), 80)


def _floors(rows: Sequence[BenchmarkRow]) -> dict[str, dict[str, float]]:
    floors: dict[str, dict[str, float]] = {}
    for row, label in zip(rows, _labels(rows), strict=True):
        if row.floor_fraction and row.floor_fraction > _LEAST_SHARE:
            floors.setdefault(_group(row), {})[label] = 1 / row.floor_fraction
    return floors
