"""Timing a task beside a reference and its floor, round by round, so that a busy machine is fair to all three."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import truediv
from statistics import median
from typing import Any, Generic, TypeVar

import torch

from bench.throughput.clock import timed
from bench.throughput.floor import Rates, Work, Yardstick

NEAR_TIE_NATS = 1e-3
"""Two programs may choose different captions where rounding decides: if the captions' scores differ by less."""
_R = TypeVar("_R")


@dataclass(frozen=True)
class Reference:
    """Another program for the same task, timed before each round."""

    name: str
    """Its ratio is stored as ratio_to_NAME: how many times as long it takes."""
    run: Callable[[], object]
    share: float = 1.0
    """How much of the task one call of `run` does, where the whole would take too long."""


@dataclass(frozen=True)
class Rounds(Generic[_R]):
    """What was measured, round by round, by `clock.timed`."""

    result: _R
    """What the task returned in the last round."""
    seconds: list[float]
    """Of the task."""
    rates: list[Rates]
    """Of the machine; empty where no work was given."""
    references: dict[str, list[float]]
    """Seconds that each reference takes for the whole task."""


@dataclass
class Measure:
    """Times tasks on one device. A fixture of `conftest`.

    Attributes:
        device: where.
        yardsticks: measured rates by number format, made when first asked for.
    """

    device: torch.device
    yardsticks: dict[torch.dtype, Yardstick] = field(default_factory=dict)

    def yardstick(self, dtype: torch.dtype) -> Yardstick:
        """The yardstick of this number format."""
        if dtype not in self.yardsticks:
            self.yardsticks[dtype] = Yardstick(self.device, dtype)
        return self.yardsticks[dtype]

    def __call__(
        self,
        benchmark: Any,  # pytest-benchmark's fixture, which brings no types
        task: Callable[[], _R],
        *,
        images: int | None = None,
        words: int | None = None,
        work: Work | None = None,
        dtype: torch.dtype = torch.float32,
        references: Sequence[Reference] = (),
        rounds: int = 5,
        warmup_rounds: int = 1,
        prepare: Callable[[], object] | None = None,
    ) -> Rounds[_R]:
        """Times a task and stores what a reader needs to judge it.

        Each round first reads the machine's rates and runs the references, then the task. Shares and ratios are
        medians over the rounds, each round against its own readings; what is done per second goes by the wall clock.

        Args:
            benchmark: pytest-benchmark's fixture.
            task: what is timed.
            images: that it handles.
            words: that it says, `<end>` not counted.
            work: what its floor is taken from; None where arithmetic is not what it spends its time on.
            dtype: of its arithmetic.
            references: what it is compared with.
            rounds: that count.
            warmup_rounds: that don't.
            prepare: is called before each round, untimed.

        Returns:
            The readings, for what else is to be said of them.
        """
        rates: list[Rates] = []
        seconds: list[float] = []
        references_seconds: dict[str, list[float]] = {reference.name: [] for reference in references}

        def before() -> None:
            if prepare:
                prepare()
            if work:
                rates.append(self.yardstick(dtype).read())
            for reference in references:
                taken = timed(reference.run, self.device)[1]
                references_seconds[reference.name].append(taken / reference.share)
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)

        def timed_task() -> _R:
            result, taken = timed(task, self.device)
            seconds.append(taken)
            return result

        result: _R = benchmark.pedantic(timed_task, setup=before, rounds=rounds, warmup_rounds=warmup_rounds)
        measured = Rounds(
            result,
            seconds[-rounds:],
            rates[-rounds:],
            {name: taken[-rounds:] for name, taken in references_seconds.items()},
        )
        info = benchmark.extra_info
        info |= {"device": self.device.type, "dtype": str(dtype).removeprefix("torch.")}
        info |= {"images": images, "words": words}
        if benchmark.stats:  # none under --benchmark-disable
            typical = benchmark.stats.stats.median
            if images:
                info["images_per_second"] = images / typical
            if words:
                info |= {"words_per_second": words / typical, "ms_per_word": 1e3 * typical / words}
        if work:
            floors = [rate.floor_seconds(work) for rate in measured.rates]
            info |= {"flops": work.flops, "bytes": work.bytes, "floor_seconds": median(floors)}
            info["floor_fraction"] = median(map(truediv, floors, measured.seconds))
        for name, taken in measured.references.items():
            info[f"ratio_to_{name}"] = median(map(truediv, taken, measured.seconds))
        if self.device.type == "cuda":
            ours = sum(yardstick.bytes for yardstick in self.yardsticks.values())
            info["peak_memory_bytes"] = torch.cuda.max_memory_allocated(self.device) - ours
        return measured


def near_ties(
    expected: Sequence[tuple[tuple[int, ...], float]], said: Sequence[tuple[tuple[int, ...], float]]
) -> list[int]:
    """Compares captions, each given as token ids and score in nats.

    Args:
        expected: of the reference, one per image.
        said: of the program under test.

    Returns:
        The images whose captions differ although rounding alone decides between them. Any other difference is
        an `AssertionError`.
    """
    ties = []
    pairs = zip(expected, said, strict=True)
    for image, ((expected_ids, expected_score), (said_ids, said_score)) in enumerate(pairs):
        difference = abs(expected_score - said_score)
        assert difference < NEAR_TIE_NATS, f"image {image}: {said_ids} ({said_score}), not {expected_ids}"
        if expected_ids != said_ids:
            ties.append(image)
    return ties
