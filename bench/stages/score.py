"""Scoring: from captions.jsonl to scores.parquet and the metric rows of run.json."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from bench.data.base import CaptionedImage, GroundTruth
from bench.progress import say
from bench.scoring import METRICS, Scorer
from explain.collapse import COLLAPSED_BELOW
from models.vocabulary import Vocabulary, split_words
from reports.records import CaptionRow, MetricRow
from reports.stats import Interval, metric_intervals, ratio_interval

ALARMING_SHARE = 0.5
"""A run with more collapsed captions than this is warned of."""


class Scored(NamedTuple):
    """What scoring yields."""

    per_image: pd.DataFrame
    """scores.parquet: one row per (image_id, beam_size)."""
    metrics: tuple[MetricRow, ...]
    signature: str
    warnings: tuple[str, ...]


def score(
    scorer: Scorer,
    captions: Sequence[CaptionRow],
    images: Mapping[str, CaptionedImage],
    *,
    beam_sizes: Sequence[int],
    ground_truth: GroundTruth | None,
    vocabulary: Vocabulary,
) -> Scored:
    """Scores every beam size.

    Args:
        scorer: holding the references of all images.
        captions: all rows of the run; failed ones are left out and counted elsewhere.
        images: by id.
        beam_sizes: each is scored by itself.
        ground_truth: where the data set knows what is true of its pictures.
        vocabulary: tells which word stands for unknown ones.

    Returns:
        Scores per image and corpus, with intervals.
    """
    frames: list[pd.DataFrame] = []
    metrics: list[MetricRow] = []
    warnings: list[str] = []
    signature = ""
    for size in beam_sizes:
        rows = [row for row in captions if row.beam_size == size and row.caption is not None]
        result = scorer.score({row.image_id: row.caption or "" for row in rows})
        signature = result.signature
        warnings.extend(f"beam size {size}: {warning}" for warning in result.warnings)
        intervals = metric_intervals(result.per_image)
        for name, metric in METRICS.items():
            value, reason = result.corpus[name], result.reasons.get(name)
            interval = intervals.get(name) if value is not None else None
            metrics.append(
                _row(
                    name,
                    size,
                    interval,
                    len(rows),
                    metric.unit,
                    metric.higher_is_better,
                    value=value,
                    reason=reason,
                )
            )
        frame = result.per_image.loc[[row.image_id for row in rows]]
        extra = pd.DataFrame(
            [_facts(row, images[row.image_id], ground_truth) for row in rows], index=frame.index
        )
        metrics.extend(_fact_metrics(extra, size))
        metrics.extend(_descriptive(rows, size, vocabulary))
        metrics.extend(_attention(rows, size))
        if (collapsed := metrics[-1].value) is not None and collapsed > ALARMING_SHARE:
            warnings.append(
                f"beam size {size}: attention is the same for every word in {100 * collapsed:.0f} % of the captions; "
                "its maps explain nothing"
            )
        frame = frame.join(extra).rename_axis("image_id").reset_index()
        frame.insert(1, "beam_size", size)
        frames.append(frame)
        say(f"scored {len(rows)} captions of beam size {size}")
    return Scored(pd.concat(frames, ignore_index=True), tuple(metrics), signature, tuple(warnings))


def _facts(row: CaptionRow, image: CaptionedImage, ground_truth: GroundTruth | None) -> dict[str, float]:
    facts = {"Exact match": float(any(list(row.words) == split_words(ref) for ref in row.references))}
    if ground_truth is not None:
        for name, truth in ground_truth.truth(image, row.words).items():
            facts[f"true_{name}"], facts[f"said_{name}"] = truth.true, truth.said
    return facts


def _fact_metrics(extra: pd.DataFrame, size: int) -> list[MetricRow]:
    """Share of captions that equal a reference, and of content words that are true of their picture."""
    n = len(extra)
    ones = np.ones(n)
    rows = [
        _row("Exact match", size, ratio_interval(extra["Exact match"].to_numpy(), ones), n, "share", True)
    ]
    for column in extra.columns:
        if column.startswith("true_"):
            name = column.removeprefix("true_")
            interval = ratio_interval(extra[column].to_numpy(float), extra[f"said_{name}"].to_numpy(float))
            reason = None if interval else f"no caption says a {name} word"
            rows.append(_row(f"True {name} words", size, interval, n, "share", True, reason=reason))
    return rows


def _descriptive(rows: Sequence[CaptionRow], size: int, vocabulary: Vocabulary) -> list[MetricRow]:
    """What the captions are like, good or bad."""
    n = len(rows)
    ones = np.ones(n)
    lengths = np.array([len(row.words) for row in rows], dtype=float)
    unknown = np.array([sum(i == vocabulary.unk for i in row.token_ids) for row in rows], dtype=float)
    unfinished = np.array([not row.finished for row in rows], dtype=float)
    distinct = len({row.caption for row in rows}) / n
    return [
        _row("Unfinished captions", size, ratio_interval(unfinished, ones), n, "share", False),
        _row(
            "Unknown words",
            size,
            ratio_interval(unknown, lengths),
            n,
            "share",
            False,
            reason="no words were said",
        ),
        # Resampling images repeats captions, so a bootstrap interval of this share would be wrong: there is none.
        _row("Distinct captions", size, None, n, "share", None, value=distinct),
        _row("Mean length", size, ratio_interval(lengths, ones), n, "words", None),
    ]


def _attention(rows: Sequence[CaptionRow], size: int) -> list[MetricRow]:
    """Whether attention spreads, and whether it moves; of the captions that can say so."""
    spread = [(row.attention_entropy, len(row.words)) for row in rows if row.attention_entropy is not None]
    moved = [row.attention_movement for row in rows if row.attention_movement is not None]
    words = np.array([n for _, n in spread], dtype=float)
    entropy = ratio_interval(np.array([entropy for entropy, _ in spread], dtype=float) * words, words)
    still = np.array([movement < COLLAPSED_BELOW for movement in moved], dtype=float)
    collapsed = ratio_interval(still, np.ones(len(moved)))
    return [
        _row("Attention entropy", size, entropy, len(spread), "share", None, reason="no words were said"),
        _row(
            "Collapsed attention",
            size,
            collapsed,
            len(moved),
            "share",
            False,
            reason="no caption has two words",
        ),
    ]


def _row(
    name: str,
    size: int,
    interval: Interval | None,
    n: int,
    unit: str,
    higher_is_better: bool | None,
    *,
    value: float | None = None,
    reason: str | None = None,
) -> MetricRow:
    if interval is not None and value is None:
        value = interval.value
    return MetricRow(
        name=name,
        beam_size=size,
        value=value,
        unit=unit,
        higher_is_better=higher_is_better,
        ci_low=interval.low if interval else None,
        ci_high=interval.high if interval else None,
        n=n,
        reason=None if value is not None else reason,
    )
