"""Confidence intervals and paired tests. Images are resampled, never words: the words of one image are alike.

What every interval and test is, and why, is told in docs/statistics.md.
"""

from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from math import sqrt
from statistics import NormalDist
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy.special import stdtrit

from reports.corpus import (
    BLEU_STATISTICS,
    METEOR_STATISTICS,
    Sums,
    bleu,
    by_images,
    corpus_score,
    corpus_scores,
    meteor,
    metric_names,
    statistics_of,
    total,
)

__all__ = [
    "BLEU_STATISTICS",
    "LEVEL",
    "METEOR_STATISTICS",
    "PERMUTATIONS",
    "RESAMPLES",
    "SEED",
    "Interval",
    "PairedTest",
    "bleu",
    "corpus_scores",
    "holm",
    "meteor",
    "metric_intervals",
    "paired_tests",
    "rank_biserial",
    "ratio_interval",
    "ratio_intervals",
    "resample_weights",
    "resampled_sums",
    "share_interval",
]

RESAMPLES = 2000
"""Bootstrap resamples (Efron & Tibshirani 1993, ch. 13, ask for at least 1,000 for percentile intervals)."""
PERMUTATIONS = 10_000
"""Random swaps of two runs' images; the smallest p-value is about their inverse."""
LEVEL = 0.95
"""Coverage of every interval."""
SEED = 12345
"""Seed of the resampling; recorded in the run."""
_TOP = {"CIDEr": 10.0}  # the highest value of metrics that don't end at 1
_NORMAL = NormalDist().inv_cdf((1 + LEVEL) / 2)
_ROUNDING = 1e-12  # sums in another order differ by this much, but not by chance
_BLOCK = 2**19  # weights at a time: 4 MB
Key = TypeVar("Key", bound=Hashable)


class Interval(NamedTuple):
    """A value with its interval over images."""

    value: float
    low: float | None
    """None where there are fewer than two images: nothing can be said about the spread."""
    high: float | None
    n: int
    """Images that contributed."""


class PairedTest(NamedTuple):
    """How two runs differ on the same images."""

    difference: float
    """Second minus first, of corpus scores."""
    low: float | None
    """None where there are fewer than two images."""
    high: float | None
    p_worse: float
    """One-sided: how likely a difference this low or lower is if each image's captions are exchangeable."""
    p_differs: float
    """Two-sided."""
    n: int
    """Images that have a value in both runs."""
    changed: int
    """Images whose statistics differ at all."""


def resample_weights(
    n: int, *, resamples: int = RESAMPLES, seed: int | np.random.Generator = SEED
) -> Float[np.ndarray, "resample image"]:
    """How often each of `n` images is drawn in each resample; rows sum to n."""
    # Of 32 bits the generator gives the same numbers whether they are asked for at once or in blocks.
    drawn = np.random.default_rng(seed).integers(n, size=(resamples, n), dtype=np.uint32)
    weights = np.empty((resamples, n))
    for row, images in zip(weights, drawn, strict=True):
        row[:] = np.bincount(images, minlength=n)
    return weights


def resampled_sums(
    statistics: Float[np.ndarray, "image statistic"], *, resamples: int = RESAMPLES, seed: int = SEED
) -> Float[np.ndarray, "resample statistic"]:
    """Sums over the images of each resample, `resample_weights @ statistics`, in bounded memory.

    Args:
        statistics: one row per image.
        resamples: bootstrap resamples.
        seed: of the resampling.

    Returns:
        One row of sums per resample.
    """
    rng, n = np.random.default_rng(seed), len(statistics)
    return np.concatenate(
        [resample_weights(n, resamples=size, seed=rng) @ statistics for size in _blocks(resamples, n)]
    )


def share_interval(successes: int, n: int) -> Interval:
    """Wilson's score interval of the share of images for which something holds.

    Wilson 1927, J. Am. Stat. Assoc. 22:209. It is never empty: of 0 in 500 images it says 0 to 0.8 %.

    Args:
        successes: images for which it holds.
        n: images; at least one.

    Returns:
        The interval.
    """
    assert 0 <= successes <= n > 0, (successes, n)
    share = successes / n
    return Interval(share, *_wilson(share, n, _NORMAL), n)


def ratio_interval(
    numerators: Float[np.ndarray, " image"],
    denominators: Float[np.ndarray, " image"],
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Interval | None:
    """Interval of sum(numerators) / sum(denominators), images resampled together with all they hold.

    The mean over words is such a ratio: per image, the sum over its words and the number of its words. Where all
    images give whole numbers and none a numerator above its denominator, this is a share of things counted, and gets
    a score interval: between 0 and 1, and never empty. Other intervals end where the images' own ratios end.

    Args:
        numerators: one number per image.
        denominators: one number per image, not negative; images with 0 carry no information and are left out.
        resamples: bootstrap resamples.
        seed: of the resampling.

    Returns:
        The interval; None if no image has a positive denominator.
    """
    (interval,) = ratio_intervals(numerators[:, None], denominators[:, None], resamples=resamples, seed=seed)
    return interval


def ratio_intervals(
    numerators: Float[np.ndarray, "image ratio"],
    denominators: Float[np.ndarray, "image ratio"],
    *,
    shares: Sequence[bool] | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> list[Interval | None]:
    """`ratio_interval` of many ratios at once; those that have the same images share their resamples.

    Args:
        numerators: one row per image, one column per ratio.
        denominators: likewise, not negative.
        shares: for each ratio, whether it is a share where all its numbers are whole; None for all.
        resamples: bootstrap resamples.
        seed: of the resampling.

    Returns:
        One interval per column; None where no image has a positive denominator.
    """
    kept = denominators > 0
    same: dict[bytes, list[int]] = {}
    for column, images in enumerate(kept.T):
        if images.any():
            same.setdefault(images.tobytes(), []).append(column)
    found: list[Interval | None] = [None] * numerators.shape[1]
    for columns in same.values():
        images = kept[:, columns[0]]
        parts, wholes = numerators[images][:, columns], denominators[images][:, columns]
        drawn = _drawn_sums(np.concatenate([parts, wholes], axis=1), resamples, seed)
        for place, column in enumerate(columns):
            ratios = drawn[:, place] / drawn[:, place + len(columns)]
            can_count = shares is None or shares[column]
            found[column] = _ratio(parts[:, place], wholes[:, place], ratios, can_count=can_count)
    return found


def _ratio(
    part: Float[np.ndarray, " image"],
    whole: Float[np.ndarray, " image"],
    drawn: Float[np.ndarray, " resample"],
    *,
    can_count: bool,
) -> Interval:
    value, n = part.sum() / whole.sum(), len(part)
    whole_numbers = can_count and bool((part == np.floor(part)).all() and (whole == np.floor(whole)).all())
    counted = whole_numbers and bool((part >= 0).all() and (part <= whole).all())
    if counted and n > 1 and (whole == 1).all():
        return share_interval(int(part.sum()), n)
    interval = _interval(value, drawn, n, top=1.0 if counted else None)
    return interval if counted else _within(interval, part / whole)


def _drawn_sums(
    statistics: Float[np.ndarray, "image statistic"], resamples: int, seed: int
) -> Float[np.ndarray, "resample statistic"]:
    """`resampled_sums`; what was drawn for so many images is kept, a report asks for it a thousand times."""
    n = len(statistics)
    if resamples * n > _BLOCK:
        return resampled_sums(statistics, resamples=resamples, seed=seed)
    sums: Float[np.ndarray, "resample statistic"] = _kept_weights(n, resamples, seed) @ statistics
    return sums


@lru_cache(maxsize=4)
def _kept_weights(n: int, resamples: int, seed: int) -> Float[np.ndarray, "resample image"]:
    weights = resample_weights(n, resamples=resamples, seed=seed)
    weights.flags.writeable = False
    return weights


def metric_intervals(
    frame: pd.DataFrame, *, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, Interval | None]:
    """Corpus scores of one set of captions with their intervals.

    A column is a metric unless its name is all lower case (statistics, ids). BLEU and METEOR come from summed
    statistics; every other metric is the mean of its column. CIDEr's document frequencies are not drawn
    again: they stay those of the whole set. The order of the rows changes nothing if the index names them.

    Args:
        frame: one row per image, with `BLEU_STATISTICS` and `METEOR_STATISTICS` if it has those metrics. Each metric
            leaves out the images for which it has no value.
        resamples: bootstrap resamples, the same for all metrics that have the same images.
        seed: of the resampling.

    Returns:
        By metric, in the frame's order; None where no image has a value.
    """
    intervals = {}
    for names, n, (statistics,) in by_images(frame):
        sums = total(statistics)
        (drawn,) = _resampled([statistics], resamples, seed)
        for name in names:
            value, scores = float(corpus_score(name, sums, n)), corpus_score(name, drawn, n)
            if name in statistics:
                intervals[name] = _mean_interval(value, scores, statistics[name], _TOP.get(name, 1.0))
            else:
                intervals[name] = _interval(value, scores, n, top=1.0)
    return {name: intervals.get(name) for name in metric_names(frame)}


def paired_tests(
    first: pd.DataFrame,
    second: pd.DataFrame,
    *,
    resamples: int = RESAMPLES,
    permutations: int = PERMUTATIONS,
    seed: int = SEED,
) -> dict[str, PairedTest]:
    """Compares two runs image by image.

    Intervals are of the paired bootstrap (Koehn 2004, §4): both runs are scored on the same resampled images.
    P-values are of the sign-flip permutation, also called approximate randomisation (Riezler & Maxwell 2005, fig. 1):
    the two runs' captions of each image change places with probability 1/2, and p = (c + 1) / (permutations + 1),
    where c permutations have a difference as extreme as the one found. Raises `ValueError` if an image is in one run
    alone, or twice in a run.

    Args:
        first: of the run that is compared with; one row per image, indexed by image id, columns as for
            `metric_intervals`.
        second: of the other run, in any order.
        resamples: bootstrap resamples.
        permutations: random swaps.
        seed: of both.

    Returns:
        By metric that both have. Each leaves out the images for which a run has no value; a metric without any
        image is left out.
    """
    _check_ids(first.index, second.index)
    tests = {}
    for names, n, runs in by_images(first, second):
        found, drawn = [total(run) for run in runs], _resampled(runs, resamples, seed)
        differs = {column: runs[1][column] - runs[0][column] for column in runs[0]}
        swapped = _swapped(found, differs, permutations, seed)
        for name in names:
            difference = float(_difference(name, found, n))
            interval = _interval(difference, _difference(name, drawn, n), n, top=None)
            by_chance = _difference(name, swapped, n)
            tests[name] = PairedTest(
                difference,
                interval.low,
                interval.high,
                _p_value(by_chance <= difference + _ROUNDING),
                _p_value(np.abs(by_chance) >= abs(difference) - _ROUNDING),
                n,
                int(np.any([differs[column] for column in statistics_of(name)], axis=0).sum()),
            )
    return {name: tests[name] for name in metric_names(first) if name in tests}


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """P-values adjusted for being many: all below .05 hold together with 95 % confidence.

    Holm 1979, Scand. J. Statist. 6:65. The k-th smallest of m is multiplied by m - k + 1, and none gets below those
    before it. Holds for tests that depend on each other in any way.

    Args:
        p_values: of one family of tests.

    Returns:
        The adjusted p-values, in the same order.
    """
    adjusted: dict[Key, float] = {}
    largest, m = 0.0, len(p_values)
    for place, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        largest = max(largest, min(1.0, (m - place) * p_values[key]))
        adjusted[key] = largest
    return {key: adjusted[key] for key in p_values}


def rank_biserial(differences: Float[np.ndarray, " image"]) -> float | None:
    """Effect size of paired differences: the matched-pairs rank-biserial correlation.

    Kerby 2014, Compr. Psychol. 3:1. Differences are ranked by size, as in Wilcoxon's signed-rank test, ties by
    their mean rank; the ranks of those above 0 less the ranks of those below, as a share of all.

    Args:
        differences: one number per image; those of 0 are left out.

    Returns:
        -1, all below 0, to 1, all above; None if none differs.
    """
    differ = differences[np.abs(differences) > _ROUNDING]
    if not differ.size:
        return None
    ranks = pd.Series(np.abs(differ)).rank().to_numpy()
    return float((ranks * np.sign(differ)).sum() / ranks.sum())


def _interval(value: float, drawn: Float[np.ndarray, " resample"], n: int, *, top: float | None) -> Interval:
    """Student's interval; Wilson's score interval for values that lie between 0 and `top`.

    The standard error is what a normal distribution of the same percentile interval has. Unlike the standard
    deviation, it doesn't depend on the few resamples in which no 4-gram matches at all.
    """
    if n < 2:
        return Interval(float(value), None, None, n)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    error = (high - low) / (2 * _NORMAL) * sqrt(n / (n - 1))  # resamples spread as if divided by n, not n - 1
    t = stdtrit(n - 1, (1 + LEVEL) / 2)
    if top is None:
        return Interval(float(value), float(value - t * error), float(value + t * error), n)
    share = min(max(value / top, 0.0), 1.0)
    # So many images, each all right or all wrong, would have this standard error.
    varies = error > _ROUNDING * top and 0 < share < 1
    effective = share * (1 - share) / (error / top) ** 2 if varies else n
    low, high = _wilson(share, effective, t)
    return Interval(float(value), top * low, top * high, n)


def _wilson(share: float, n: float, z: float) -> tuple[float, float]:
    def low(share: float) -> float:
        a = z * z / n
        return float(share**2 / (share + a / 2 + sqrt(a * (share * (1 - share) + a / 4))))

    return low(share), 1 - low(1 - share)


def _mean_interval(
    value: float, drawn: Float[np.ndarray, " resample"], column: Float[np.ndarray, " image"], top: float
) -> Interval:
    n = len(column)
    if n > 1 and np.isin(column, (0, 1)).all():
        return share_interval(int(column.sum()), n)
    if column.min() >= 0 and column.max() <= top:
        return _interval(value, drawn, n, top=top)
    return _within(_interval(value, drawn, n, top=None), column)


def _within(interval: Interval, possible: Float[np.ndarray, " image"]) -> Interval:
    """Ends the interval of a weighted mean where the values end."""
    if interval.low is None or interval.high is None:
        return interval
    return interval._replace(
        low=max(interval.low, float(possible.min())), high=min(interval.high, float(possible.max()))
    )


def _resampled(runs: Sequence[Sums], resamples: int, seed: int) -> list[Sums]:
    """Sums of each run over the same resampled images, one number per resample."""
    sums = resampled_sums(
        np.stack([values for run in runs for values in run.values()], axis=1), resamples=resamples, seed=seed
    )
    parts = np.split(sums.T, len(runs))
    return [dict(zip(run, part, strict=True)) for run, part in zip(runs, parts, strict=True)]


def _swapped(found: Sequence[Sums], differs: Sums, permutations: int, seed: int) -> list[Sums]:
    """Sums of two runs after random swaps, one number per permutation; only images that differ need arithmetic.

    Args:
        found: the sums before.
        differs: by how much the second run's statistics exceed the first's, one number per image.
        permutations: random swaps.
        seed: of the swaps.

    Returns:
        The sums of both runs.
    """
    differences = np.stack(list(differs.values()), axis=1)
    n, changed = len(differences), differences.any(axis=1)
    rng = np.random.default_rng([seed, 1])  # not the bootstrap's numbers again
    moved = []
    for size in _blocks(permutations, n):
        bits = rng.integers(256, size=(size, -(-n // 8)), dtype=np.uint8)
        swaps = np.unpackbits(bits, axis=1, count=n)[:, changed]
        moved.append(swaps.astype(np.float64) @ differences[changed])
    sums = dict(zip(differs, np.concatenate(moved).T, strict=True))
    return [
        {column: found[0][column] + sums[column] for column in sums},
        {column: found[1][column] - sums[column] for column in sums},
    ]


def _blocks(rows: int, columns: int) -> list[int]:
    """Rows of a matrix to make at a time."""
    block = max(1, _BLOCK // columns)
    return [min(block, rows - begun) for begun in range(0, rows, block)]


def _difference(name: str, sums: Sequence[Sums], n: int) -> Float[np.ndarray, "*rows"]:
    first, second = sums
    difference: Float[np.ndarray, "*rows"] = corpus_score(name, second, n) - corpus_score(name, first, n)
    return difference


def _p_value(extreme: Bool[np.ndarray, " permutation"]) -> float:
    return float((extreme.sum() + 1) / (len(extreme) + 1))


def _check_ids(first: pd.Index, second: pd.Index) -> None:
    for which, ids in (("first", first), ("second", second)):
        if not ids.is_unique:
            twice = ids[ids.duplicated()][0]
            raise ValueError(f"the {which} run has image {twice!r} more than once; give one row per image")
    differing = sorted(map(str, first.symmetric_difference(second)))
    if differing:
        named = ", ".join(differing[:5]) + (", …" if len(differing) > 5 else "")
        raise ValueError(
            f"{len(differing)} images are in one run alone: {named}; give two runs over the same images"
        )
