"""What a training writes while it goes on: steps.csv, epochs.csv, and event files for TensorBoard.

Nothing in the two tables depends on time, so that those of a training that was killed and went on equal those of one
that never was, byte for byte. Rows wait in memory; `TrainingLogs.flush` puts them on the disk before each checkpoint,
so that no checkpoint is ahead of its tables.
"""

import csv
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

# The event files are numbered here: tensorboardX's own writer names them after the clock and the host, so that the
# order in which TensorBoard reads them would hang on a clock that jumps; it also keeps a thread and a queue.
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter

from bench.progress import say
from reports.training import EPOCH_COLUMNS, EPOCHS, STEPS, TENSORBOARD, EpochRow, StepRow, step_row

_EVENTS = "events.out.tfevents.{:010d}.gazebench"
_NUMBER = re.compile(r"events\.out\.tfevents\.(\d+)\.gazebench")
_OF_STEPS = {
    "loss": "loss/train",
    "learning_rate": "learning rate",
    "gradient_norm": "gradient norm",
    "reward": "reward",
}
_OF_EPOCHS = {
    "val_loss": "loss/validation",
    "val_cider": "CIDEr/validation",
    "val_bleu4": "BLEU-4/validation",
    "val_bleu4_teacher_forced": "BLEU-4 (teacher-forced)/validation",
}
"""Column -> what TensorBoard calls it."""


class TrainingLogs:
    """The logs of a training directory, written by one process. `begin` or `resume` comes before any row.

    Args:
        folder: the training directory.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._steps: _Table | None = None
        self._epochs: _Table | None = None
        self._events: _Events | None = None
        self._done = 0
        """Rows of steps.csv; what TensorBoard counts by, as steps may begin anew with a stage."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self) -> None:
        """Starts with empty logs; those of an earlier training are removed."""
        self.close()
        for path in _event_files(self._folder / TENSORBOARD):
            path.unlink()
        self._open({STEPS: 0, EPOCHS: 0})

    def resume(self, stage: str, step: int, *, epochs: int) -> None:
        """Goes on behind a checkpoint: cuts every row that came after it, and what a kill left of a last line.

        Args:
            stage: name of the stage that the checkpoint is of.
            step: its last step, 0 if the stage has not begun; counted as in the rows.
            epochs: rows of epochs.csv that stay.
        """
        self.close()
        steps = _up_to(self._folder / STEPS, StepRow._fields, _not_after(stage, step))
        rows = _up_to(self._folder / EPOCHS, EPOCH_COLUMNS, lambda number, _: number <= epochs)
        self._done = max(steps.rows, 0)
        is_there = step == 0 or (steps.rows > 0 and step_row(steps.last).step == step)
        if not is_there or rows.rows < epochs:
            say(f"{STEPS} or {EPOCHS} ends before the checkpoint does: the training's curves will have a gap")
        self._open({STEPS: steps.size, EPOCHS: rows.size})

    def _open(self, kept: Mapping[str, int]) -> None:
        """Opens all logs, of whose tables so many bytes stay."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._steps = _Table(self._folder / STEPS, StepRow._fields, kept[STEPS])
        self._epochs = _Table(self._folder / EPOCHS, EPOCH_COLUMNS, kept[EPOCHS])
        self._events = _Events(self._folder / TENSORBOARD, purged_from=self._done + 1)

    def step(self, row: StepRow) -> None:
        """Adds a step; some 40 microseconds."""
        assert self._steps is not None
        assert self._events is not None
        self._done += 1
        self._steps.append(row)
        self._events.append(self._done, row._asdict(), _OF_STEPS)

    def epoch(self, row: EpochRow) -> None:
        """Adds an epoch, behind its last step."""
        assert self._epochs is not None
        assert self._events is not None
        values = asdict(row)
        self._epochs.append([values[name] for name in EPOCH_COLUMNS])
        self._events.append(self._done, values, _OF_EPOCHS)

    def flush(self) -> None:
        """Puts all rows on the disk; comes before a checkpoint is written."""
        for log in (self._steps, self._epochs, self._events):
            if log is not None:
                log.flush()

    def close(self) -> None:
        """Flushes and closes; a second time does nothing."""
        for log in (self._steps, self._epochs, self._events):
            if log is not None:
                log.close()
        self._steps = self._epochs = self._events = None


class _Table:
    """A CSV file (RFC 4180) that grows: None is an empty cell, floats are written in full, as `repr` does."""

    def __init__(self, path: Path, columns: Sequence[str], kept: int) -> None:
        path.touch()
        os.truncate(path, kept)
        self._file: IO[str] = path.open("a", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file)
        if not kept:
            self._writer.writerow(columns)

    def append(self, cells: Iterable[object]) -> None:
        # One line for each row, whatever a text holds: that is what `_up_to` counts by.
        self._writer.writerow([" ".join(cell.split()) if type(cell) is str else cell for cell in cells])

    def flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self.flush()
        self._file.close()


class _Events:
    """One more event file for TensorBoard, which drops what earlier files say of steps that are done again."""

    def __init__(self, folder: Path, *, purged_from: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        numbers = [int(path.name.split(".")[3]) for path in _event_files(folder)]
        self._writer = RecordWriter(str(folder / _EVENTS.format(max(numbers, default=0) + 1)))
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if numbers:
            restart = SessionLog(status=SessionLog.START)
            self._write(Event(wall_time=time.time(), step=purged_from, session_log=restart))

    def append(self, step: int, values: Mapping[str, Any], names: Mapping[str, str]) -> None:
        event = Event(wall_time=time.time(), step=step)
        for column, name in names.items():
            if values[column] is not None:
                event.summary.value.add(tag=name, simple_value=values[column])
        self._write(event)

    def _write(self, event: Event) -> None:
        self._writer.write(event.SerializeToString())

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self.flush()
        self._writer.close()


def _event_files(folder: Path) -> list[Path]:
    """Those that this module wrote; what others put there stays."""
    return [path for path in folder.glob("events.out.tfevents.*") if _NUMBER.fullmatch(path.name)]


def _not_after(stage: str, step: int) -> Callable[[int, Sequence[str]], bool]:
    """Whether a row of steps.csv, asked in order, came no later than this step of this stage."""
    has_begun = False

    def is_kept(_: int, cells: Sequence[str]) -> bool:
        nonlocal has_begun
        row = step_row(cells)
        has_begun = has_begun or row.stage == stage
        return row.step <= step if row.stage == stage else not has_begun

    return is_kept


class _Kept(NamedTuple):
    """The beginning of a table that stays."""

    size: int
    """Bytes, with the line of columns; 0 if not even that is whole."""
    rows: int
    last: Sequence[str]
    """Cells of the last row; the columns if there is none."""


def _up_to(path: Path, columns: Sequence[str], is_kept: Callable[[int, Sequence[str]], bool]) -> _Kept:
    """The rows before the first that is torn, damaged or not to be kept; rows count from 1."""
    kept = _Kept(0, -1, ())
    if not path.exists():
        return kept
    with path.open("rb") as file:
        for line in file:
            try:
                cells = next(csv.reader([line.decode()], strict=True))
                is_whole = line.endswith(b"\r\n") and len(cells) == len(columns)
                if not is_whole or not (
                    is_kept(kept.rows + 1, cells) if kept.size else cells == list(columns)
                ):
                    break
            except (ValueError, csv.Error):
                break
            kept = _Kept(kept.size + len(line), kept.rows + 1, cells)
    return kept
