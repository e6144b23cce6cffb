"""Which run may be written into which folder, by whom, and how far it has come."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from bench.config import EvalConfig, digest
from bench.errors import ConfigError
from reports.records import RunError, RunRecord
from reports.run_files import half_written, is_left_over, results
from reports.shards import shards
from reports.store import RunStore

LOCK = ".lock"
"""In a run directory, is held by the process that writes to it, and tells that process's id."""
_RECORDS = {"run": "run.json", "training": "training.json"}
_DIVIDED = ("batch_size", "workers")
_FOLLOWING = {"data": ("data", "split", "limit"), "references": ("data", "split", "limit")}
"""Fingerprints that are others where one of these options is."""


def identity(record: RunRecord) -> str:
    """A digest of everything that decides the numbers; how the work is divided does not."""
    config = {name: value for name, value in record.config.items() if name not in _DIVIDED}
    return digest({"config": config, "sha256": dict(record.provenance.sha256)})


def named(record: RunRecord, stem: str) -> RunRecord:
    """The record with a name that is a plain file name: the beginning of `stem`, and of the run's identity."""
    plain = "".join(c if c.isalnum() or c in "-_" else "-" for c in stem)
    return replace(record, name=f"{plain[:60]}-{identity(record)[:8]}")


@contextmanager
def locked(path: Path, *, kind: str = "run") -> Iterator[None]:
    """Keeps other processes from writing to a directory. However this one ends, the system lets go of it then.

    Where nothing is written, nothing is left: no folder that was not there before, and no lock.

    Args:
        path: the directory, which need not be there yet.
        kind: run, or training.

    Yields:
        Nothing.

    Raises:
        ConfigError: if another process is writing to it, or it is of no run or training.
    """
    _check_is(kind, path)
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    file = path / LOCK
    holder = file.read_text() if file.is_file() else ""
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        who = f"process {holder}" if holder.isdecimal() else "another process"
        raise ConfigError(
            f"{path} is being written to by {who}; wait until it has ended, or give another --out"
        ) from None
    try:
        file.write_text(str(os.getpid()))
        for entry in list(path.iterdir()):  # nobody is writing it now
            if half_written(entry.name) == _RECORDS[kind]:
                entry.unlink()
        yield
    finally:
        if _is_empty(path):
            file.unlink(missing_ok=True)
            for folder in made:
                with suppress(OSError):  # somebody else has put something there
                    folder.rmdir()
        lock.release()


def check_shared(path: Path) -> None:
    """Makes sure that a directory which the first process has locked is the one that this process sees.

    Args:
        path: the directory.

    Raises:
        ConfigError: if it is not.
    """
    if not (path / LOCK).exists():
        raise ConfigError(
            f"{path} is not the same folder for all processes; put --out on a disk that they all see"
        )


def _is_empty(path: Path) -> bool:
    return all(entry.name == LOCK for entry in path.iterdir())


def _check_is(kind: str, path: Path) -> None:
    if path.exists() and not (path.is_dir() and _is_ours(kind, path)):
        raise ConfigError(f"{path} exists and is not a {kind} directory; give --out a new or empty folder")


def _is_ours(kind: str, path: Path) -> bool:
    """Whether a folder holds a run or training, or no more than what one leaves that is killed as it begins."""
    if (path / _RECORDS[kind]).is_file():
        return True
    others = [entry for entry in path.iterdir() if entry.name != LOCK]
    if kind == "training":
        return all(half_written(entry.name) == _RECORDS[kind] for entry in others)
    known = results(path)
    return all(entry in known or is_left_over(entry) for entry in others)


def prepare(store: RunStore, record: RunRecord, *, fresh: bool) -> RunRecord | None:
    """Makes sure that the run directory is empty, or holds this very run.

    Args:
        store: the run directory.
        record: the run that is to be written.
        fresh: whether an earlier run may be removed.

    Returns:
        What the directory says of the run so far; None if it holds nothing.

    Raises:
        ConfigError: if it holds anything else.
    """
    _check_is("run", store.path)
    is_known = (store.path / "run.json").is_file()
    if not is_known and not fresh and (lost := results(store.path)):
        raise ConfigError(
            f"{store.path} holds {lost[0].name}, but no run.json that says of which run; "
            "give another --out, or --fresh to replace it"
        )
    if fresh or not is_known:
        store.tidy()
        store.clear()
        return None
    earlier = store.read_run()
    if identity(earlier) != identity(record):
        raise ConfigError(
            f"{store.path} holds a run of another checkpoint, data set or options "
            f"({'; '.join(_differences(earlier, record))}); give another --out, or --fresh to replace it"
        )
    store.tidy()
    return earlier


def _differences(earlier: RunRecord, record: RunRecord) -> list[str]:
    """What two runs differ in, in words."""
    options = {
        name: f"{_option(name)}: {_told(earlier, name)} there, {_told(record, name)} now"
        for name in {**earlier.config, **record.config}
        if name not in _DIVIDED and earlier.config.get(name, ...) != record.config.get(name, ...)
    }
    there, now = earlier.provenance.sha256, record.provenance.sha256
    contents = [
        f"the content of {'the data set' if name == 'data' else name.replace('_', ' ')}"
        for name in {**there, **now}
        if there.get(name) != now.get(name) and not options.keys() & {name, *_FOLLOWING.get(name, ())}
    ]
    return [*options.values(), *contents]


def _option(name: str) -> str:
    if name in ("checkpoint", "captions", "references"):
        return name
    return "--beam-size" if name == "beam_sizes" else f"--{name.replace('_', '-')}"


def _told(record: RunRecord, name: str) -> str:
    return json.dumps(record.config[name], ensure_ascii=False)[:80] if name in record.config else "not known"


def is_whole(store: RunStore, config: EvalConfig, record: RunRecord) -> bool:
    """Whether all is there that a finished run consists of."""
    return (
        holds(store, "captions.jsonl", "failures.jsonl", "throughput.json", "report.html")
        and not shards(store.path)
        and is_scored(store, record)
        and (config.explain == 0 or record.explanations is None or is_explained(store, record))
        and (record.explanations is None or holds(store, "interventions.parquet"))
    )


def is_scored(store: RunStore, record: RunRecord) -> bool:
    """Whether all captions of a run are scored."""
    return bool(record.metrics) and holds(store, "scores.parquet")


def is_scored_as_a_run(store: RunStore, record: RunRecord) -> bool:
    """Whether a run's scores are of all its captions, with what only its model and its data set can say of them.

    `gazebench score` finds neither in a run that `gazebench eval` has not scored yet, and notes no such stage then.
    """
    is_merged = holds(store, "captions.jsonl") and not shards(store.path)
    return is_merged and bool(record.metrics) and any(stage.name == "score" for stage in record.stages)


def is_explained(store: RunStore, record: RunRecord) -> bool:
    """Whether all images of a run that were to be explained are."""
    files = ("attributions.parquet", "maps.npz", "sanity.parquet")
    return record.explanations is not None and holds(store, *files)


def holds(store: RunStore, *names: str) -> bool:
    """Whether all these files are in a run directory."""
    return all((store.path / name).is_file() for name in names)


def is_timed(store: RunStore) -> bool:
    """Whether the speed of a run was measured."""
    try:
        return store.read_speed() is not None
    except RunError:  # of another version, or damaged
        return False
