"""Which words fail: those that no reference of their picture has, and those whose things attention misses.

The first needs no knowledge of the picture, so it works on every data set. It is strict: a synonym counts as missing.
"""

import re
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from reports import wording
from reports.records import CaptionRow
from reports.stats import Interval, share_interval
from reports.tables import EMPTY, Cell, Grid, Row, number, span

LEAST = 5
"""Pictures that a word must be said of to be judged."""
SHOWN = 12
_TOKEN = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


class WordFound(NamedTuple):
    """How one word fares."""

    word: str
    missing: Interval
    """Share of the pictures that it is said of of which no reference has it."""
    probability: float | None
    """The model's own, on average."""
    pointing: float | None
    """How often attention's brightest cell lies on what it names, over the pictures that were explained; None where
    these are fewer than `LEAST`."""
    explained: int = 0
    """How many pictures that is."""


class WordCounts:
    """The words of captions of one beam size, one caption per picture: eight bytes for each word that is said."""

    def __init__(self) -> None:
        self.said, self.missing = Counter[str](), Counter[str]()
        self.logs: dict[str, array[float]] = {}

    def add(self, row: CaptionRow) -> None:
        """Counts the words of a caption, if its picture has references."""
        if not row.references:
            return
        text = " ".join(row.references).lower()
        known = {*_TOKEN.findall(text), *text.split()}
        self.said.update(set(row.words))
        self.missing.update(word for word in set(row.words) if word.lower() not in known)
        for word, log in zip(row.words, row.spoken_log_probs, strict=False):
            self.logs.setdefault(word, array("d")).append(log)


def failing_words(counts: WordCounts, attributions: pd.DataFrame | None = None) -> list[WordFound]:
    """Judges every word that is said of at least `LEAST` pictures with references.

    Args:
        counts: of the words.
        attributions: rows of attributions.parquet of that beam size; None where none of it was explained, or attention
            is not to be believed.

    Returns:
        The words: by the lower end of the interval, so that those whose share is high for certain come first; words
        that are never missing last, those that attention hits least often first.
    """
    pointing = _pointing(attributions)
    found = [
        WordFound(
            word,
            share_interval(counts.missing[word], times),
            _mean_probability(counts.logs.get(word)),
            *pointing.get(word, (None, 0)),
        )
        for word, times in counts.said.items()
        if times >= LEAST
    ]
    return sorted(found, key=_badness)


def _badness(found: WordFound) -> tuple[float, float, int, str]:
    hit = 1.0 if found.pointing is None else found.pointing
    low = found.missing.low or 0.0
    return -low if found.missing.value else 0.0, hit, -found.missing.n, found.word


def _mean_probability(logs: Sequence[float] | None) -> float | None:
    return float(np.exp(np.minimum(logs, 0.0)).mean()) if logs else None


def _pointing(rows: pd.DataFrame | None) -> Mapping[str, tuple[float, int]]:
    """Of words that attention was asked about in at least `LEAST` pictures: the mean over these, and their number."""
    if rows is None:
        return {}
    known = rows[(rows["method"] == "attention") & rows["pointing"].notna()]
    means = known.groupby(["word", "image_id"])["pointing"].mean().groupby(level="word").agg(["mean", "size"])
    return {str(word): (float(mean), int(n)) for word, mean, n in means.itertuples(name=None) if n >= LEAST}


def word_table(words: Sequence[WordFound]) -> Grid | None:
    """The first words that are missing at times or whose thing attention can hit; None if there is none."""
    words = [found for found in words if found.missing.value or found.pointing is not None]
    if not words:
        return None
    columns = (
        Cell("In no reference", ("↓ lower is better", "share of the pictures")),
        Cell("Said of", ("pictures",)),
        Cell("Its probability", ("the model’s own, mean",)),
        Cell("Pointing", ("of attention, ↑ higher is better",)),
    )
    rows = [
        Row(
            found.word,
            (
                Cell(wording.percent(found.missing.value), (span(found.missing, unit="share"),)),
                Cell(f"{found.missing.n:,}"),
                Cell("–" if found.probability is None else wording.percent(found.probability)),
                EMPTY
                if found.pointing is None
                else Cell(number(found.pointing, 2), (f"{found.explained:,} pictures",)),
            ),
        )
        for found in words[:SHOWN]
    ]
    caption = (
        f"Words said of at least {LEAST} pictures, the most certain failures first; ranges are 95 % intervals"
    )
    return Grid(caption, "Word", columns, {"": rows})
