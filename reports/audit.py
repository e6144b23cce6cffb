"""Which measures to believe on this data: do they rank the true place first and noise last?

Only data sets that know the places of words can say. The true place is the mask pooled to the grid, on which every
other map lies too: a measure is asked about maps, not about resolution.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from reports.estimates import OPERATED, Estimate, Table
from reports.explanations import ANSWERS, ranked
from reports.legend import measure_of
from reports.records import FAITHFULNESS, LOCALISATION, MethodInfo
from reports.stats import Interval, share_interval

ORACLE = "oracle_grid"
NOISE = ("random", "uniform")
"""Maps that know nothing, not even where a picture's middle is."""
NOT_BOUND = FAITHFULNESS
"""Measures in which the true place need not come first."""
BLURRED = ("mass", "lift", "inside_outside")
"""Measures in which the true place pays for the cells on its rim."""


class Audit(NamedTuple):
    """How one measure ranks maps whose order is known."""

    measure: str
    oracle_rank: int
    """Of the true place among all maps, 1 is best."""
    noise_rank: int
    """Of the better of `NOISE`."""
    maps: int
    """How many are ranked."""
    separation: Interval | None
    """Share of the images in which the true place beats the random map."""
    judgement: Literal["believe", "beware", "don’t"]
    note: str
    """Which map comes before which it should not; what to know of the measure."""


def audit(
    localisation: Table,
    faithfulness: Table,
    rows: pd.DataFrame,
    methods: Sequence[MethodInfo],
    struck: Mapping[str, str],
) -> tuple[Audit, ...]:
    """Judges every measure that has a value for the true place and for noise.

    Ranked are the true place, every explanation that is not struck out, and the controls; other answers, such as the
    inverse, are not. A map comes before another if its mean is better and lies outside of the other's 95 % interval:
    within it they tie. The judgement is *believe* if nothing comes before the true place and noise before no
    explanation; *beware* if nothing comes before the true place, but noise before an explanation (which may be the
    explanation's fault); *don't* if anything comes before the true place.

    Args:
        localisation: of methods.
        faithfulness: of methods.
        rows: of attributions.parquet.
        methods: all.
        struck: methods that are left out.

    Returns:
        One row per measure, in the order of the tables; empty where the true places are not known.
    """
    explanations = [m.name for m in ranked(methods, struck)]
    controls = [
        m.name for m in methods if m.kind == "control" and m.name not in ANSWERS and m.name not in struck
    ]
    labels = {m.name: m.label for m in methods}
    tables = dict.fromkeys(LOCALISATION, localisation) | dict.fromkeys(OPERATED, faithfulness)
    means = {
        measure: {
            name: table[name][measure]
            for name in (ORACLE, *explanations, *controls)
            if measure in table.get(name, {})
        }
        for measure, table in tables.items()
    }
    judged = [m for m, of in means.items() if ORACLE in of and any(name in of for name in NOISE)]
    leads = _leads(rows, judged)
    return tuple(
        _judge(m, means[m], explanations, labels)._replace(
            separation=_separation(leads[m], 1 if measure_of(m).higher_is_better else -1)
        )
        for m in judged
    )


def _judge(
    measure: str, means: Mapping[str, Estimate], explanations: Sequence[str], labels: Mapping[str, str]
) -> Audit:
    sign = 1 if measure_of(measure).higher_is_better else -1
    noise = max((name for name in NOISE if name in means), key=lambda name: sign * means[name].interval.value)
    before = [name for name in means if _comes_before(means[name], means[ORACLE], sign)]
    behind = [
        name for name in explanations if name in means and _comes_before(means[noise], means[name], sign)
    ]
    notes = []
    if before:
        notes.append(f"{_names(before, labels)} before the true place")
    if behind:
        notes.append(f"{labels[noise]} before {_names(behind, labels)}")
    if measure.startswith(NOT_BOUND):
        notes.append(
            "need not put the true place first: a model may need less of a thing than all of it, or more"
        )
    elif before and measure in BLURRED:
        notes.append("a map on the middle of a thing blurs less over its rim than the true place does")
    return Audit(
        measure,
        1 + len(before),
        1 + sum(_comes_before(other, means[noise], sign) for other in means.values()),
        len(means),
        None,
        "don’t" if before else "beware" if behind else "believe",
        "; ".join(notes),
    )


def _comes_before(one: Estimate, other: Estimate, sign: int) -> bool:
    low, high = other.interval.low, other.interval.high
    end = other.interval.value if low is None or high is None else high if sign > 0 else low
    return sign * one.interval.value > sign * end


def _names(names: Sequence[str], labels: Mapping[str, str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(labels[name] for name in names[:most]) + more


def _leads(rows: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """By image, how far the true place's value lies above the random map's, over words that have both."""
    keys = ["image_id", "word_index"]
    oracle, random = (
        rows.loc[rows["method"] == name].drop_duplicates(keys).set_index(keys)[list(measures)]
        for name in (ORACLE, NOISE[0])
    )
    return (oracle - random).groupby(level="image_id").mean()


def _separation(leads: pd.Series, sign: int) -> Interval | None:
    known = leads.dropna().to_numpy(np.float64)
    return share_interval(int((sign * known > 0).sum()), known.size) if known.size else None
