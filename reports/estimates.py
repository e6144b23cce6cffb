"""Means over words and their intervals over images, with the marks that they are read between."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from reports.records import AGREEMENT, EXTRAS, FAITHFULNESS, NULLS, OPERATORS
from reports.stats import Interval, ratio_intervals

OPERATED = tuple(f"{measure}_{operator}" for operator in OPERATORS for measure in FAITHFULNESS)
"""Columns of faithfulness."""
_MARKED = (*OPERATED, *EXTRAS)
_CHANCE, _REFERENCE = "random", "oracle_grid"


class Estimate(NamedTuple):
    """A mean over words with its interval over images, and its marks."""

    interval: Interval
    null: float | None
    ceiling: float | None
    words: int = 0
    """Words with a value."""
    coverage: float | None = None
    """`words` as a share of those that have a value with any method."""
    null_word: float | None = None
    """What the other words of the same image give; of agreement only."""
    null_shift: float | None = None
    """What the same map gives when it is shifted; of agreement only."""
    corrected: Interval | None = None
    """(value - null) / (best - null), as a ratio of means; of agreement only."""


Table = Mapping[str, Mapping[str, Estimate]]
"""Name of a method or word class -> measure -> estimate; what has no value is absent."""


def estimate(rows: pd.DataFrame, measure: str) -> Estimate | None:
    """The mean of a measure over words.

    Args:
        rows: of attributions.parquet.
        measure: a column; words where it is null are left out.

    Returns:
        The estimate, null and ceiling being means over the same words; None if no word has a value.
    """
    return estimates(rows, (measure,)).get(measure)


def estimates(
    rows: pd.DataFrame, measures: Sequence[str], asked: Mapping[str, int] | None = None
) -> dict[str, Estimate]:
    """The means of many measures over words.

    Args:
        rows: of attributions.parquet, one row per word.
        measures: columns; those that the rows lack, or have no value in, are left out.
        asked: how many words could have a value, by measure; None takes all rows.

    Returns:
        By measure.
    """
    measures = [measure for measure in measures if measure in rows]
    if rows.empty or not measures:
        return {}
    images, _ = pd.factorize(rows["image_id"], sort=True)
    defined = np.isfinite(rows[measures].to_numpy(np.float64))
    intervals = over_images(rows, measures)
    marks = _columns(rows, [f"{measure}_{mark}" for measure in measures for mark in (*NULLS, "ceiling")])
    corrected = _corrected(rows, images, [measure for measure in measures if measure in AGREEMENT])
    found = {}
    for place, (measure, interval) in enumerate(zip(measures, intervals, strict=True)):
        if interval is None:
            continue
        words = int(defined[:, place].sum())
        possible = max(words, len(rows) if asked is None else asked.get(measure, 0))
        null, null_word, null_shift, ceiling = (
            _mean(marks.get(f"{measure}_{mark}"), defined[:, place]) for mark in (*NULLS, "ceiling")
        )
        found[measure] = Estimate(
            interval, null, ceiling, words, words / possible, null_word, null_shift, corrected.get(measure)
        )
    return found


def over_images(
    rows: pd.DataFrame, columns: Sequence[str], words: Float[np.ndarray, " row"] | None = None
) -> list[Interval | None]:
    """Means over words, with their intervals over images.

    Args:
        rows: with the column image_id.
        columns: to be averaged; where one is null it is left out.
        words: how many words each row is the mean of; None stands for one word each.

    Returns:
        One interval per column; None where a column has no value.
    """
    images, _ = pd.factorize(rows["image_id"], sort=True)
    values = rows[list(columns)].to_numpy(np.float64)
    counts = np.nan_to_num(np.ones(len(rows)) if words is None else words)[:, None]
    weights = np.where(np.isfinite(values), counts, 0.0)
    return ratio_intervals(
        _per_image(images, np.where(weights > 0, values * counts, 0.0)),
        _per_image(images, weights),
        shares=[column != "lift" for column in columns],
    )


def table(
    groups: Iterable[tuple[str, pd.DataFrame]],
    measures: Sequence[str],
    asked: Mapping[str, int] | None = None,
) -> Table:
    """`estimates` of several groups of rows; groups without any value are left out."""
    rows = {name: estimates(group, measures, asked) for name, group in groups}
    return {name: row for name, row in rows.items() if row}


def askable(rows: pd.DataFrame, measures: Sequence[str]) -> dict[str, int]:
    """By measure, how many words have a value with any method."""
    measures = [measure for measure in measures if measure in rows]
    if rows.empty or not measures:
        return {}
    defined = np.isfinite(rows[measures].to_numpy(np.float64))
    return dict(zip(measures, (_per_image(_words(rows), defined) > 0).sum(axis=0).tolist(), strict=True))


def with_marks(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, with chance and reference of faithfulness beside each word.

    Chance, NAME_null, is what the random control takes for the same word; the reference, NAME_ceiling, is what the
    true place on the grid takes, where the data set knows it.
    """
    measures = [measure for measure in _MARKED if measure in rows]
    if rows.empty or not measures:
        return rows
    words = _words(rows)
    marks = []
    for mark, method in (("null", _CHANCE), ("ceiling", _REFERENCE)):
        theirs = (rows["method"] == method).to_numpy()
        values = np.full((words.max() + 1, len(measures)), np.nan)
        values[words[theirs]] = rows.loc[theirs, measures].to_numpy(np.float64)
        names = [f"{measure}_{mark}" for measure in measures]
        marks.append(pd.DataFrame(values[words], index=rows.index, columns=names))
    return pd.concat([rows, *marks], axis=1)


def _words(rows: pd.DataFrame) -> Int[np.ndarray, " row"]:
    """A number for each row's word, from 0."""
    number: Int[np.ndarray, " row"] = rows.groupby(["image_id", "word_index"], sort=False).ngroup().to_numpy()
    return number


def _per_image(
    groups: Int[np.ndarray, " row"], values: Float[np.ndarray, "row measure"]
) -> Float[np.ndarray, "group measure"]:
    """Sums over the rows of each group."""
    size = int(groups.max()) + 1
    sums = [np.bincount(groups, weights=column, minlength=size) for column in values.T]
    return np.stack(sums, axis=1) if sums else np.empty((size, 0))


def _corrected(
    rows: pd.DataFrame, images: Int[np.ndarray, " row"], measures: Sequence[str]
) -> dict[str, Interval]:
    """The way from chance to the best possible, (value - null) / (best - null), over words that have both."""
    measures = [measure for measure in measures if f"{measure}_null" in rows]
    if not measures:
        return {}
    values = rows[measures].to_numpy(np.float64)
    nulls = rows[[f"{measure}_null" for measure in measures]].to_numpy(np.float64)
    best = np.array([0.0 if measure == "root_jsd" else 1.0 for measure in measures])
    towards = np.where(best > 0, 1.0, -1.0)
    both = np.isfinite(values) & np.isfinite(nulls)
    gained = np.where(both, (values - nulls) * towards, 0.0)
    possible = np.where(both, np.maximum((best - nulls) * towards, 0.0), 0.0)
    intervals = ratio_intervals(_per_image(images, gained), _per_image(images, possible))
    return {m: interval for m, interval in zip(measures, intervals, strict=True) if interval}


def _columns(rows: pd.DataFrame, names: Sequence[str]) -> dict[str, Float[np.ndarray, " row"]]:
    """Those of the columns that there are."""
    names = [name for name in names if name in rows]
    return dict(zip(names, rows[names].to_numpy(np.float64).T, strict=True))


def _mean(values: Float[np.ndarray, " row"] | None, among: np.ndarray) -> float | None:
    if values is None:
        return None
    values = values[among]
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else None
