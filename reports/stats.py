"""Confidence intervals. Images are resampled, never words: the words of one image are alike.

Corpus BLEU and METEOR are not means of per-image scores but functions of sums over the images. So each
image's share of those sums (its sufficient statistics) is stored, and resampling images is one matrix
product.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

RESAMPLES = 2000
"""Bootstrap resamples (Efron & Tibshirani 1993, ch. 13, ask for at least 1,000 for percentile intervals)."""
LEVEL = 0.95
"""Coverage of every interval."""
SEED = 12345
"""Seed of the resampling; recorded in the run."""
BLEU_STATISTICS = (
    "bleu_hypothesis_length",
    "bleu_reference_length",
    *(f"bleu_matches_{n}" for n in range(1, 5)),
    *(f"bleu_totals_{n}" for n in range(1, 5)),
)
"""Per image: words said, words of the reference closest in length, clipped matches and number of n-grams."""
METEOR_STATISTICS = (
    "meteor_hypothesis_length",
    "meteor_reference_length",
    "meteor_hypothesis_function_words",
    "meteor_reference_function_words",
    *(
        f"meteor_{matcher}_{side}_{kind}"
        for matcher in ("exact", "stem", "synonym", "paraphrase")
        for kind in ("content", "function")
        for side in ("hypothesis", "reference")
    ),
    "meteor_chunks",
    "meteor_hypothesis_matches",
    "meteor_reference_matches",
)
"""Per image: METEOR 1.5's 23 numbers against the best reference, in the order in which it prints them.

Words, function words, words that each matcher matched, chunks of adjacent matches (0 where caption and
reference match as a whole), all words matched. Neither paper nor manual gives the order; it was found from
the program's answers, and its scores come out of it to the last digits.
"""


class Interval(NamedTuple):
    """A value with its percentile bootstrap interval."""

    value: float
    low: float | None
    """None where there are fewer than two images: nothing can be said about the spread."""
    high: float | None
    n: int
    """Images that contributed."""


def resample_weights(
    n: int, *, resamples: int = RESAMPLES, seed: int | np.random.Generator = SEED
) -> Float[np.ndarray, "resample image"]:
    """How often each of `n` images is drawn in each resample; rows sum to n. Read-only where the seed is a number."""
    return _known_weights(n, resamples, seed) if isinstance(seed, int) else _draw_weights(n, resamples, seed)


@lru_cache(maxsize=2)  # a report asks for the same weights hundreds of times; for 5,000 images they are 80 MB
def _known_weights(n: int, resamples: int, seed: int) -> Float[np.ndarray, "resample image"]:
    weights = _draw_weights(n, resamples, seed)
    weights.flags.writeable = False
    return weights


def _draw_weights(
    n: int, resamples: int, seed: int | np.random.Generator
) -> Float[np.ndarray, "resample image"]:
    drawn = np.random.default_rng(seed).integers(n, size=(resamples, n))
    drawn += n * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n).astype(np.float64)


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
    rng = np.random.default_rng(seed)
    block = max(1, 2**21 // len(statistics))  # 16 MB of weights at a time
    sizes = [min(block, resamples - begun) for begun in range(0, resamples, block)]
    return np.concatenate(
        [resample_weights(len(statistics), resamples=size, seed=rng) @ statistics for size in sizes]
    )


def ratio_interval(
    numerators: Float[np.ndarray, " image"],
    denominators: Float[np.ndarray, " image"],
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Interval | None:
    """Interval of sum(numerators) / sum(denominators), images resampled together with all they hold.

    The mean over words is such a ratio: per image, the sum over its words and the number of its words.

    Args:
        numerators: one number per image.
        denominators: one number per image, not negative; images with 0 carry no information and are left out.
        resamples: bootstrap resamples.
        seed: of the resampling.

    Returns:
        The interval; None if no image has a positive denominator.
    """
    kept = denominators > 0
    if not kept.any():
        return None
    parts = np.stack([numerators[kept], denominators[kept]], axis=1)
    sums = resampled_sums(parts, resamples=resamples, seed=seed)
    total = parts.sum(axis=0)
    return _interval(total[0] / total[1], sums[:, 0] / sums[:, 1], len(parts))


def bleu(statistics: Float[np.ndarray, "*rows 10"]) -> Float[np.ndarray, "*rows 4"]:
    """BLEU-1 to BLEU-4 (Papineni et al. 2002) of summed statistics, or of single images.

    Deviation, for equality with pycocoevalcap: 1e-15 is added to numerators and 1e-9 to denominators, so that
    a caption without a match scores almost 0 instead of failing.

    Args:
        statistics: in the order of `BLEU_STATISTICS`.

    Returns:
        Scores from 0 to 1.
    """
    tiny, small = 1e-15, 1e-9
    said, reference = statistics[..., 0], statistics[..., 1]
    precisions = (statistics[..., 2:6] + tiny) / (statistics[..., 6:10] + small)
    ratio = (said + tiny) / (reference + small)
    brevity = np.where(ratio < 1, np.exp(1 - 1 / ratio), 1.0)
    return np.cumprod(precisions, axis=-1) ** (1 / np.arange(1, 5)) * brevity[..., None]


def meteor(statistics: Float[np.ndarray, "*rows 23"]) -> Float[np.ndarray, "*rows"]:
    """METEOR 1.5 (Denkowski & Lavie 2014) of summed statistics, or of single images.

    The parameters are those that `-l en` stands for.

    Args:
        statistics: in the order of `METEOR_STATISTICS`.

    Returns:
        Scores from 0 to 1; 0 where nothing matches.
    """
    alpha, beta, gamma, delta = 0.85, 0.2, 0.6, 0.75
    matchers = np.array([1.0, 0.6, 0.8, 0.6])
    lengths, function_words = statistics[..., 0:2], statistics[..., 2:4]
    matched = statistics[..., 4:20].reshape(*statistics.shape[:-1], 4, 2, 2)  # matcher, kind, side
    weighted = np.einsum("...mks,m,k->...s", matched, matchers, [delta, 1 - delta])
    shares = _share(weighted, delta * (lengths - function_words) + (1 - delta) * function_words)
    precision, recall = shares[..., 0], shares[..., 1]
    mean = _share(precision * recall, alpha * precision + (1 - alpha) * recall)
    chunks, matches = statistics[..., 20], statistics[..., 21:23]
    return mean * (1 - gamma * _share(chunks, matches.mean(axis=-1)) ** beta)


def corpus_scores(frame: pd.DataFrame) -> dict[str, float | None]:
    """Corpus scores of one set of captions; see `metric_intervals` for the columns.

    Args:
        frame: one row per image.

    Returns:
        By metric, in the frame's order; None where no image has a value.
    """
    statistics = _complete(frame)
    scores = _scores(statistics.sum().to_frame().T, len(statistics))
    return {name: float(scores[name][0]) if name in scores else None for name in _metrics(frame)}


def metric_intervals(
    frame: pd.DataFrame, *, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, Interval | None]:
    """Corpus scores of one set of captions with their bootstrap intervals.

    A column is a metric unless its name is all lower case (statistics, ids). BLEU and METEOR come from summed
    statistics; every other metric is the mean of its column. CIDEr's document frequencies are not drawn
    again: they stay those of the whole set. The order of the rows changes nothing if the index names them.

    Args:
        frame: one row per image, with `BLEU_STATISTICS` and `METEOR_STATISTICS` if it has those metrics. A
            metric without any value is None; images without a value of one of the other metrics are left out.
        resamples: bootstrap resamples, the same for all metrics.
        seed: of the resampling.

    Returns:
        By metric, in the frame's order; None where no image has a value.
    """
    statistics, corpus = _complete(frame), corpus_scores(frame)
    if statistics.empty:
        return dict.fromkeys(corpus)
    sums = resampled_sums(statistics.to_numpy(), resamples=resamples, seed=seed)
    n = len(statistics)
    scores = _scores(pd.DataFrame(sums, columns=statistics.columns), n)
    return {
        name: None if value is None else _interval(value, scores[name], n) for name, value in corpus.items()
    }


def _metrics(frame: pd.DataFrame) -> list[str]:
    return [name for name in map(str, frame.columns) if name != name.lower()]


def _complete(frame: pd.DataFrame) -> pd.DataFrame:
    """What the metrics with values are made of, for the images that have it all, in the index's order."""
    present = [name for name in _metrics(frame) if frame[name].notna().any()]
    columns = [name for name in present if name != "METEOR" and not name.startswith("BLEU-")]
    if any(name.startswith("BLEU-") for name in present):
        columns += BLEU_STATISTICS
    if "METEOR" in present:
        columns += METEOR_STATISTICS
    return frame[columns].astype(np.float64).dropna().sort_index(kind="stable")


def _scores(sums: pd.DataFrame, n: int) -> dict[str, Float[np.ndarray, " row"]]:
    """Corpus scores of each row of sums over n images."""
    if n == 0:
        return {}
    scores = {name: sums[name].to_numpy() / n for name in _metrics(sums)}
    if BLEU_STATISTICS[0] in sums:
        found = bleu(sums[list(BLEU_STATISTICS)].to_numpy())
        scores |= {f"BLEU-{order}": found[:, order - 1] for order in range(1, 5)}
    if METEOR_STATISTICS[0] in sums:
        scores["METEOR"] = meteor(sums[list(METEOR_STATISTICS)].to_numpy())
    return scores


def _share(part: Float[np.ndarray, "*rows"], whole: Float[np.ndarray, "*rows"]) -> Float[np.ndarray, "*rows"]:
    """The quotient, 0 where the whole is."""
    quotient: Float[np.ndarray, "*rows"] = np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)
    return quotient


def _interval(value: float, drawn: Float[np.ndarray, " resample"], n: int) -> Interval:
    if n < 2:
        return Interval(float(value), None, None, n)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(value), float(low), float(high), n)
