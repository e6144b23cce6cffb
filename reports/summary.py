"""What a run found, in numbers: tables of means over words and their intervals over images.

Intervals are 95 % bootstrap intervals over images. A *null* is what a measure takes by chance, a *ceiling*
what the true mask reaches at the map's resolution.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from reports.audit import ORACLE, Audit, audit
from reports.corpus import statistics_of
from reports.estimates import OPERATED, Estimate, Table, askable, estimate, estimates, table, with_marks
from reports.explanations import (
    LAGS,
    Comparison,
    Intervention,
    Sanity,
    comparisons,
    failed_gates,
    interventions,
    sanity,
)
from reports.legend import CAPTION_METRICS
from reports.overview import Overview
from reports.records import (
    AGREEMENT,
    EXTRAS,
    GATE,
    LOCALISATION,
    PATHS,
    TRIAL_DISTANCES,
    TRIAL_DROPS,
    ExplanationInfo,
    MethodInfo,
    MetricRow,
    RunRecord,
)
from reports.stats import Interval, ratio_interval
from reports.store import RunStore
from reports.words import WordFound, failing_words

__all__ = ["Completeness", "Estimate", "Summary", "Table", "estimate", "summarise"]

COMPLETE_WITHIN = 0.05
"""The share of the score difference that a complete method's sum may miss, in the median over words."""
WORD_CLASSES = ("colour", "shape", "relation", "content", "function")
"""The order in which word classes are shown; others follow."""
ALL, CONTENT = "all words", "all but function words"
"""Rows above those of the single classes."""
FUNCTION = "function"
BY_CLASS = ("auc", "mass", "pointing", "on_things", "cosine", "abpc_cells")
"""Measures that are shown word class by word class for every method."""


_NONE: Mapping[str, Any] = MappingProxyType({})


class Completeness(NamedTuple):
    """How well a method that claims completeness keeps it."""

    median: float
    quartiles: tuple[float, float]
    words: int

    @property
    def holds(self) -> bool:
        """Whether the median error is below `COMPLETE_WITHIN`."""
        return self.median < COMPLETE_WITHIN


class Summary(NamedTuple):
    """Everything a run found, apart from single captions."""

    record: RunRecord
    best: MetricRow | None
    """The highest CIDEr over beam sizes (BLEU-4 where there is no CIDEr)."""
    leads: Mapping[int, Interval]
    """Beam size -> by how much the best one's score is ahead, picture by picture."""
    words: tuple[WordFound, ...]
    """How single words fare at the best beam size, the worst first."""
    true_words: Interval | None
    """Share of words that are true of their picture, at the best beam size, where the data set knows."""
    ranking: Mapping[str, float]
    """Image id -> score at the best beam size, worst first."""
    methods: tuple[MethodInfo, ...] = ()
    struck: Mapping[str, str] = _NONE
    """Methods that are neither ranked nor compared, with the reason: they failed a gate or the sanity check."""
    localisation: Table = _NONE
    """Of methods."""
    attention_by_class: Table = _NONE
    """Localisation of attention, of word classes."""
    agreement: Table = _NONE
    """Of methods."""
    faithfulness: Table = _NONE
    """Of methods; null is the random control, ceiling the true place on the grid, which is no limit here."""
    extras: Table = _NONE
    """Of methods."""
    classes: Mapping[str, Table] = _NONE
    """Measure -> method -> word class."""
    completeness: Mapping[str, Completeness] = _NONE
    paths: Table = _NONE
    """Of word classes, `ALL` and `CONTENT` first."""
    lags: Mapping[str, Mapping[int, Mapping[str, Estimate]]] = _NONE
    """`ALL` or word class -> steps after the word's own -> attention's mass and pointing there."""
    trial: Table = _NONE
    """Of word classes, `ALL` and `CONTENT` first."""
    sanity: Sanity | None = None
    interventions: Mapping[str, Intervention] = _NONE
    comparisons: tuple[Comparison, ...] = ()
    audit: tuple[Audit, ...] = ()


class Material(NamedTuple):
    """What a run's tables are made of, read once."""

    record: RunRecord
    best: MetricRow | None
    overview: Overview
    scores: pd.DataFrame | None
    """Of scores.parquet the columns that are shown."""
    attributions: pd.DataFrame | None
    """Of the beam size that was explained."""


def read_material(store: RunStore) -> Material:
    """Reads a run for its tables; raises `RunError` if it can't be read."""
    record = store.read_run()
    best = _best(record.metrics)
    shown = {*CAPTION_METRICS, *(statistics_of(best.name) if best else ())}
    scores = store.read_scores(wanted=lambda name: name in shown or name.startswith(("said_", "true_")))
    overview = Overview(store.iter_captions(), judged=best.beam_size if best else None)
    rows, explained = None, record.explanations
    if explained is not None and (rows := store.read_attributions()) is not None:
        rows = rows[rows["beam_size"] == explained.beam_size]
    return Material(record, best, overview, scores, rows)


def summarise(store: RunStore, material: Material | None = None) -> Summary:
    """Computes every table of a run; raises `RunError` if the run can't be read.

    Args:
        store: the run directory.
        material: of this run, if it has been read.

    Returns:
        The summary; tables are empty where the run holds nothing for them.
    """
    record, best, overview, scores, rows = material or read_material(store)
    at_best = scores[scores["beam_size"] == best.beam_size] if scores is not None and best else None
    summary = Summary(
        record=record,
        best=best,
        leads=_leads(scores, best) if scores is not None and best else {},
        true_words=_true_words(at_best) if at_best is not None else None,
        ranking=_ranking(at_best, best.name) if at_best is not None and best else {},
        words=(),
    )
    if record.explanations is None or rows is None:
        return summary._replace(words=tuple(failing_words(overview.words)))
    explained, checked, tampered = record.explanations, store.read_sanity(), store.read_interventions()
    rows = with_marks(rows)
    summary = _with_tables(summary, rows, explained.methods)
    sane = sanity(checked, explained.methods) if checked is not None else None
    struck = _struck(explained, summary.completeness, sane)
    judged = best and best.beam_size == explained.beam_size and LAGS[0] not in struck
    return summary._replace(
        words=tuple(failing_words(overview.words, rows if judged else None)),
        struck=struck,
        sanity=sane,
        interventions=interventions(tampered) if tampered is not None else {},
        comparisons=comparisons(rows, explained.methods, struck),
        audit=_audit(rows, explained.methods, struck),
    )


def _audit(rows: pd.DataFrame, methods: Sequence[MethodInfo], struck: Mapping[str, str]) -> tuple[Audit, ...]:
    """The audit of the words that have a place: of others no answer is known that maps could be held against."""
    keys = ["image_id", "word_index"]
    placed = pd.MultiIndex.from_frame(rows.loc[rows["method"] == ORACLE, keys])
    rows = rows[pd.MultiIndex.from_frame(rows[keys]).isin(placed)]
    groups = [(str(name), ours) for name, ours in rows.groupby("method", sort=False)]
    return audit(table(groups, LOCALISATION), table(groups, OPERATED), rows, methods, struck)


def _with_tables(summary: Summary, rows: pd.DataFrame, methods: Sequence[MethodInfo]) -> Summary:
    """Fills in the tables of means over words."""
    groups = {str(name): ours for name, ours in rows.groupby("method", sort=False)}
    of = {m.name: groups[m.name] for m in methods if m.name in groups}
    shown = {name: ours for name, ours in of.items() if name not in LAGS.values() or name == LAGS[0]}
    others = {name: ours for name, ours in shown.items() if name != LAGS[0]}
    attention = of.get(LAGS[0], rows[:0])
    classes = dict(_by_class(attention))
    content = attention[attention["word_class"] != FUNCTION]
    strata = {ALL: attention, CONTENT: content} | classes
    return summary._replace(
        methods=tuple(methods),
        localisation=table(shown.items(), LOCALISATION, askable(rows, LOCALISATION)),
        attention_by_class={
            name: row
            for name, ours in classes.items()
            if (row := estimates(ours, LOCALISATION, askable(rows[rows["word_class"] == name], LOCALISATION)))
        },
        agreement=table(others.items(), AGREEMENT, askable(rows, AGREEMENT)),
        faithfulness=table(shown.items(), OPERATED, askable(rows, OPERATED)),
        extras=table(shown.items(), EXTRAS, askable(rows, EXTRAS)),
        classes=_class_tables(rows, shown),
        completeness=_completenesses(methods, of),
        paths=table(strata.items(), PATHS),
        lags=_lags(of, [ALL, *classes]),
        trial=table(strata.items(), (*TRIAL_DROPS, *TRIAL_DISTANCES, GATE)),
    )


def _class_tables(rows: pd.DataFrame, shown: Collection[str]) -> dict[str, Table]:
    """Of each measure of `BY_CLASS`: method -> word class -> estimate."""
    tables: dict[str, dict[str, dict[str, Estimate]]] = {}
    for name, every in _by_class(rows):
        asked = askable(every, BY_CLASS)
        for method, ours in every.groupby("method", sort=False):
            if method in shown:
                for measure, found in estimates(ours, BY_CLASS, asked).items():
                    tables.setdefault(measure, {}).setdefault(str(method), {})[name] = found
    return {measure: tables[measure] for measure in BY_CLASS if measure in tables}


def _lags(
    of: Mapping[str, pd.DataFrame], classes: Sequence[str]
) -> dict[str, dict[int, dict[str, Estimate]]]:
    """Attention's mass and pointing some steps before and after each word; empty if only its own step was measured."""
    known = {lag: of[name] for lag, name in LAGS.items() if name in of}
    if len(known) < 2:
        return {}
    measures = ("mass", "pointing")
    profiles = {}
    for name in classes:
        words = {
            lag: rows if name == ALL else rows[rows["word_class"] == name] for lag, rows in known.items()
        }
        asked = askable(words[0], measures) if 0 in words else None
        profile = {lag: row for lag, rows in words.items() if (row := estimates(rows, measures, asked))}
        if profile:
            profiles[name] = profile
    return profiles


def struck_methods(
    explained: ExplanationInfo, rows: pd.DataFrame, checked: pd.DataFrame | None
) -> dict[str, str]:
    """Methods that may be neither ranked nor compared.

    Args:
        explained: of run.json.
        rows: of attributions.parquet, of the beam size that was explained.
        checked: sanity.parquet; None if nothing was checked.

    Returns:
        By method the reasons, in half a sentence.
    """
    groups = {str(name): ours for name, ours in rows.groupby("method", sort=False)}
    sane = sanity(checked, explained.methods) if checked is not None else None
    return _struck(explained, _completenesses(explained.methods, groups), sane)


def _completenesses(
    methods: Sequence[MethodInfo], groups: Mapping[str, pd.DataFrame]
) -> dict[str, Completeness]:
    found = ((m.name, _completeness(groups[m.name])) for m in methods if m.complete and m.name in groups)
    return {name: completeness for name, completeness in found if completeness}


def _struck(
    explained: ExplanationInfo, completeness: Mapping[str, Completeness], sane: Sanity | None
) -> dict[str, str]:
    """Methods that are out, in the order of all methods, with the reasons in half a sentence."""
    gates = failed_gates(explained.gates)
    missing = {row.method for row in explained.gates if row.gate == "completeness" and row.passed is False}
    struck = {}
    for method in explained.methods:
        name = method.name
        reasons = [gates[name]] if name in gates else []
        if name in completeness and name not in missing and not completeness[name].holds:
            missed = 100 * completeness[name].median
            reasons.append(f"its sum misses the score difference it should add up to by {missed:.0f} %")
        if sane and name in sane.vetoed:
            reasons.append(sane.vetoed[name])
        if reasons:
            struck[name] = "; ".join(reasons)
    return struck


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
