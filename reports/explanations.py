"""Explanation methods against one another: gates, sanity checks, paired comparisons. And tampered-with attention.

The unit is the image: a method's value for an image is the mean over its words.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, get_args, get_type_hints

import numpy as np
import pandas as pd

from reports.estimates import over_images
from reports.records import GateRow, MethodInfo
from reports.stats import (
    Interval,
    PairedTest,
    holm,
    paired_tests,
    rank_biserial,
    ratio_interval,
    share_interval,
)

LAGS = {
    -2: "attention_minus_2", -1: "attention_minus_1", 0: "attention", 1: "attention_plus_1", 2: "attention_plus_2",
}  # fmt: skip
"""Attention so many steps after the word's own, by the method's name."""
PATH_MAPS = ("path_now", "path_past", "path_init")
"""Maps of the three parts of the gradient; parts of a method, not methods to choose from."""
ANSWERS = (
    "oracle", "oracle_grid", "inverse", "inverse_grid", "other_object", "other_object_grid", "distractors",
    "distractors_grid",
)  # fmt: skip
"""Maps made from the true places."""
GATES: tuple[str, ...] = get_args(get_type_hints(GateRow)["gate"])
"""Every gate, in the order in which they are shown."""
FAMILIES: Mapping[str, tuple[str, ...]] = {
    "localisation": ("auc", "mass", "pointing"),
    "faithfulness": (
        "abpc_cells", "deletion_cells", "insertion_cells", "abpc_blur", "abpc_grey", "abpc_road",
    ),
}  # fmt: skip
"""Measures that are compared; p-values are adjusted for all tests of a family."""
COMPARED_CONTROLS = ("centre", "random")
"""Controls that are compared with attention, beside all methods."""
VETO_ABOVE = 0.5
"""A method fails the sanity check if its maps of the trained model and of a model whose weights have all been
randomised, top down, stay alike: if the 95 % interval of their mean Spearman correlation lies above this. The
correlation of ranks is 0 by chance whatever the shape of the maps, which the cosine is not."""
UNTOUCHED = "none"
"""The intervention that changes nothing."""


class Comparison(NamedTuple):
    """How a method differs from attention in one measure, over the words that both have."""

    family: str
    measure: str
    method: str
    test: PairedTest
    """The method less attention."""
    adjusted_p: float
    """Two-sided, after Holm within the family."""
    effect: float | None
    """Matched-pairs rank-biserial correlation; None if no image differs."""
    words: int


class Similarity(NamedTuple):
    """What randomising weights, or asking for another word, does to a method's maps; means over words."""

    cosine: Interval | None
    spearman: Interval | None
    entropy_rise: Interval | None
    words: int
    reason: str | None
    """Why there is no value; None if there is one."""


class Sanity(NamedTuple):
    """The sanity checks of a run."""

    stages: Mapping[str, tuple[str, ...]]
    """Test -> its stages in order."""
    found: Mapping[str, Mapping[str, Mapping[str, Similarity]]]
    """Test -> method -> stage."""
    vetoed: Mapping[str, str]
    """Methods that fail, with the reason."""


class Intervention(NamedTuple):
    """Captions that were decoded with attention tampered with at every step."""

    cider: Interval | None
    cider_change: Interval | None
    """Against the untouched captions of the same images; None for these."""
    words_true: Interval | None
    """Share of the checkable words that are true of their picture."""
    words_true_change: Interval | None
    changed: Interval | None
    """Share of captions that are no longer the same."""


def ranked(methods: Sequence[MethodInfo], struck: Mapping[str, str]) -> list[MethodInfo]:
    """Attention and the other explanations that may be ranked: no control, no part of a method, none struck out."""
    parts = (*(name for lag, name in LAGS.items() if lag), *PATH_MAPS)
    return [m for m in methods if m.kind != "control" and m.name not in parts and m.name not in struck]


def failed_gates(gates: Sequence[GateRow]) -> dict[str, str]:
    """Methods that failed a gate, each with the reasons in half a sentence."""
    failed: dict[str, list[str]] = {}
    for row in gates:
        if row.passed is False:
            failed.setdefault(row.method, []).append(row.reason or f"it fails the gate of {row.gate}")
    return {method: "; ".join(reasons) for method, reasons in failed.items()}


def comparisons(
    rows: pd.DataFrame, methods: Sequence[MethodInfo], struck: Mapping[str, str]
) -> tuple[Comparison, ...]:
    """Compares each explanation, and two controls, with attention on the same words of the same images.

    Intervals are of the paired bootstrap over images, p-values of the sign-flip permutation, as for two runs.

    Args:
        rows: of attributions.parquet.
        methods: all.
        struck: methods that are left out; if attention is one, nothing is compared.

    Returns:
        By family, measure and method; measures that no pair has are left out.
    """
    if "attention" in struck:
        return ()
    names = [m.name for m in ranked(methods, struck) if m.name != "attention"]
    names += [m.name for m in methods if m.name in COMPARED_CONTROLS and m.name not in struck]
    keys = ["image_id", "word_index", "method"]
    rows = rows[rows["method"].isin([*names, "attention"])].drop_duplicates(keys).set_index(keys)
    compared: list[Comparison] = []
    for family, measures in FAMILIES.items():
        columns = [measure for measure in measures if measure in rows]
        values = pd.DataFrame(rows[columns].unstack("method"))
        pairs = [pair for name in names for pair in _compare(values, family, name)]
        adjusted = holm({(pair.measure, pair.method): pair.test.p_differs for pair in pairs})
        pairs = [pair._replace(adjusted_p=adjusted[pair.measure, pair.method]) for pair in pairs]
        compared += sorted(pairs, key=lambda pair: measures.index(pair.measure))
    return tuple(compared)


def _compare(values: pd.DataFrame, family: str, name: str) -> Iterator[Comparison]:
    """Args: `values` has a row per word and the columns (measure, method)."""
    if not {"attention", name} <= set(values.columns.get_level_values("method")):
        return
    first, second = (
        pd.DataFrame(values.xs(method, axis=1, level="method")) for method in ("attention", name)
    )
    both = first.notna() & second.notna()
    # Capitals: `paired_tests` takes columns in lower case for sums that scores are made of.
    means = [
        words.where(both).groupby(level="image_id").mean().rename(columns=str.upper)
        for words in (first, second)
    ]
    for metric, test in paired_tests(*means).items():
        differences = (means[1][metric] - means[0][metric]).dropna().to_numpy(np.float64)
        words = int(both[metric.lower()].sum())
        yield Comparison(family, metric.lower(), name, test, np.nan, rank_biserial(differences), words)


def sanity(frame: pd.DataFrame, methods: Sequence[MethodInfo]) -> Sanity:
    """Means over words with intervals over images, by test, method and stage.

    Args:
        frame: of sanity.parquet.
        methods: in the order in which they are shown; others are left out.

    Returns:
        The checks, and which methods fail them.
    """
    stages: dict[str, tuple[str, ...]] = {}
    found: dict[str, dict[str, dict[str, Similarity]]] = {}
    vetoed: dict[str, str] = {}
    for test, rows in ((str(test), rows) for test, rows in frame.groupby("test", sort=False)):
        of = {str(name): ours for name, ours in rows.groupby("method", sort=False)}
        ordered = rows.sort_values("order", kind="stable")
        stages[test] = tuple(ordered["stage"].drop_duplicates())
        found[test] = {
            m.name: {str(stage): _similarity(ours) for stage, ours in of[m.name].groupby("stage", sort=False)}
            for m in methods
            if m.name in of
        }
    if stages.get("cascade"):
        last = stages["cascade"][-1]
        for name, by_stage in found["cascade"].items():
            left = by_stage[last].spearman if last in by_stage else None
            if left and left.low is not None and left.low > VETO_ABOVE:
                vetoed[name] = (
                    f"its maps stay alike when every weight is random (Spearman {left.value:.2f}, at most {VETO_ABOVE})"
                )
    return Sanity(stages, found, vetoed)


def _similarity(rows: pd.DataFrame) -> Similarity:
    columns = ["cosine", "spearman", "entropy_rise"]
    words = rows["words"].to_numpy(np.float64)
    cosine, spearman, rise = over_images(rows, columns, words)
    if cosine or spearman or rise:
        measured = rows[columns].notna().any(axis=1).to_numpy()
        return Similarity(cosine, spearman, rise, int(np.nansum(words[measured])), None)
    reasons = (reason for reason in rows.get("reason", ()) if isinstance(reason, str) and reason)
    return Similarity(None, None, None, 0, next(reasons, "it was not measured"))


def interventions(frame: pd.DataFrame) -> dict[str, Intervention]:
    """What tampering with attention does to captions; the untouched ones first.

    Args:
        frame: of interventions.parquet.

    Returns:
        By intervention; changes are None where no image has both captions.
    """
    frame = frame.assign(caption=frame.get("caption", "")).drop_duplicates(["image_id", "intervention"])
    of = {
        str(name): rows.set_index("image_id").sort_index()
        for name, rows in frame.groupby("intervention", sort=False)
    }
    base = of.get(UNTOUCHED)
    found = {}
    for name in sorted(of, key=lambda name: name != UNTOUCHED):
        rows, before = of[name], None if name == UNTOUCHED else base
        both = rows.index if before is None else rows.index.intersection(before.index)
        changed = None if before is None else (rows["caption"][both] != before["caption"][both])
        found[name] = Intervention(
            _mean(rows["cider"]),
            None if before is None else _mean(rows["cider"] - before["cider"]),
            _mean(rows["words_true"]),
            None if before is None else _mean(rows["words_true"] - before["words_true"]),
            None if changed is None or changed.empty else share_interval(int(changed.sum()), len(changed)),
        )
    return found


def _mean(values: pd.Series) -> Interval | None:
    known = values.dropna().to_numpy(np.float64)
    return ratio_interval(known, np.ones(known.size))
