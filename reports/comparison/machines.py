"""What else two runs differ in: how fast they were, and the settings they were made with."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from reports.comparison.runs import ComparedRun
from reports.finished_run import is_timed, machine_terms
from reports.records import RunRecord
from reports.redaction import redacted, without_folder
from reports.speed import Pace, SpeedRecord, SpeedRow, clock, compare_clocks
from reports.wording import clip, printable

SLOWER = 0.1
"""Share of time beyond which a benchmark can be called slower or faster, as in the gate."""
_DIGITS = 12  # of a hash
MOST_SETTINGS = 100
"""Settings that a page lists."""


class Setting(NamedTuple):
    """Something in which the runs differ; what a run lacks is None."""

    name: str
    values: tuple[str | None, ...]


class PaceRow(NamedTuple):
    """One benchmark of two runs."""

    name: str
    clock: str
    pace: Pace


class SpeedComparison(NamedTuple):
    """How fast the second of two runs is beside the first."""

    rows: tuple[PaceRow, ...]
    notes: tuple[str, ...]
    """Why there is no more, in sentences."""


def speed(first: ComparedRun, second: ComparedRun) -> SpeedComparison:
    """Times as ratios to reference kernels, where both were measured on the same kind of machine."""
    if first.store.path.resolve() == second.store.path.resolve():
        return SpeedComparison((), ("Both are of one run, whose speed was measured once.",))
    ours, theirs = first.speed, second.speed
    if ours is None or theirs is None:
        lacking = [run.name for run in (first, second) if run.speed is None]
        return SpeedComparison((), (f"Speed was not measured in {_and(lacking)}.",))
    if other := _other_machine(ours, theirs):
        return SpeedComparison((), (f"Times are not compared: the runs were timed on another {other}.",))
    known, rows, notes = {row.name: row for row in theirs.rows}, [], []
    for row in ours.rows:
        name = clip(printable(row.name), 80)
        if row.name not in known:
            notes.append(f"“{name}” was timed in “{first.name}” alone.")
        elif row.sizes != known[row.name].sizes:
            notes.append(f"“{name}” is not compared: it was timed at other sizes.")
        else:
            rows += list(_paces(name, row, known[row.name], on_cpu=ours.device.startswith("cpu")))
    return SpeedComparison(tuple(rows), tuple(notes))


def _other_machine(ours: SpeedRecord, theirs: SpeedRecord) -> str:
    """In what the machines differ that times depend on; empty if in nothing."""
    before, after = machine_terms(ours), machine_terms(theirs)
    differing = {
        "processor": before.processor != after.processor,
        "device": before.device != after.device,
        "number of threads": before.threads != after.threads,
        "version of PyTorch": before.torch != after.torch,
    }
    return _and([name for name, differs in differing.items() if differs], quoted=False)


def _paces(name: str, before: SpeedRow, after: SpeedRow, *, on_cpu: bool) -> Iterator[PaceRow]:
    """Of a GPU only the wall clock counts: the processor waits."""
    clocks = [("wall time", before.wall_ratios, after.wall_ratios)]
    if on_cpu:
        clocks.insert(0, ("CPU time", before.cpu_ratios, after.cpu_ratios))
    for clock_name, ours, theirs in clocks:
        if is_timed(ours) and is_timed(theirs):
            pace = compare_clocks(clock(ours), clock(theirs), tol=SLOWER)
            # A gate asks whether it became slower; here a speed-up that could hide in the noise counts as well.
            if pace.outcome == "same" and pace.low <= 1 / (1 + 2 * SLOWER) - 1:
                pace = pace._replace(outcome="inconclusive")
            yield PaceRow(name, clock_name, pace)


def _and(names: Sequence[str], *, quoted: bool = True) -> str:
    shown = [f"“{name}”" if quoted else name for name in names]
    return " and ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))


def settings(runs: Sequence[ComparedRun], *, with_paths: bool) -> tuple[Setting, ...]:
    """All in which the runs differ, of what they were made with.

    Args:
        runs: as they were read: values that differ in a folder alone differ, though they may be shown alike.
        with_paths: whether absolute paths are shown.

    Returns:
        In the order of the first run that has it; hashes are cut to 12 digits.
    """
    whole = [_settings_of(run.record, None, with_paths=with_paths) for run in runs]
    names = dict.fromkeys(name for of in whole for name in of)
    differing = [name for name in names if len({of.get(name) for of in whole}) > 1]
    records = (run.record if with_paths else redacted(run.record) for run in runs)
    shown = [_settings_of(record, _DIGITS, with_paths=with_paths) for record in records]
    return tuple(Setting(name, tuple(of.get(name) for of in shown)) for name in differing)


def _settings_of(record: RunRecord, digits: int | None, *, with_paths: bool) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in _flat(_made_with(record, digits), str if with_paths else without_folder):
        found.setdefault(name, value)  # as in `redacted`: of keys that are shown alike the first counts
    return found


def _made_with(record: RunRecord, digits: int | None) -> Mapping[str, object]:
    provenance, model, explained = record.provenance, record.model, record.explanations
    found: dict[str, object] = {
        "settings": record.config,
        "data": {"name": record.data.name, "split": record.data.split, "images": record.data.images},
        "sha256": {name: value[:digits] if value else None for name, value in provenance.sha256.items()},
        "versions": provenance.versions,
        "machine": {
            "device": provenance.device,
            "threads": provenance.threads,
            "platform": provenance.platform,
            "java": provenance.java,
        },
        "code": provenance.git
        and {"commit": provenance.git.commit[:digits], "changed": provenance.git.dirty},
    }
    if model:
        training = {key: value for key, value in (model.training or {}).items() if key != "history"}
        found |= {
            "model": {
                "name": model.name,
                "encoder": model.encoder,
                "grid": f"{model.grid[0]} × {model.grid[1]}",
                "image size": model.image_size,
                "parameters": model.parameters,
                "words": model.vocabulary_size,
            },
            "decoder": model.decoder,
            "training": training,
        }
    if explained:
        found["explanations"] = {
            "images": explained.images, "beam size": explained.beam_size,
            "baseline": explained.annotation_baseline, **(explained.settings or {}),
        }  # fmt: skip
    return found


def _flat(
    value: Mapping[str, object], called: Callable[[str], str], above: str = ""
) -> Iterator[tuple[str, str]]:
    """Names with all that they lie in, and values as text; None is left out."""
    for key, item in value.items():
        name = f"{above}{called(str(key))}"
        if isinstance(item, Mapping):
            yield from _flat(item, called, f"{name}: ")
        elif item is not None:
            text = item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)
            yield clip(printable(name), 120), printable(text)
