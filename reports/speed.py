"""How fast a run encoded and decoded, in a form that another run can be held against.

Seconds don't compare between runs on a machine that others use too. Ratios to reference kernels that take turns with
the task do, up to noise. That has two parts. One is seen in the run: its rounds differ. The other is seen only between
processes, whose memory lies elsewhere and whose neighbours are other ones; it is the floor of every error.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Literal, NamedTuple

FLOOR = 0.012
"""Standard deviation, between processes, of a ratio's logarithm, beyond what the rounds of one process show.

Measured on the demo: 31 processes on a machine with two cores, beside none to four others that computed or streamed
memory. The medians had a standard deviation of 1.6 to 2.0 % (decoding with four others beside it: 2.7 %), of which
the rounds explained 1.2 to 1.6 %, and 1.0 to 1.3 % (2.2 %) were left."""
CONFIDENT, CERTAIN = 1.645, 4.0
"""Standard errors by which a time has to differ from the tolerance, and from the baseline. Normal noise exceeds them,
on one side, once in 20 and once in 30,000 times."""


@dataclass(frozen=True)
class SpeedRow:
    """One benchmark."""

    name: str
    sizes: Mapping[str, int]
    """What it depends on, such as the number of images."""
    cpu_ratios: tuple[float, ...]
    """Per round: processor time of the task as a multiple of the reference kernels'. Empty on a GPU."""
    wall_ratios: tuple[float, ...]
    """Per round, by the clock, without the time in which others had the processor where the system tells it."""
    exact: Mapping[str, int]
    """Counts that are equal for equal work."""
    captions_sha256: str | None
    """Of what was said; counts compare only where this is equal. None where nothing is said."""


@dataclass(frozen=True)
class SpeedRecord:
    """What the speed stage measured, and on what."""

    processor: str
    device: str
    threads: int
    torch: str
    """Version of PyTorch."""
    rows: tuple[SpeedRow, ...]


class Clock(NamedTuple):
    """One benchmark's time."""

    ratio: float
    """To the reference kernels; the median over the rounds."""
    error: float
    """Standard error of its logarithm, with what differs between processes."""


class Pace(NamedTuple):
    """How one time compares with another. A slowdown of 0.2 takes 20 % longer."""

    slowdown: float
    low: float
    """The slowdown is larger than this with 95 % confidence."""
    high: float
    """And smaller than this."""
    outcome: Literal["same", "slower", "faster", "inconclusive"]


def clock(ratios: Sequence[float]) -> Clock:
    """The time of a benchmark.

    Args:
        ratios: one per round, positive; at least one.

    Returns:
        The median, and its error; infinite for a single round.
    """
    logs = [math.log(ratio) for ratio in ratios]
    middle = median(logs)
    if len(logs) < 2:
        return Clock(math.exp(middle), math.inf)
    # Of normal noise, sqrt(pi / 2) times the mean absolute deviation is the standard deviation, and the median's error
    # is sqrt(pi / 2) times the mean's. With few rounds this errs less than the median deviation would.
    deviation = mean(abs(log - middle) for log in logs)
    return Clock(math.exp(middle), math.hypot(math.pi / 2 * deviation / math.sqrt(len(logs)), FLOOR))


def compare_clocks(baseline: Clock, now: Clock, *, tol: float) -> Pace:
    """Compares two times of the same benchmark on the same kind of machine.

    It is "slower" if it takes more than `tol` longer with 95 % confidence, and if that noise alone made it take so
    much longer is as good as impossible. The first keeps changes that are tolerated from being called slower; the
    second the same program on a noisy machine. "faster" is the same the other way round. Else, where a slowdown of
    twice `tol` could hide in the noise, the outcome is "inconclusive".

    Args:
        baseline: what to compare with.
        now: what is judged.
        tol: the slowdown that is tolerated, positive.

    Returns:
        The slowdown, its limits and the outcome.
    """
    difference = math.log(now.ratio / baseline.ratio)
    error = math.hypot(baseline.error, now.error)
    limits = (difference, difference - CONFIDENT * error, difference + CONFIDENT * error)
    slowdown, low, high = (math.expm1(min(limit, 700)) for limit in limits)  # beyond, numbers overflow
    differs = abs(difference) > CERTAIN * error
    outcome: Literal["same", "slower", "faster", "inconclusive"] = "same"
    if low > tol and differs:
        outcome = "slower"
    elif high >= 2 * tol:
        outcome = "inconclusive"
    elif high < 1 / (1 + tol) - 1 and differs:
        outcome = "faster"
    return Pace(slowdown, low, high, outcome)
