"""What a baseline says: a small file that people review, and beside it the captions it was made from.

FILE (TOML) holds values and tolerances; FILE's stem + `.captions.jsonl` holds every caption with its scores and
sufficient statistics, so that a paired test needs nothing else.

Held with a tolerance and a paired test: CIDEr, BLEU-4, METEOR, ROUGE-L, and SPICE where it was computed. BLEU-1
to 3 are left out: BLEU-4 is made of the same matches, and every further test costs the others power (Holm's
correction). Shares that are good or bad (exact matches, true words, recall@k, hallucinations …) have a hard floor
only: most of them judge few images or few words, so that a tighter bound would fail by chance. What only
describes (lengths, distinct n-grams) is not held, apart from the limits that no sane captioner leaves.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from reports.corpus import BLEU_STATISTICS, METEOR_STATISTICS
from reports.records import RunError

SCHEMA = 1
TESTED = ("CIDEr", "BLEU-4", "METEOR", "ROUGE-L", "SPICE")
"""Metrics with a paired test."""
STATISTICS = {"BLEU-4": BLEU_STATISTICS, "METEOR": METEOR_STATISTICS}
"""What those are made of that are not means over images."""
LIMITS = {
    "unknown_share": "share of words that are the unknown word",
    "empty_share": "share of captions without a word",
    "mean_length": "mean length in words",
    "distinct_share": "share of captions that are distinct",
}
"""Names of the sanity limits, in words."""
DIGITS = 6
"""Decimals of every stored score."""
SLACK = 2e-6
"""Between a corpus score and the one that rounded statistics give."""

Key = tuple[str, int]
"""Image id and beam size."""


class BaselineError(RunError):
    """A baseline can't be written or read: what was found, what was expected, what to do."""


@dataclass(frozen=True)
class CaptionsTerms:
    """The captions beside the file, and how many of them may change where nothing else did."""

    file: str
    sha256: str
    references_sha256: str
    """Of image ids and references."""
    max_changed_share: float = 0.0


@dataclass(frozen=True, kw_only=True)
class MetricTerms:
    """One number that is held."""

    name: str
    beam_size: int
    value: float
    tol: float | None = None
    """Worse by more than this, and significantly, fails; None where there is no paired test."""
    hard_tol: float
    """Worse by more than this fails, whatever chance can do."""
    higher_is_better: bool
    signature: str | None = None


@dataclass(frozen=True)
class LimitTerms:
    """One sanity limit; a bound that is None is not there."""

    name: str
    beam_size: int
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True)
class MachineTerms:
    """Where speed was measured."""

    processor: str
    device: str
    threads: int
    torch: str


@dataclass(frozen=True, kw_only=True)
class SpeedTerms:
    """One benchmark, in units of the reference kernels; errors are standard errors of the logarithm."""

    cpu_ratio: float | None = None
    """None on a GPU, which the processor only waits for."""
    cpu_error: float | None = None
    wall_ratio: float
    wall_error: float
    tol: float
    """Slower by more than this share, beyond noise, fails."""
    captions_sha256: str | None = None
    sizes: Mapping[str, int]
    exact: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The file that is reviewed."""

    schema: int
    run: str
    data: str
    images: int
    device: str | None = None
    """cpu or cuda; None where no model was run."""
    encoder_dtype: str | None = None
    signature: str
    """Of the metrics that have none of their own."""
    alpha: float
    """Of the paired tests of one gate together."""
    metric: tuple[MetricTerms, ...]
    limit: tuple[LimitTerms, ...] = ()
    captions: CaptionsTerms
    sha256: Mapping[str, str]
    """Of the checkpoint and of other files that went in."""
    machine: MachineTerms | None = None
    """None where there are no benchmarks."""
    speed: Mapping[str, SpeedTerms]


@dataclass(frozen=True)
class BlessedCaption:
    """One line of the file beside."""

    image_id: str
    beam_size: int
    caption: str
    token_ids: tuple[int, ...]
    score: float | None
    """What the search ranked it by."""
    metrics: Mapping[str, float]
    bleu: tuple[float, ...] | None
    """In the order of `BLEU_STATISTICS`."""
    meteor: tuple[float, ...] | None


class Baseline(NamedTuple):
    """A baseline, read and checked."""

    terms: Terms
    captions: Mapping[Key, BlessedCaption]
    frames: Mapping[int, pd.DataFrame]
    """By beam size: one row per image, tested metrics and their statistics."""


def within(value: float, limit: LimitTerms) -> bool:
    """Whether the limit is kept to."""
    low = -math.inf if limit.at_least is None else limit.at_least
    return low <= value <= (math.inf if limit.at_most is None else limit.at_most)
