"""Scoring: from captions.jsonl to scores.parquet and the metric rows of run.json. Needs no model and no picture."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from bench.data.results import load_references
from bench.progress import say
from bench.scoring import METRICS, Frequencies, Scorer, Scores
from bench.scoring.variety import Described, retrieval, variety
from bench.stages.facts import KEPT
from explain.collapse import COLLAPSED_BELOW
from models.vocabulary import split_words
from reports.records import FROM_FILE, CaptionRow, MetricRow
from reports.stats import Interval, metric_intervals, ratio_interval, share_interval

ALARMING_SHARE = 0.5
"""A run with more collapsed captions than this is warned of."""


class Scored(NamedTuple):
    """What scoring yields."""

    per_image: pd.DataFrame
    """scores.parquet: one row per (image_id, beam_size)."""
    metrics: tuple[MetricRow, ...]
    signature: str
    """What the signatures of all metrics have in common."""
    warnings: tuple[str, ...]


def load_frequencies(spec: Path | None) -> Frequencies | None:
    """Reads what CIDEr's document frequencies are to be counted over; None for None."""
    if spec is None:
        return None
    references = load_references(str(spec))
    return Frequencies(references.name, references.captions)


def score(
    scorer: Scorer,
    captions: Sequence[CaptionRow],
    *,
    search_signature: str,
    unknown_word: str | None,
    known: pd.DataFrame | None,
) -> Scored:
    """Scores every beam size.

    Args:
        scorer: holding the references of all images.
        captions: all rows of the run; failed ones are left out and counted elsewhere.
        search_signature: how the captions were searched for.
        unknown_word: what the model says for words that it does not know.
        known: one row per (image_id, beam_size) with the columns that begin as `KEPT` says; None if there are none.

    Returns:
        Scores per image and corpus, with intervals.
    """
    frames: list[pd.DataFrame] = []
    metrics: list[MetricRow] = []
    warnings: list[str] = []
    signature = ""
    for size in sorted({row.beam_size for row in captions}):
        rows = [row for row in captions if row.beam_size == size and row.caption is not None]
        result = scorer.score({row.image_id: row.caption or "" for row in rows})
        signature = result.signature
        frame = result.per_image.join(_facts(rows, unknown_word)).join(_known(known, size))
        suffix = "|".join(filter(None, ["" if size == FROM_FILE else f"beam:{size}", search_signature]))
        found = [
            *_overlap(result),
            *_judged(frame),
            *retrieval(frame),
            *_described(rows, frame),
            *_attention(rows),
        ]
        metrics += [_row(each, size, suffix) for each in found]
        place = "" if size == FROM_FILE else f"beam size {size}: "
        warnings += [place + warning for warning in (*result.warnings, *_alarm(found))]
        frame = frame.rename_axis("image_id").reset_index()
        frame.insert(1, "beam_size", size)
        frames.append(frame)
        say(f"scored {len(rows)} captions" + ("" if size == FROM_FILE else f" of beam size {size}"))
    return Scored(pd.concat(frames, ignore_index=True), tuple(metrics), signature, tuple(warnings))


def _facts(rows: Sequence[CaptionRow], unknown_word: str | None) -> pd.DataFrame:
    """What every caption says of itself, by image id."""
    return pd.DataFrame(
        {
            "Exact match": float(any(list(row.words) == split_words(ref) for ref in row.references)),
            "words": float(len(row.words)),
            "unfinished": float(not row.finished),
        }
        | ({} if unknown_word is None else {"words_unknown": float(row.words.count(unknown_word))})
        for row in rows
    ).set_index(pd.Index([row.image_id for row in rows]))


def _known(known: pd.DataFrame | None, size: int) -> pd.DataFrame:
    if known is None:
        return pd.DataFrame()
    rows = known[known["beam_size"] == size].set_index("image_id")
    return rows[[column for column in rows if str(column).startswith(KEPT)]].dropna(axis=1, how="all")


def _overlap(result: Scores) -> Iterator[Described]:
    intervals = metric_intervals(result.per_image)
    for name, value in result.corpus.items():
        metric, interval = METRICS[name], intervals.get(name)
        if value is None:
            interval = None
        n = interval.n if interval else len(result.per_image)
        yield Described(
            name,
            metric.unit,
            metric.higher_is_better,
            value,
            interval,
            n,
            reason=result.reasons.get(name),
            signature=result.signatures[name],
        )


def _judged(frame: pd.DataFrame) -> Iterator[Described]:
    """Captions that equal a reference; where the data set knows, words that are true and objects that are not there."""
    yield _share("Exact match", frame["Exact match"], better=True)
    for column in frame.filter(regex="^true_"):
        name = str(column).removeprefix("true_")
        reason = f"no caption says a {name} word"
        yield _ratio(f"True {name} words", frame[column], frame[f"said_{name}"], better=True, reason=reason)
    if "objects_said" in frame:
        said, absent = frame["objects_said"], frame["objects_absent"]
        yield _ratio("Hallucinated objects", absent, said, better=False, reason="no caption names an object")
        yield _share("Hallucinating captions", absent > 0, better=False)
    if "copied" in frame:
        yield _share("Copied captions", frame["copied"], better=None)


def _described(rows: Sequence[CaptionRow], frame: pd.DataFrame) -> Iterator[Described]:
    """What the captions are like, good or bad."""
    yield _share("Unfinished captions", frame["unfinished"], better=False)
    if "words_unknown" in frame:
        reason = "no words were said"
        yield _ratio("Unknown words", frame["words_unknown"], frame["words"], better=False, reason=reason)
    yield from variety([row.words for row in rows], [row.references for row in rows])


def _attention(rows: Sequence[CaptionRow]) -> Iterator[Described]:
    """Whether attention spreads, and whether it moves; of the captions that can say so."""
    if all(row.log_prob_nats is None for row in rows):  # no model of ours said them
        return
    spread = [(row.attention_entropy, len(row.words)) for row in rows if row.attention_entropy is not None]
    moved = [row.attention_movement for row in rows if row.attention_movement is not None]
    words = np.array([n for _, n in spread], dtype=float)
    entropy = ratio_interval(np.array([entropy for entropy, _ in spread], dtype=float) * words, words)
    value = entropy.value if entropy else None
    yield Described("Attention entropy", "share", None, value, entropy, len(spread), "no words were said")
    covered = np.array(
        [row.attention_coverage for row in rows if row.attention_coverage is not None], dtype=float
    )
    if covered.size:  # the first runs did not store it
        coverage = ratio_interval(covered, np.ones(covered.size))
        yield Described(
            "Attention coverage", "share", None, coverage.value if coverage else None, coverage, covered.size
        )
    still = pd.Series(moved, dtype=float) < COLLAPSED_BELOW
    yield _share("Collapsed attention", still, better=False, reason="no caption has two words")


def _alarm(found: Sequence[Described]) -> Iterator[str]:
    for each in found:
        if each.name == "Collapsed attention" and each.value is not None and each.value > ALARMING_SHARE:
            yield (
                f"attention is the same for every word in {100 * each.value:.0f} % of the captions; "
                "its maps explain nothing"
            )


def _share(name: str, holds: pd.Series, *, better: bool | None, reason: str | None = None) -> Described:
    """Share of the images for which something holds."""
    n = len(holds)
    interval = share_interval(int(holds.sum()), n) if n else None
    return Described(name, "share", better, interval.value if interval else None, interval, n, reason)


def _ratio(name: str, part: pd.Series, whole: pd.Series, *, better: bool, reason: str) -> Described:
    interval: Interval | None = ratio_interval(part.to_numpy(float), whole.to_numpy(float))
    value = interval.value if interval else None
    return Described(name, "share", better, value, interval, interval.n if interval else len(part), reason)


def _row(found: Described, size: int, suffix: str) -> MetricRow:
    return MetricRow(
        name=found.name,
        beam_size=size,
        value=found.value,
        unit=found.unit,
        higher_is_better=found.higher_is_better,
        ci_low=found.interval.low if found.interval else None,
        ci_high=found.interval.high if found.interval else None,
        n=found.n,
        reason=None if found.value is not None else found.reason,
        signature="|".join(filter(None, [found.signature, suffix])),
    )
