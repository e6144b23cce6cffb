"""`python -m bench.throughput.scale_run IMAGES` evaluates so many small pictures and prints what that took, as JSON.

The evaluation is `gazebench eval` in a process of its own, Java and all; from the first picture to the finished report.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Thread
from typing import NamedTuple

from bench.throughput.photographs import KNOWN, english, write_captioner, write_photographs

BEAM_SIZES = (1, 3, 5)
_PAUSE = 0.05  # seconds between two looks
_STAGE = re.compile(r"(\w+): ([0-9.]+) s").fullmatch


@dataclass
class Footprint:
    """What an evaluation took. Memory in bytes, time in seconds."""

    images: int
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Of all its processes together."""
    peak: int = 0
    """Most memory that it and its Java programs held at once: resident pages, shared ones divided among those that
    share them, looked at every 50 ms."""
    peak_main: int = 0
    """Most memory that the Python process itself held, as the system counted it."""
    stages: dict[str, float] = field(default_factory=dict)
    """Wall time by stage; "start" is what comes before the first, data and checkpoint included."""
    cpu: dict[str, float] = field(default_factory=dict)
    """`cpu_seconds` by stage; what lies between two stages counts for the later one."""
    peaks: dict[str, int] = field(default_factory=dict)
    """Most memory by stage, shared pages counted in every process that has them."""
    java_peaks: dict[str, int] = field(default_factory=dict)
    """What of it the Java programs held, at most."""
    bytes: dict[str, int] = field(default_factory=dict)
    """Size of the run's files."""


def measure(images: int, folder: Path, *, options: tuple[str, ...] = ()) -> Footprint:
    """Evaluates some pictures of noise at beam sizes 1, 3 and 5, and looks on.

    Args:
        images: how many.
        folder: for pictures, captions and the run; what is in it already is used again.
        options: more options of `gazebench eval`.

    Returns:
        What it took. Memory is known on Linux alone.
    """
    data = folder / f"data-{images}"
    if not (data / "captions.json").exists():
        words = english(KNOWN)
        write_photographs(data, images, words=words)
        write_captioner(folder / "captioner.safetensors", words=words)
    run = folder / f"run-{images}"
    command = [
        sys.executable, "-P", "-c", "from bench.cli import main; raise SystemExit(main())",
        "eval", str(folder / "captioner.safetensors"), "--data", str(data), "--split", "all",
        "--beam-size", *map(str, BEAM_SIZES), "--out", str(run), "--fresh", "--explain", "0", *options,
    ]  # fmt: skip
    found = Footprint(images)
    begun = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        ended: list[tuple[float, str]] = []
        listener = Thread(target=_listen, args=(process, ended), daemon=True)
        listener.start()
        looks = list(_watch(process, found))
        listener.join()
        assert process.wait() == 0, ended
    found.seconds = time.monotonic() - begun
    _divide(found, begun, looks, ended)
    found.bytes = {path.name: path.stat().st_size for path in run.iterdir() if path.is_file()}
    found.bytes["thumbs"] = sum(path.stat().st_size for path in (run / "thumbs").iterdir())
    return found


def _listen(process: subprocess.Popen[str], ended: list[tuple[float, str]]) -> None:
    """Notes when each line came that the program wrote."""
    assert process.stderr
    ended.extend((time.monotonic(), line.strip()) for line in process.stderr)


class _Look(NamedTuple):
    """What can be seen at one moment of all processes."""

    when: float
    resident: int
    java: int
    cpu: float


def _watch(process: subprocess.Popen[str], found: Footprint) -> Iterator[_Look]:
    """Looks at all processes until the first one has ended."""
    cpu: dict[int, float] = {}
    while process.poll() is None:
        processes = _family(process.pid)
        main, *others = map(_resident, processes)
        for pid in processes:
            cpu[pid] = _cpu_seconds(pid) or cpu.get(pid, 0.0)
        if main + sum(others) > found.peak:
            found.peak = max(found.peak, sum(map(_proportional, processes)))
        found.peak_main = max(found.peak_main, _high_water(process.pid))
        yield _Look(time.monotonic(), main + sum(others), sum(others), sum(cpu.values()))
        time.sleep(_PAUSE)
    found.cpu_seconds = sum(cpu.values())


def _divide(
    found: Footprint, begun: float, looks: Sequence[_Look], ended: Sequence[tuple[float, str]]
) -> None:
    """Finds each stage's part by the lines "STAGE: 1.2 s" that the program writes."""
    before = begun
    for when, line in ended:
        if not (stage := _STAGE(line)):
            continue
        name, seconds = stage[1], float(stage[2])
        if not found.stages:
            found.stages["start"] = max(when - seconds - before, 0.0)
        found.stages[name] = seconds
        seen = [look for look in looks if before <= look.when <= when]
        found.peaks[name] = max((look.resident for look in seen), default=0)
        found.java_peaks[name] = max((look.java for look in seen), default=0)
        found.cpu[name] = seen[-1].cpu - seen[0].cpu if seen else 0.0
        before = when


def _family(pid: int) -> list[int]:
    """A process and other programs that it started: what was just forked shows its parent's memory as its own."""
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return [pid]
    others = [child for child in children if _program(child) != _program(pid)]
    return [pid, *(each for child in others for each in _family(child))]


def _program(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/exe").readlink())
    except OSError:
        return ""


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
    except (OSError, IndexError):
        return 0


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / 100


def _proportional(pid: int) -> int:
    return _kilobytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss")


def _high_water(pid: int) -> int:
    return _kilobytes(Path(f"/proc/{pid}/status"), "VmHWM")


def _kilobytes(path: Path, name: str) -> int:
    try:
        lines = dict(line.split(":", 1) for line in path.read_text().splitlines()[1:] if ":" in line)
        return int(lines[name].split()[0]) * 1024
    except (OSError, KeyError):  # it has just ended
        return 0


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("images", type=int)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("options", nargs="*")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gazebench-scale-") as scratch:
        found = measure(given.images, given.folder or Path(scratch), options=tuple(given.options))
    sys.stdout.write(json.dumps(asdict(found), indent=1) + "\n")


if __name__ == "__main__":
    main()
