"""Corpus scores from sufficient statistics.

Corpus BLEU and METEOR are not means of per-image scores but functions of sums over the images. So each image's share
of those sums is stored, and any set of images is scored by adding up.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

Sums = Mapping[str, Float[np.ndarray, "*rows"]]
"""Statistics, or sums of them, by column."""
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


def statistics_of(metric: str) -> tuple[str, ...]:
    """The columns whose sums a corpus score is made of; the metric's own column if the score is its mean."""
    if metric in ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"):
        return BLEU_STATISTICS
    return METEOR_STATISTICS if metric == "METEOR" else (metric,)


def corpus_score(metric: str, sums: Sums, n: int) -> Float[np.ndarray, "*rows"]:
    """Corpus scores.

    Args:
        metric: its name.
        sums: sums of `statistics_of(metric)`, and maybe of others, over one or many sets of images.
        n: how many images were added up in each set.

    Returns:
        One score per set.
    """
    parts = np.stack([sums[column] for column in statistics_of(metric)], axis=-1)
    if metric.startswith("BLEU-"):
        return bleu(parts)[..., int(metric.removeprefix("BLEU-")) - 1]
    return meteor(parts) if metric == "METEOR" else parts[..., 0] / n


def metric_names(frame: pd.DataFrame) -> list[str]:
    """The columns that are metrics: those whose names are not all lower case."""
    return [name for name in map(str, frame.columns) if name != name.lower()]


class SameImages(NamedTuple):
    """Metrics that have values for the same images."""

    metrics: list[str]
    n: int
    """Images."""
    runs: list[Sums]
    """Of each frame the statistics of all these metrics by column, one number per image, in the index's order."""


def by_images(*frames: pd.DataFrame) -> Iterator[SameImages]:
    """Brings together the metrics that all frames have for the same images; metrics without any are left out.

    Args:
        *frames: columns as for `reports.stats.metric_intervals`, rows of the same images in any order.

    Yields:
        The metrics, each once.
    """
    assert all(frame.index.is_unique for frame in frames), "one row per image: rows of one image are alike"
    names = [name for name in metric_names(frames[0]) if all(name in frame for frame in frames)]
    columns = list(dict.fromkeys(column for name in names for column in (name, *statistics_of(name))))
    orders = [frame.index.argsort() for frame in frames]
    # Column by column, and rows are left out only where there are such: a copy of everything is many megabytes.
    values = [
        {column: frame[column].to_numpy(np.float64)[order] for column in columns}
        for frame, order in zip(frames, orders, strict=True)
    ]
    groups: dict[bytes, list[str]] = {}
    for name in names:
        needed = (np.isfinite(value[c]) for value in values for c in (name, *statistics_of(name)))
        groups.setdefault(np.logical_and.reduce(list(needed)).tobytes(), []).append(name)
    for present, metrics in groups.items():
        rows = np.frombuffer(present, bool)
        if rows.any():
            kept = dict.fromkeys(column for name in metrics for column in statistics_of(name))
            which = slice(None) if rows.all() else rows
            yield SameImages(
                metrics, int(rows.sum()), [{c: value[c][which] for c in kept} for value in values]
            )


def total(statistics: Sums) -> Sums:
    """Sums over all images."""
    return {column: values.sum() for column, values in statistics.items()}


def corpus_scores(frame: pd.DataFrame) -> dict[str, float | None]:
    """Corpus scores of one set of captions; see `reports.stats.metric_intervals` for the columns.

    Args:
        frame: one row per image.

    Returns:
        By metric, in the frame's order; None where no image has a value.
    """
    scores = {
        name: float(corpus_score(name, total(statistics), n))
        for names, n, (statistics,) in by_images(frame)
        for name in names
    }
    return {name: scores.get(name) for name in metric_names(frame)}


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


def _share(part: Float[np.ndarray, "*rows"], whole: Float[np.ndarray, "*rows"]) -> Float[np.ndarray, "*rows"]:
    """The quotient, 0 where the whole is."""
    quotient: Float[np.ndarray, "*rows"] = np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)
    return quotient
