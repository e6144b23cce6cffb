"""Which words fail: those that no reference of their picture has, and those whose things attention misses.

The first needs no knowledge of the picture, so it works on every data set. It is strict: a synonym counts as missing.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from reports import wording
from reports.records import CaptionRow
from reports.stats import Interval, ratio_interval
from reports.tables import Cell, Grid, Row, number, span

LEAST = 5
"""Times that a word must be said to be judged."""
SHOWN = 12
_TOKEN = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


class WordFound(NamedTuple):
    """How one word fares."""

    word: str
    said: int
    """How often."""
    missing: Interval
    """Share of these times that no reference of the picture has the word; the interval is over images."""
    probability: float | None
    """The model's own, on average."""
    pointing: float | None
    """How often attention's brightest cell lies on what it names; None where that is not known."""


def failing_words(
    captions: Sequence[CaptionRow], attributions: pd.DataFrame | None = None
) -> list[WordFound]:
    """Judges every word that is said at least `LEAST` times, of captions with references.

    Args:
        captions: of one beam size.
        attributions: rows of attributions.parquet; None where nothing was explained.

    Returns:
        The words: by the lower end of the interval, so that those whose share is high for certain come first; words
        that are never missing last, those that attention hits least often first.
    """
    said: dict[str, Counter[int]] = {}
    missing: dict[str, Counter[int]] = {}
    logs: dict[str, list[float]] = {}
    for image, row in enumerate(captions):
        if not row.references:
            continue
        known = {token for reference in row.references for token in _TOKEN.findall(reference.lower())}
        known |= {word for reference in row.references for word in reference.lower().split()}
        for place, word in enumerate(row.words):
            said.setdefault(word, Counter())[image] += 1
            missing.setdefault(word, Counter())[image] += word.lower() not in known
            if place < len(row.word_log_probs):
                logs.setdefault(word, []).append(row.word_log_probs[place])
    pointing = _pointing(attributions)
    found = []
    for word, times in said.items():
        interval = None
        if times.total() >= LEAST:
            counts = [(missing[word][image], count) for image, count in times.items()]
            parts, wholes = np.array(counts, np.float64).T
            interval = ratio_interval(parts, wholes)
        if interval is not None and interval.low is not None:
            mean = float(np.exp(np.minimum(logs[word], 0.0)).mean()) if word in logs else None
            found.append(WordFound(word, times.total(), interval, mean, pointing.get(word)))
    return sorted(found, key=_badness)


def _badness(found: WordFound) -> tuple[float, float, int, str]:
    hit = 1.0 if found.pointing is None else found.pointing
    return -(found.missing.low or 0.0), hit, -found.said, found.word


def _pointing(rows: pd.DataFrame | None) -> Mapping[str, float]:
    if rows is None:
        return {}
    known = rows[(rows["method"] == "attention") & rows["pointing"].notna()]
    return {str(word): float(value) for word, value in known.groupby("word")["pointing"].mean().items()}


def word_table(words: Sequence[WordFound]) -> Grid | None:
    """The first words that are missing at times or whose thing attention can hit; None if there is none."""
    words = [found for found in words if found.missing.value or found.pointing is not None]
    if not words:
        return None
    columns = (
        Cell("In no reference", ("↓ lower is better", "share of the times said")),
        Cell("Said", ("times",)),
        Cell("Its probability", ("the model’s own, mean",)),
        Cell("Pointing", ("of attention, ↑ higher is better",)),
    )
    rows = [
        Row(
            found.word,
            (
                Cell(wording.percent(found.missing.value), (span(found.missing, unit="share"),)),
                Cell(f"{found.said:,}", (f"{found.missing.n:,} images",)),
                Cell("–" if found.probability is None else wording.percent(found.probability)),
                Cell("–" if found.pointing is None else number(found.pointing, 2)),
            ),
        )
        for found in words[:SHOWN]
    ]
    return Grid(
        f"Words that are said at least {LEAST} times, the most certain failures first; ranges are 95 % intervals",
        "Word", columns, {"": rows},
    )  # fmt: skip
