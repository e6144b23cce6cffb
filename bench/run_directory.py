"""Which run may be written into which folder."""

from dataclasses import replace

from bench.config import digest
from bench.errors import ConfigError
from reports.records import RunRecord
from reports.store import RunStore


def identity(record: RunRecord) -> str:
    """A digest of everything that decides the numbers; how the work is divided does not."""
    divided = ("batch_size", "workers")
    config = {name: value for name, value in record.config.items() if name not in divided}
    return digest({"config": config, "sha256": dict(record.provenance.sha256)})


def named(record: RunRecord, stem: str) -> RunRecord:
    """The record with a name that is a plain file name: the beginning of `stem`, and of the run's identity."""
    plain = "".join(c if c.isalnum() or c in "-_" else "-" for c in stem)
    return replace(record, name=f"{plain[:60]}-{identity(record)[:8]}")


def prepare(store: RunStore, record: RunRecord, *, fresh: bool) -> None:
    """Makes sure that the run directory is empty, or holds this very run.

    Args:
        store: the run directory.
        record: the run that is to be written.
        fresh: whether an earlier run may be removed.

    Raises:
        ConfigError: if it holds anything else.
    """
    path = store.path
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path / "run.json").is_file():
        raise ConfigError(f"{path} exists and is not a run directory; give --out a new or empty folder")
    if fresh:
        store.clear()
        return
    if identity(store.read_run()) != identity(record):
        raise ConfigError(
            f"{path} holds a run of another checkpoint, data set or options; "
            "give another --out, or --fresh to replace it"
        )
