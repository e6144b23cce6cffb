"""A finished run as the gate looks at it: whole, scored, and of one piece."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from reports.corpus import corpus_scores
from reports.records import CaptionRow, MetricRow, RunError, RunRecord
from reports.speed import SpeedRecord
from reports.store import RunStore
from reports.terms import DIGITS, SLACK, STATISTICS, TESTED, Key, MachineTerms
from reports.wording import beam, printable


class FinishedRun(NamedTuple):
    """A run that a baseline can be made of, or be compared with."""

    record: RunRecord
    captions: Mapping[Key, CaptionRow]
    frames: Mapping[int, pd.DataFrame]
    """By beam size: one row per image, tested metrics that every image has, and their statistics."""
    speed: SpeedRecord | None

    @property
    def unknown_word(self) -> str | None:
        """What the model says for words that it does not know; None if that is not known."""
        return self.record.model.unknown_word if self.record.model else None

    def metric(self, name: str, beam_size: int) -> MetricRow | None:
        """The corpus score of this printable name."""
        return next(
            (r for r in self.record.metrics if (printable(r.name), r.beam_size) == (name, beam_size)), None
        )


def read_finished(run: Path) -> FinishedRun:
    """Reads a run, and makes sure that it is whole.

    Args:
        run: the directory.

    Returns:
        What a gate looks at.

    Raises:
        RunError: if it is unfinished, pictures failed, or files are missing, damaged or contradict each other.
    """
    store = RunStore(run)
    record, rows, scores, speed = (
        store.read_run(), store.read_captions(), store.read_scores(), store.read_speed()
    )  # fmt: skip
    if record.status != "finished":
        raise RunError(f"{run} is {record.status}, not finished; run the same command again")
    counts = record.images
    failed = {row.image_id for row in rows if row.caption is None}
    if counts.failed or counts.done != counts.expected or failed:
        raise RunError(
            f"{run} lacks captions of {max(counts.expected - counts.done, counts.failed, len(failed)):,} of "
            f"{counts.expected:,} images; failures.jsonl says why"
        )
    captions = {(row.image_id, row.beam_size): row for row in rows}
    if scores is None or not record.metrics:
        raise RunError(f"{run} has no scores; run `gazebench score {run}`")
    scored = list(zip(scores["image_id"], scores["beam_size"], strict=True))
    if len(captions) != len(rows) or sorted(scored) != sorted(captions):
        raise RunError(f"captions.jsonl and scores.parquet of {run} name different captions; score it again")
    if len({image_id for image_id, _ in captions}) * len({size for _, size in captions}) != len(captions):
        raise RunError(f"captions.jsonl of {run} lacks beam sizes of some images; run the same command again")
    frames = {
        size: _tested_frame(
            scores[scores["beam_size"] == size].set_index("image_id").sort_index(), f"{run}, {beam(size)}"
        )
        for size in sorted({size for _, size in captions})
    }
    finished = FinishedRun(record, captions, frames, speed)
    for size, frame in frames.items():
        for name, value in corpus_scores(frame).items():
            row = finished.metric(name, size)
            if row is not None and row.value is not None and abs(row.value - (value or 0.0)) > SLACK:
                raise RunError(
                    f"{run} says {name} {row.value:.{DIGITS}f} at {beam(size)}, its scores.parquet {value:.{DIGITS}f}; "
                    "score it again"
                )
    return finished


def references_sha256(captions: Mapping[Key, CaptionRow]) -> str:
    """Hex digest of image ids and references, whatever their order."""
    references = {(image_id, row.references) for (image_id, _), row in captions.items()}
    return hashlib.sha256(json.dumps(sorted(references)).encode()).hexdigest()


def model_place(record: RunRecord) -> tuple[str | None, str | None]:
    """Kind of device (cpu, cuda) and the encoder's number type; None where no model was run."""
    device, dtype = record.config.get("device"), record.config.get("encoder_dtype")
    return (
        printable(device.split(":")[0]) if isinstance(device, str) else None,
        printable(dtype) if isinstance(dtype, str) else None,
    )


def hashes(record: RunRecord) -> dict[str, str]:
    """Digests of all that went in."""
    return {printable(name): printable(value) for name, value in record.provenance.sha256.items() if value}


def sanity(finished: FinishedRun) -> dict[tuple[str, int], float]:
    """What the sanity limits are about, by the names of `LIMITS` and beam size; without what can't be said."""
    found: dict[tuple[str, int], float] = {}
    for size in finished.frames:
        rows = [row for row in finished.captions.values() if row.beam_size == size]
        words = sum(len(row.words) for row in rows)
        if finished.unknown_word is not None:
            unknown = sum(row.words.count(finished.unknown_word) for row in rows)
            found["unknown_share", size] = unknown / max(words, 1)
        found["empty_share", size] = sum(not row.words for row in rows) / len(rows)
        found["mean_length", size] = words / len(rows)
        found["distinct_share", size] = len({row.caption for row in rows}) / len(rows)
    return found


def machine_terms(speed: SpeedRecord) -> MachineTerms:
    """Where speed was measured, printable."""
    return MachineTerms(
        printable(speed.processor), printable(speed.device), speed.threads, printable(speed.torch)
    )


def is_timed(ratios: Sequence[float]) -> bool:
    """Whether a clock can be made of these rounds, with an error."""
    return len(ratios) > 1 and min(ratios) > 0


def _tested_frame(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """The tested metrics that every image has, with the statistics that they are made of."""
    columns: list[str] = []
    for name in TESTED:
        if name in frame and frame[name].notna().all():
            columns += [name, *STATISTICS.get(name, ())]
    if missing := [name for name in columns if name not in frame]:
        raise RunError(f"{where} has no {missing[0]} in scores.parquet; score the run again")
    if not np.isfinite(frame[columns].to_numpy()).all():
        raise RunError(f"{where} has infinite or missing statistics in scores.parquet; score the run again")
    return frame[columns]
