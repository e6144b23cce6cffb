"""What the throughput suite measured: read from pytest-benchmark's JSON, shown, and kept with a run."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from reports.records import RunError, from_json
from reports.store import RunStore, write_atomically
from reports.wording import clip, percent, printable

# Far above what the suite writes, which is some hundred kilobytes for some hundred benchmarks.
_MAX_BYTES = 16 << 20
_MAX_ROWS = 10_000
_MAX_NUMBER = 1e18
_RATIO = "ratio_to_"


@dataclass(frozen=True)
class Device:
    """A graphics card, and what it reached in float32."""

    name: str
    memory_bytes: int
    cuda: str
    """Version."""
    matmul_flops_per_second: float
    copy_bytes_per_second: float


@dataclass(frozen=True)
class Machine:
    """What decides how fast a machine is, and what its processor reached with one thread in float32."""

    processor: str
    instructions: tuple[str, ...]
    """Those of the processor's instruction sets that matrix products use."""
    cores: int
    threads: int
    """That torch used."""
    torch: str
    python: str
    system: str
    matmul_flops_per_second: float
    copy_bytes_per_second: float
    """Bytes read and bytes written both count."""
    gpu: Device | None


@dataclass(frozen=True)
class BenchmarkRow:
    """One benchmark. Shares and ratios are medians over its rounds, each against readings of the same round."""

    name: str
    group: str
    params: Mapping[str, str]
    seconds: float
    """Median of the rounds."""
    rounds: int
    device: str
    """As torch names its kind: cpu or cuda."""
    dtype: str
    images: int | None
    words: int | None
    """Of all captions together, `<end>` not counted."""
    images_per_second: float | None
    words_per_second: float | None
    ms_per_word: float | None
    flops: int | None
    bytes: int | None
    """To be moved, as `bench.throughput.floor` counts."""
    floor_seconds: float | None
    floor_fraction: float | None
    """The floor's share of the time taken; 1 is at the floor."""
    peak_memory_bytes: int | None
    """Of the process on the CPU, of the allocated tensors on CUDA."""
    captions_checked: int | None
    """Captions that were compared with the slow path's."""
    near_ties: int | None
    """Those of them that differ, where rounding decides between two captions."""
    ratios: Mapping[str, float]
    """By reference: how many times as long that takes. `literal` is the literal loop, or all of its procedure."""

    @property
    def ratio_to_literal(self) -> float | None:
        """How many times as long the literal program takes; None where there is none."""
        return self.ratios.get("literal")


@dataclass(frozen=True)
class Benchmarks:
    """One run of the suite."""

    created: str
    """ISO 8601."""
    machine: Machine
    rows: tuple[BenchmarkRow, ...]


def read_benchmarks(path: Path) -> Benchmarks:
    """Reads what `tox -e bench` stored.

    Args:
        path: pytest-benchmark's JSON file.

    Returns:
        Its benchmarks in the order in which they ran.

    Raises:
        RunError: if the file can't be read, is too large, or was not written by this suite.
    """
    content = _content(path)
    benchmarks, machine = content.get("benchmarks"), content.get("machine_info")
    if not isinstance(benchmarks, list) or not isinstance(machine, dict) or "throughput" not in machine:
        raise RunError(
            f"{path} was not written by this throughput suite; expected the file of `tox -e bench`"
        )
    if len(benchmarks) > _MAX_ROWS:
        raise RunError(f"{path} lists {len(benchmarks):,} benchmarks; at most {_MAX_ROWS:,} are read")
    return from_json(
        Benchmarks,
        {
            "created": content.get("datetime"),
            "machine": machine["throughput"],
            "rows": [_row(item, f"{path}: benchmark {number}") for number, item in enumerate(benchmarks)],
        },
        str(path),
    )


def _content(path: Path) -> dict[str, object]:
    try:
        if not path.is_file():
            raise RunError(f"{path} is not a file; expected the JSON file that `tox -e bench` writes")
        if path.stat().st_size > _MAX_BYTES:
            raise RunError(f"{path} has {path.stat().st_size:,} bytes; at most {_MAX_BYTES:,} are read")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise RunError(f"{path} can't be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is not JSON ({error}); run `tox -e bench` again") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} holds no benchmarks; expected the JSON file that `tox -e bench` writes")
    return content


def _row(item: object, where: str) -> dict[str, object]:
    """One benchmark of pytest-benchmark as the fields of `BenchmarkRow`, their types still to be checked."""
    stats = item.get("stats") if isinstance(item, dict) else None
    extra = item.get("extra_info") if isinstance(item, dict) else None
    params = (item.get("params") or {}) if isinstance(item, dict) else None
    if not isinstance(item, dict) or not all(isinstance(part, dict) for part in (stats, extra, params)):
        raise RunError(f"{where} is not one of pytest-benchmark's; run `tox -e bench` again")
    assert isinstance(stats, dict)
    assert isinstance(extra, dict)
    assert isinstance(params, dict)
    ties = extra.get("near_ties")
    row = {field.name: extra.get(field.name) for field in fields(BenchmarkRow)} | {
        "name": item.get("name"),
        "group": item.get("group"),
        "params": {key: str(value) for key, value in params.items() if isinstance(value, str | int | float)},
        "seconds": stats.get("median"),
        "rounds": stats.get("rounds"),
        "near_ties": len(ties) if isinstance(ties, list) else ties,
        "ratios": {key.removeprefix(_RATIO): extra[key] for key in extra if key.startswith(_RATIO)},
    }
    numbers = [*row.values(), *row["ratios"].values()]
    for value in numbers:
        if isinstance(value, int | float) and not 0 <= value <= _MAX_NUMBER:  # false for NaN, too
            raise RunError(f"{where} holds the number {value!r:.40}; expected 0 to {_MAX_NUMBER:.0e}")
    return row


def merge_into(run: Path, benchmarks: Benchmarks) -> None:
    """Keeps benchmarks with a run: under `benchmarks` in its throughput.json, in place of earlier ones.

    Args:
        run: a run directory.
        benchmarks: what `read_benchmarks` returned.

    Raises:
        RunError: if it is no run directory, or its throughput.json can't be read.
    """
    record = RunStore(run).read_run()
    path = run / "throughput.json"
    content: dict[str, object] = {"schema_version": record.schema_version}
    if path.exists():
        if not path.resolve().is_relative_to(run.resolve()):
            raise RunError(f"{path} leads out of the run directory; expected a plain file inside it")
        content = _content(path)
    text = json.dumps(
        content | {"benchmarks": asdict(benchmarks)}, ensure_ascii=False, allow_nan=False, indent=1
    )
    with write_atomically(path) as file:
        file.write(text.encode("utf-8", "backslashreplace") + b"\n")


def throughput_table(benchmarks: Benchmarks) -> str:
    """The benchmarks as lines for the terminal, group by group, without control characters."""
    machine = benchmarks.machine
    lines = [
        f"{machine.processor}, {machine.threads} of {machine.cores} cores, torch {machine.torch}: matrix products at "
        f"{_metric(machine.matmul_flops_per_second)}FLOP/s, copies at {_metric(machine.copy_bytes_per_second)}B/s"
    ]
    if gpu := machine.gpu:
        lines.append(
            f"{gpu.name}, CUDA {gpu.cuda}: matrix products at {_metric(gpu.matmul_flops_per_second)}FLOP/s, "
            f"copies at {_metric(gpu.copy_bytes_per_second)}B/s"
        )
    table = [_HEADINGS]
    for group in dict.fromkeys(row.group for row in benchmarks.rows):
        table += [(group, *[""] * (len(_HEADINGS) - 1))]
        table += [_cells(row) for row in benchmarks.rows if row.group == group]
    lines += ["", *_columns(table)]
    if checked := sum(row.captions_checked or 0 for row in benchmarks.rows):
        ties = sum(row.near_ties or 0 for row in benchmarks.rows)
        lines += [
            "",
            f"captions compared with the slow path's: {checked:,}; near-ties that differ: {ties:,}",
        ]
    return "\n".join(printable(line).rstrip() for line in lines) + "\n"


_HEADINGS: tuple[str, ...] = (
    "", "time", "per image", "images/s", "words/s", "of the floor", "memory", "times as fast as",
)  # fmt: skip


def _cells(row: BenchmarkRow) -> tuple[str, ...]:
    name = row.name.partition("[")[0].removeprefix("test_").replace("_", " ")
    params = [
        value if key == "device" else f"{key.replace('_', ' ')} {value}" for key, value in row.params.items()
    ]
    return (
        "  " + clip(", ".join([name, *params]), 80),
        f"{_metric(row.seconds)}s",
        f"{_metric(row.seconds / row.images)}s" if row.images else "",
        _metric(row.images_per_second),
        _metric(row.words_per_second),
        "" if row.floor_fraction is None else percent(row.floor_fraction),
        f"{_metric(row.peak_memory_bytes)}B" if row.peak_memory_bytes else "",
        ", ".join(f"{clip(name.replace('_', ' '), 40)} {ratio:.2f}" for name, ratio in row.ratios.items()),
    )


def _columns(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Lines in which the first and the last column stand left and the others right."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join((
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1], strict=True)),
            row[-1],
        ))
        for row in rows
    ]  # fmt: skip


def _metric(value: float | None) -> str:
    """Three digits and a metric prefix; empty for None."""
    if value is None:
        return ""
    power = min(max(math.floor(math.log10(value) / 3), -3), 5) if value > 0 else 0
    scaled = value / 1000.0**power
    digits = 2 if scaled < 10 else 1 if scaled < 100 else 0
    return f"{scaled:.{digits}f} {('n', 'µ', 'm', '', 'k', 'M', 'G', 'T', 'P')[power + 3]}"
