"""What a run found, in numbers: tables of means over words and their intervals over images.

Intervals are 95 % bootstrap intervals over images. A *null* is what a measure takes by chance, a *ceiling*
what the true mask reaches at the map's resolution.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from reports.records import AGREEMENT, LOCALISATION, PATHS, MethodInfo, MetricRow, RunRecord
from reports.stats import Interval, ratio_interval
from reports.store import RunStore

COMPLETE_WITHIN = 0.05
"""The share of the score difference that a complete method's sum may miss, in the median over words."""
WORD_CLASSES = ("colour", "shape", "relation", "content", "function")
"""The order in which word classes are shown; others follow."""


class Estimate(NamedTuple):
    """A mean over words with its interval over images, and its marks."""

    interval: Interval
    null: float | None
    ceiling: float | None


class Completeness(NamedTuple):
    """How well a method that claims completeness keeps it."""

    median: float
    quartiles: tuple[float, float]
    words: int

    @property
    def holds(self) -> bool:
        """Whether the median error is below `COMPLETE_WITHIN`."""
        return self.median < COMPLETE_WITHIN


Table = Mapping[str, Mapping[str, Estimate]]
"""Name of a method or word class -> measure -> estimate; what has no value is absent."""


class ClassTables(NamedTuple):
    """What was measured of the words of one class."""

    localisation: Table
    """Of methods."""
    agreement: Table
    """Of methods."""


class Summary(NamedTuple):
    """Everything a run found, apart from single captions."""

    record: RunRecord
    best: MetricRow | None
    """The highest CIDEr over beam sizes (BLEU-4 where there is no CIDEr)."""
    leads: Mapping[int, Interval]
    """Beam size -> by how much the best one's score is ahead, picture by picture."""
    true_words: Interval | None
    """Share of words that are true of their picture, at the best beam size, where the data set knows."""
    ranking: Mapping[str, float]
    """Image id -> score at the best beam size, worst first."""
    methods: tuple[MethodInfo, ...]
    localisation: Table
    """Of methods."""
    attention_by_class: Table
    """Localisation of attention, of word classes."""
    agreement: Table
    """Of methods."""
    classes: Mapping[str, ClassTables]
    """By word class."""
    completeness: Mapping[str, Completeness]
    paths: Table
    """Of word classes, "all words" first."""


def summarise(store: RunStore) -> Summary:
    """Computes every table of a run; raises `RunError` if the run can't be read.

    Args:
        store: the run directory.

    Returns:
        The summary; tables are empty where the run holds nothing for them.
    """
    record, scores, rows = store.read_run(), store.read_scores(), store.read_attributions()
    best = _best(record.metrics)
    methods: tuple[MethodInfo, ...] = ()
    of: dict[str, pd.DataFrame] = {}
    if record.explanations is not None and rows is not None:
        methods = record.explanations.methods
        rows = rows[rows["beam_size"] == record.explanations.beam_size]
        of = {method.name: rows[rows["method"] == method.name] for method in methods}
    attention = [("all words", of["attention"])] if "attention" in of else []
    by_class = list(_by_class(of["attention"])) if attention else []
    classes = {name: _class_tables(of, name) for name, _ in by_class}
    at_best = scores[scores["beam_size"] == best.beam_size] if scores is not None and best else None
    completeness = ((method.name, _completeness(of[method.name])) for method in methods if method.complete)
    return Summary(
        record=record,
        best=best,
        leads=_leads(scores, best) if scores is not None and best else {},
        true_words=_true_words(at_best) if at_best is not None else None,
        ranking=_ranking(at_best, best.name) if at_best is not None and best else {},
        methods=methods,
        localisation=_table(of.items(), LOCALISATION),
        attention_by_class={
            name: tables.localisation["attention"]
            for name, tables in classes.items()
            if "attention" in tables.localisation
        },
        agreement=_table(_compared(of), AGREEMENT),
        classes=classes,
        completeness={name: found for name, found in completeness if found},
        paths=_table(attention + by_class, PATHS),
    )


def estimate(rows: pd.DataFrame, measure: str) -> Estimate | None:
    """The mean of a measure over words.

    Args:
        rows: of attributions.parquet.
        measure: a column; words where it is null are left out.

    Returns:
        The estimate, null and ceiling being means over the same words; None if no word has a value.
    """
    rows = rows[np.isfinite(rows[measure])]
    per_image = rows.groupby("image_id", sort=True)[measure].agg(["sum", "count"])
    interval = ratio_interval(per_image["sum"].to_numpy(np.float64), per_image["count"].to_numpy(np.float64))
    if interval is None:
        return None
    return Estimate(interval, _mean(rows, f"{measure}_null"), _mean(rows, f"{measure}_ceiling"))


def _mean(rows: pd.DataFrame, column: str) -> float | None:
    mean = float(rows[column].mean()) if column in rows else np.nan
    return mean if np.isfinite(mean) else None


def _table(groups: Iterable[tuple[str, pd.DataFrame]], measures: Sequence[str]) -> Table:
    table = {name: {m: found for m in measures if (found := estimate(rows, m))} for name, rows in groups}
    return {name: row for name, row in table.items() if row}


def _compared(of: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, pd.DataFrame]]:
    """The methods whose maps are compared with attention."""
    return ((name, rows) for name, rows in of.items() if name != "attention")


def _class_tables(of: Mapping[str, pd.DataFrame], word_class: str) -> ClassTables:
    ours = {name: rows[rows["word_class"] == word_class] for name, rows in of.items()}
    return ClassTables(_table(ours.items(), LOCALISATION), _table(_compared(ours), AGREEMENT))


def _by_class(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    place = {name: number for number, name in enumerate(WORD_CLASSES)}
    for name in sorted(
        rows["word_class"].dropna().unique(), key=lambda name: (place.get(name, len(place)), name)
    ):
        yield name, rows[rows["word_class"] == name]


def _completeness(rows: pd.DataFrame) -> Completeness | None:
    errors = rows["completeness_error"].to_numpy(np.float64)
    errors = errors[np.isfinite(errors)]
    if not errors.size:
        return None
    low, median, high = (float(q) for q in np.quantile(errors, [0.25, 0.5, 0.75]))
    return Completeness(median, (low, high), int(errors.size))


def _best(metrics: Sequence[MetricRow]) -> MetricRow | None:
    """Of equals the smallest beam, which is the cheapest."""
    for name in ("CIDEr", "BLEU-4"):
        if rows := [row for row in metrics if row.name == name and row.value is not None]:
            return max(rows, key=lambda row: (row.value or 0.0, -row.beam_size))
    return None


def _leads(scores: pd.DataFrame, best: MetricRow) -> dict[int, Interval]:
    if best.name not in scores:
        return {}
    beams = sorted({int(beam) for beam in scores["beam_size"]})
    by_beam = {
        beam: scores[scores["beam_size"] == beam].groupby("image_id")[best.name].mean() for beam in beams
    }
    leads = {}
    for beam in beams if best.beam_size in by_beam else ():
        ahead = (by_beam[best.beam_size] - by_beam[beam]).dropna().to_numpy(np.float64)
        if beam != best.beam_size and (interval := ratio_interval(ahead, np.ones(ahead.size))):
            leads[beam] = interval
    return leads


def _true_words(scores: pd.DataFrame) -> Interval | None:
    names = [str(name).removeprefix("said_") for name in scores if str(name).startswith("said_")]
    names = [name for name in names if f"true_{name}" in scores]
    if not names:
        return None
    true, said = (scores[[f"{which}_{name}" for name in names]].sum(axis=1) for which in ("true", "said"))
    return ratio_interval(true.to_numpy(np.float64), said.to_numpy(np.float64))


def _ranking(scores: pd.DataFrame, metric: str) -> dict[str, float]:
    if metric not in scores:
        return {}
    rows = scores[scores[metric].notna()]
    return {str(i): float(value) for value, i in sorted(zip(rows[metric], rows["image_id"], strict=True))}
