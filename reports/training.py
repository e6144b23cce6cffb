"""What a training directory says: training.json, the rows of steps.csv and of epochs.csv, and where all else lies."""

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, NamedTuple

from reports.files import decode_json, encode_json, write_atomically
from reports.records import Failure, Json, Provenance, RunError, from_json

RECORD = "training.json"
STEPS = "steps.csv"
EPOCHS = "epochs.csv"
TENSORBOARD = "tensorboard"
LAST = "last.safetensors"
BEST = "best.safetensors"
PAGE = "training.html"
CACHE = "cache"

RANDOM_WEIGHTS = "random"
"""What `TrainedModel.weights` says of a trunk that nobody has trained before."""

# Far above what a training writes, far below what would exhaust a machine.
_MAX_RECORD = 64 << 20
_MAX_STEPS = 2 << 30
_MAX_LINE = 1 << 16
_LARGEST = 2**63 - 1


@dataclass(frozen=True)
class TrainingData:
    """What it was trained on."""

    name: str
    train_images: int
    """Those that were left out included."""
    val_images: int
    """Likewise."""
    left_out: tuple[Failure, ...]
    """Pictures that could not be used, of either split."""
    captions: int
    """Of the training images."""


@dataclass(frozen=True)
class TrainedModel:
    """What was trained."""

    parameters: int
    trained: int
    """Parameters that some stage changed."""
    vocabulary_size: int
    encoder: str
    weights: str
    """Where the trunk's first weights come from; `RANDOM_WEIGHTS` if from nowhere."""


@dataclass(frozen=True)
class EpochRow:
    """One epoch, and what the validation split said after it."""

    stage: str
    """The stage's name."""
    epoch: int
    step: int
    """The last one of the epoch, counted as in steps.csv."""
    loss: float
    """Nats per training word."""
    penalty: float
    """The attention term, weighted; 0 without one."""
    reward: float | None
    """Mean over captions: CIDEr-D of the model's own (self-critical), or the log-likelihood in nats given the drawn
    locations (hard attention); None in other stages."""
    val_loss: float | None
    """Nats per validation word, the true words before it given."""
    val_cider: float | None
    """Of beam search, 0 to 10; None if it was not computed; `reason` says why."""
    val_bleu4: float | None
    """Of beam search, 0 to 1."""
    val_bleu4_teacher_forced: float | None
    """Of the likeliest word at every step, the true words before it given; no score."""
    val_images: int
    learning_rate: float
    """Of the decoder, at the epoch's end."""
    words_per_second: float
    is_best: bool
    """Whether no epoch before it was better."""
    reason: str | None = None
    """Why there is no score; None if there is one."""


@dataclass(frozen=True)
class TrainingRecord:
    """training.json."""

    schema_version: int
    name: str
    status: Literal["running", "finished", "interrupted", "failed"]
    command: str
    created: str
    """ISO 8601, UTC."""
    preset: str
    source: str
    """Where the recipe is from, with what deviates."""
    config: Json
    """Every hyper-parameter."""
    provenance: Provenance
    data: TrainingData
    model: TrainedModel
    epochs: tuple[EpochRow, ...]
    best: int | None
    """Place in `epochs` of the one whose weights are kept; None if none was scored."""
    warnings: tuple[str, ...]


class StepRow(NamedTuple):
    """One line of steps.csv: one step of the optimizer."""

    stage: str
    epoch: int
    step: int
    """Rises by 1 from line to line; it may begin anew with a stage."""
    loss: float
    """Nats per word."""
    penalty: float
    reward: float | None
    learning_rate: float
    gradient_norm: float | None
    """Before clipping; infinite or NaN if that is what it was."""
    words: int


EPOCH_COLUMNS = tuple(field.name for field in fields(EpochRow) if field.name != "words_per_second")
"""Columns of epochs.csv: what an uninterrupted training and a resumed one agree on."""


def is_training(path: Path) -> bool:
    """Whether a folder is a training directory."""
    return (path / RECORD).is_file()


class TrainingStore:
    """A training directory. Opening one changes nothing; every reader raises `RunError` if a file is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def write_training(self, record: TrainingRecord) -> None:
        """Writes training.json whole; raises `RunError` if it holds NaN or an infinity."""
        with write_atomically(self.path / RECORD) as file:
            file.write(encode_json(asdict(record), RECORD, indent=1) + b"\n")

    def read_training(self) -> TrainingRecord:
        """training.json; raises `RunError` if it is missing, damaged, or of another version of the program."""
        path = self._inside(RECORD, _MAX_RECORD)
        record = from_json(TrainingRecord, decode_json(path.read_bytes(), str(path)), str(path))
        if record.best is not None and not 0 <= record.best < len(record.epochs):
            raise RunError(f"{path}: best is {record.best}; expected one of its {len(record.epochs)} epochs")
        return record

    def read_steps(self) -> Iterator[StepRow]:
        """The rows of steps.csv one by one, up to a torn last line; none if the file is not there."""
        if not (self.path / STEPS).exists():
            return
        path = self._inside(STEPS, _MAX_STEPS)
        with path.open("rb") as file:
            rows = csv.reader(_whole_lines(file.readline, path), strict=True)
            try:
                head = next(rows, None)
                if head is not None and tuple(head) != StepRow._fields:
                    raise RunError(
                        f"{path} begins with {','.join(head)!r:.80}; expected the columns of a training"
                    )
                for cells in rows:
                    yield step_row(cells)
            except (csv.Error, ValueError) as error:
                if isinstance(error, RunError):
                    raise
                raise RunError(
                    f"{path}, line {rows.line_num} is no step of a training ({error}); "
                    "train again with --fresh"
                ) from error

    def _inside(self, name: str, limit: int) -> Path:
        path = self.path / name
        if not path.is_file() or not path.resolve().is_relative_to(self.path.resolve()):
            raise RunError(f"{path} is missing, or not a plain file inside the training directory")
        if (size := path.stat().st_size) > limit:
            raise RunError(f"{path} has {size:,} bytes; at most {limit:,} are read")
        return path


def step_row(cells: Sequence[str]) -> StepRow:
    """A line of steps.csv, taken apart; raises `ValueError` if it is none."""
    if len(cells) != len(StepRow._fields):
        raise ValueError(f"it has {len(cells)} cells; expected {len(StepRow._fields)}")
    stage, epoch, step, loss, penalty, reward, rate, norm, words = cells
    counts = [int(cell) for cell in (epoch, step, words)]
    if not all(0 <= count <= _LARGEST for count in counts):
        raise ValueError("a count is negative or too large")
    maybe = [float(cell) if cell else None for cell in (reward, norm)]
    return StepRow(
        stage, counts[0], counts[1], float(loss), float(penalty), maybe[0], float(rate), maybe[1], counts[2]
    )


def _whole_lines(readline: Callable[[int], bytes], path: Path) -> Iterator[str]:
    for number, line in enumerate(iter(lambda: readline(_MAX_LINE), b""), start=1):
        if not line.endswith(b"\n"):
            if len(line) == _MAX_LINE:
                raise RunError(f"{path}, line {number} is longer than {_MAX_LINE:,} bytes; train again")
            return  # torn: the program ended while writing it, or has not done so yet
        yield line.decode("utf-8")
