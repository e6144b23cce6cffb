"""The steps of a training as curves of bounded length, and where its epochs lie on them."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from reports.records import RunError
from reports.training import EpochRow, StepRow

POINTS = 300
"""A curve has that many points at most, or one for each stage if that is more."""
_MOST_STAGES = 100
_WINDOW = 0.08
"""Share of a stage's points that a smoothed one is the mean of."""


class Point(NamedTuple):
    """Some steps in a row."""

    place: float
    """Their middle, in steps since the training began."""
    loss: float | None
    """Mean over their words, nats; None if none of their losses is a number."""
    reward: float | None
    learning_rate: float
    """Of the last of them."""
    gradient_norm: float | None
    """Mean of those that are finite."""


class Leg(NamedTuple):
    """A stage's part of the curves."""

    stage: str
    before: int
    """Steps of earlier stages."""
    steps: int
    first: int
    """What its first step is called."""
    points: tuple[Point, ...]

    def place(self, step: int) -> float:
        """Where a step of this stage lies, in steps since the training began."""
        return self.before + step - self.first + 1

    def smoothed(self, column: str) -> list[float | None]:
        """A field of the points as a moving mean over those on both sides; a stage never reaches into another."""
        reach = round(_WINDOW * len(self.points) / 2)
        values = np.array([getattr(point, column) for point in self.points], dtype=float)  # None becomes NaN
        near = (values[max(0, place - reach) : place + reach + 1] for place in range(len(values)))
        return [float(np.nanmean(some)) if np.isfinite(some).any() else None for some in near]


class _Bin:
    """Steps in a row, summed."""

    __slots__ = ("first", "loss", "norm", "norms", "rate", "reward", "rewards", "steps", "words")

    def __init__(self, first: int) -> None:
        self.first = first
        self.steps = self.words = self.norms = self.rewards = 0
        self.loss = self.norm = self.reward = self.rate = 0.0

    def add(self, row: StepRow) -> None:
        self.steps += 1
        self.rate = row.learning_rate
        if math.isfinite(row.loss) and row.words:
            self.words += row.words
            self.loss += row.loss * row.words
        if row.gradient_norm is not None and math.isfinite(row.gradient_norm):
            self.norms += 1
            self.norm += row.gradient_norm
        if row.reward is not None and math.isfinite(row.reward):
            self.rewards += 1
            self.reward += row.reward

    def take(self, later: "_Bin") -> None:
        for name in self.__slots__[1:]:
            setattr(self, name, getattr(self, name) + getattr(later, name))
        self.rate = later.rate

    def point(self) -> Point:
        return Point(
            self.first + (self.steps - 1) / 2,
            self.loss / self.words if self.words else None,
            self.reward / self.rewards if self.rewards else None,
            self.rate,
            self.norm / self.norms if self.norms else None,
        )


def legs(rows: Iterable[StepRow]) -> list[Leg]:
    """Thins the steps as they come, in memory that does not grow with their number.

    Args:
        rows: of steps.csv.

    Returns:
        One for each stage; steps in a row are put together so far that there are `POINTS` points or fewer.

    Raises:
        RunError: if there are more stages than a training has.
    """
    found: list[tuple[str, int, list[_Bin]]] = []
    width, bins = 1, 0
    for number, row in enumerate(rows, start=1):
        if not found or found[-1][0] != row.stage:
            if len(found) == _MOST_STAGES:
                raise RunError(f"the steps have more than {_MOST_STAGES} stages; no training has so many")
            found.append((row.stage, row.step, []))
        stage = found[-1][2]
        if not stage or stage[-1].steps >= width:
            stage.append(_Bin(number))
            bins += 1
        stage[-1].add(row)
        if bins > POINTS and bins > len(found):
            width *= 2
            bins = sum(_halve(bins_) for _, _, bins_ in found)
    return [
        Leg(name, stage[0].first - 1, sum(one.steps for one in stage), first, tuple(b.point() for b in stage))
        for name, first, stage in found
    ]


def _halve(bins: list[_Bin]) -> int:
    """Puts neighbours together, in place; returns how many there are then."""
    for left, right in zip(bins[::2], bins[1::2], strict=False):
        left.take(right)
    del bins[1::2]
    return len(bins)


def places(epochs: Sequence[EpochRow], curves: Sequence[Leg]) -> list[float]:
    """Where the ends of epochs lie, in steps since the training began; never falling.

    A stage of which steps.csv says nothing lies behind the one before it.

    Args:
        epochs: in order.
        curves: of the same training.

    Returns:
        One place for each epoch.
    """
    known = {leg.stage: leg for leg in curves}
    found: list[float] = []
    before, stage = 0.0, None
    for row in epochs:
        last = found[-1] if found else 0.0
        if row.stage in known:
            place = known[row.stage].place(row.step)
        else:
            if row.stage != stage:
                before = last if row.step <= last else 0.0
            place = before + row.step
        stage = row.stage
        found.append(max(place, last))
    return found
