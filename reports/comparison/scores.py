"""Scores of two to eight runs over the same images, and paired tests between all pairs of them.

P-values are adjusted by Holm's method over all pairs and metrics of one comparison. A difference is *beyond noise* if
its adjusted p is below `ALPHA` and its 95 % interval excludes 0. Where it is not, no difference shows, which is no
proof of equality: the interval says how large a difference may have been missed.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from reports.comparison.runs import ComparedRun
from reports.records import MetricRow
from reports.stats import (
    PERMUTATIONS,
    Interval,
    PairedTest,
    holm,
    metric_intervals,
    paired_tests,
    rank_biserial,
)
from reports.tables import count
from reports.terms import DIGITS, STATISTICS, TESTED
from reports.wording import clip, printable

ALPHA = 0.05
"""Of all tests of a comparison together."""
Outcome = Literal["better", "worse", "level"]
SIGNS: Mapping[Outcome, str] = {"better": "▲", "worse": "▼", "level": "="}
"""Beside the words, never instead of them."""


class ComparedMetric(NamedTuple):
    """One score of every run, over the images that all have."""

    name: str
    intervals: tuple[Interval, ...]
    """By run."""


class OtherMetric(NamedTuple):
    """A number that runs state of all their own images, shown side by side without a test."""

    name: str
    unit: str
    higher_is_better: bool | None
    rows: tuple[MetricRow | None, ...]
    """By run; None where a run does not state it."""


class MetricTest(NamedTuple):
    """How the second of two runs differs from the first in one metric."""

    metric: str
    test: PairedTest
    adjusted_p: float
    """Two-sided, after Holm over all pairs and metrics of the comparison."""
    effect: float | None
    """Matched-pairs rank-biserial correlation of the images' scores; None if none differs."""
    differing: int
    """Images whose scores differ by more than rounding."""

    @property
    def outcome(self) -> Outcome:
        """Of the second run; level if the difference is not beyond noise. All tested metrics are better if higher."""
        return outcome_of(self.test, self.adjusted_p)


class Pair(NamedTuple):
    """Two runs by their places; the second is judged."""

    first: int
    second: int
    tests: tuple[MetricTest, ...]


def outcome_of(test: PairedTest, adjusted_p: float, *, higher_is_better: bool = True) -> Outcome:
    """Whether the second run is better or worse beyond noise."""
    if test.low is None or test.high is None or adjusted_p >= ALPHA or test.low <= 0 <= test.high:
        return "level"
    return "better" if (test.difference > 0) == higher_is_better else "worse"


def tested_metrics(runs: Sequence[ComparedRun]) -> tuple[list[str], list[str]]:
    """Which metrics are compared.

    Args:
        runs: all.

    Returns:
        Names of those that all runs have under the same signature, and a sentence on each that is left out.
    """
    names, left_out = [], []
    for name in TESTED:
        rows = [run.metric(name) for run in runs]
        if not any(row and row.value is not None for row in rows):
            continue
        if reason := _why_not(name, runs, rows):
            left_out.append(f"{name} is not compared: {reason}.")
        else:
            names.append(name)
    return names, left_out


def _why_not(name: str, runs: Sequence[ComparedRun], rows: Sequence[MetricRow | None]) -> str | None:
    for run, row in zip(runs, rows, strict=True):
        if row is None or row.value is None:
            why = row.reason if row else None
            return f"“{run.name}” does not have it{f' ({clip(printable(why))})' if why else ''}"
        columns = (name, *STATISTICS.get(name, ()))
        if run.scores is None or any(column not in run.scores for column in columns):
            return f"scores.parquet of “{run.name}” lacks what it is computed from; score the run again"
    signed = [signature(run, row) for run, row in zip(runs, rows, strict=True) if row]
    if all("|df:scored-" in text for text in signed) and len({run.images for run in runs}) > 1:
        shown = [next(part for part in text.split("|") if part.startswith("df:")) for text in signed]
        of = ", ".join(
            f"{clip(printable(text), 80)} in “{run.name}”" for run, text in zip(runs, shown, strict=True)
        )
        return (
            f"its document frequencies are those of each run’s own images, which are not the same ({of}); "
            "score the runs with the same --frequencies"
        )
    for run, other in zip(runs[1:], signed[1:], strict=True):
        if other != signed[0]:
            texts = [clip(printable(text), 300) or "none" for text in (signed[0], other)]
            return (
                f"it was computed in another way: signature {texts[0]} in “{runs[0].name}”, "
                f"{texts[1]} in “{run.name}”"
            )
    fixed = any(part.startswith("df:fixed") for part in signed[0].split("|"))
    if fixed and len({run.record.provenance.sha256.get("frequencies") for run in runs}) > 1:
        return "its document frequencies come from different files"
    return None


def signature(run: ComparedRun, row: MetricRow) -> str:
    """How a number came about, without how captions were searched for and how many references images have.

    Those of the images that runs share are the same, or there is no comparison.
    """
    search = set(run.record.search_signature.split("|"))
    parts = (row.signature or run.record.metric_signature).split("|")
    left_out = ("beam:", "references:")
    return "|".join(part for part in parts if part not in search and not part.startswith(left_out))


def compared_metrics(runs: Sequence[ComparedRun], names: Sequence[str]) -> tuple[ComparedMetric, ...]:
    """Scores with their intervals over the images that have them in every run; without those that none has."""
    found = [metric_intervals(frame) for frame in _frames(runs, names)]
    rows = [(name, [intervals.get(name) for intervals in found]) for name in names]
    return tuple(ComparedMetric(name, tuple(i for i in row if i)) for name, row in rows if all(row))


def missing_scores(runs: Sequence[ComparedRun], metrics: Sequence[ComparedMetric]) -> tuple[str, ...]:
    """A sentence on each metric that some run lacks for some of the images."""
    images, found = len(runs[0].captions), []
    for metric in metrics:
        n = metric.intervals[0].n
        if n < images:
            found.append(
                f"{metric.name} is compared over {n:,} of {count(images, 'image')}: the others lack it in at least one "
                "run."
            )
    return tuple(found)


def _frames(runs: Sequence[ComparedRun], names: Sequence[str]) -> list[pd.DataFrame]:
    """What metrics are made of, by run; none of an image that has no such score in some run."""
    columns = {name: [name, *STATISTICS.get(name, ())] for name in names}
    every = [column for of in columns.values() for column in of]
    frames = []
    for run in runs:
        assert run.scores is not None or not names
        frames.append(pd.DataFrame() if run.scores is None else run.scores[every].astype(np.float64))
    for of in columns.values():
        known = np.logical_and.reduce([np.isfinite(frame[of]).all(axis=1) for frame in frames])
        for frame in frames:
            frame.loc[~known, of] = np.nan
    return frames


def other_metrics(runs: Sequence[ComparedRun], compared: Sequence[str]) -> tuple[OtherMetric, ...]:
    """What else the runs state, in the order of the first that states it."""
    stated = [{row.name: row for row in run.record.metrics if row.beam_size == run.beam_size} for run in runs]
    names = dict.fromkeys(name for rows in stated for name in rows if name not in compared)
    found = []
    for name in names:
        rows = tuple(of.get(name) for of in stated)
        row = next(row for row in rows if row)
        found.append(OtherMetric(name, row.unit, row.higher_is_better, rows))
    return tuple(found)


def pairs(runs: Sequence[ComparedRun], names: Sequence[str]) -> tuple[Pair, ...]:
    """Paired tests of all pairs of runs, each of an earlier and a later one.

    Args:
        runs: all.
        names: metrics that all have, of some image in common.

    Returns:
        The pairs, those with the first run first; tests are over the images that have the metric in every run.
    """
    frames = _frames(runs, names)
    every = list(combinations(range(len(runs)), 2))
    tests = len(every) * len(names)
    assert tests / (PERMUTATIONS + 1) < ALPHA, "the least p there is must lie below alpha even after Holm"
    found = {(i, j): paired_tests(frames[i], frames[j]) if names else {} for i, j in every}
    adjusted = holm({
        (*pair, name): test.p_differs for pair, tests in found.items() for name, test in tests.items()
    })  # fmt: skip
    return tuple(
        Pair(i, j, tuple(
            _metric_test(name, test, adjusted[i, j, name], frames[j][name] - frames[i][name])
            for name, test in found[i, j].items()
        ))
        for i, j in every
    )  # fmt: skip


def _metric_test(name: str, test: PairedTest, adjusted_p: float, differences: pd.Series) -> MetricTest:
    # BLEU adds tiny numbers to its counts, so that captions as good as each other differ in the tenth decimal.
    known = differences.dropna().to_numpy(np.float64).round(DIGITS)
    return MetricTest(name, test, adjusted_p, rank_biserial(known), int((known != 0).sum()))


def reversed_pair(pair: Pair) -> Pair:
    """The same tests with the other run judged."""
    tests = []
    for found in pair.tests:
        test = found.test
        turned = test._replace(
            difference=-test.difference,
            low=None if test.high is None else -test.high,
            high=None if test.low is None else -test.low,
        )
        tests.append(found._replace(test=turned, effect=None if found.effect is None else -found.effect))
    return Pair(pair.second, pair.first, tuple(tests))


def beats(pair: Pair) -> Outcome:
    """Whether the second run is better beyond noise in some metric and worse in none, or the other way round."""
    outcomes = {test.outcome for test in pair.tests}
    if "better" in outcomes and "worse" not in outcomes:
        return "better"
    return "worse" if "worse" in outcomes and "better" not in outcomes else "level"


def best_runs(runs: int, tests: Sequence[Pair]) -> tuple[int, ...]:
    """Places of the runs that no other beats; all of them where no difference shows."""
    beaten = {pair.first for pair in tests if beats(pair) == "better"}
    beaten |= {pair.second for pair in tests if beats(pair) == "worse"}
    return tuple(place for place in range(runs) if place not in beaten)
