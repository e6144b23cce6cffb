"""How the files of a run directory are called, and by that whether a folder holds nothing but what a run left there."""

import re
from pathlib import Path

from reports.explained import FOLDER as EXPLAINED
from reports.shards import shards
from reports.unfinished import FOLDER as UNFINISHED

RUN_FILES = (
    "run.json", "captions.jsonl", "scores.parquet", "attributions.parquet", "maps.npz", "sanity.parquet",
    "interventions.parquet", "failures.jsonl", "throughput.json", "report.html",
)  # fmt: skip
"""Those of a whole run; run.json, which says whose they are, is written first and removed last."""
GATE_FILES = ("gate.json", "gate.junit.xml", "gate.md")
"""What the gate writes beside them, and no run removes."""
THUMBS = "thumbs"
_IN_FOLDERS = {
    THUMBS: re.compile(r"[0-9a-f]{32}\.jpg"),
    EXPLAINED: re.compile(r"\d{6,}-[0-9a-f]{16}\.zip|[a-z0-9-]+\.json|survey\.npz"),
    UNFINISHED: re.compile(r"[0-9a-f]{32}\.parquet"),
}
_HALF_WRITTEN = re.compile(r"\.(.+\.(json|jsonl|parquet|npz|zip|jpg|html|md|xml))\.[a-z0-9_]{8}")


def half_written(name: str) -> str | None:
    """The name of the file that was to be, if `write_atomically` was killed and left this one; else None."""
    match = _HALF_WRITTEN.fullmatch(name)
    return match[1] if match else None


def is_left_over(entry: Path) -> bool:
    """Whether something in a folder without run.json is of a run or the gate, which were killed, and holds no results.

    Args:
        entry: a file or folder.

    Returns:
        True of what is half written, of the gate's files, and of folders with nothing but what a run puts there.
    """
    if entry.is_symlink():
        return False
    if entry.is_file():
        return entry.name in GATE_FILES or half_written(entry.name) in (*RUN_FILES, *GATE_FILES)
    of_a_run = _IN_FOLDERS.get(entry.name)
    return (
        of_a_run is not None
        and entry.is_dir()
        and all(
            each.is_file() and of_a_run.fullmatch(half_written(each.name) or each.name)
            for each in entry.iterdir()
        )
    )


def results(folder: Path) -> list[Path]:
    """The files of a run, merged or not, that are in a folder."""
    return [path for path in (*(folder / name for name in RUN_FILES), *shards(folder)) if path.is_file()]
