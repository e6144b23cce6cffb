"""Which measures to believe: maps whose order is known."""

import numpy as np
import pandas as pd
import pytest

from reports.audit import Audit, audit
from reports.estimates import Estimate
from reports.explanations import ANSWERS
from reports.records import MethodInfo
from reports.stats import Interval, share_interval

MEANS = {
    "attention": 0.7, "attention_plus_1": 2.0, "path_now": 2.0, "grid_a": 0.6, "pixel_b": 0.5, "centre": 0.65,
    "uniform": 0.1, "random": 0.2, "oracle": 2.0, "oracle_grid": 0.9, "inverse_grid": 0.0,
}  # fmt: skip


def kind(name: str) -> str:
    controls = ("centre", "uniform", "random", *ANSWERS)
    return "attention" if name.startswith("attention") else "control" if name in controls else "grid"


METHODS = tuple(MethodInfo(name, name, kind(name), signed=False, complete=False, source="") for name in MEANS)


def estimate(value: float, half: float = 0.05) -> Estimate:
    return Estimate(Interval(value, value - half, value + half, 9), None, None)


def rows(measure: str) -> pd.DataFrame:
    return pd.DataFrame(
        {"image_id": f"i{i}", "word_index": t, "method": name, measure: value}
        for i in range(4)
        for t in range(2)
        for name, value in MEANS.items()
    )


def judge(measure: str = "auc", struck: dict[str, str] | None = None, **means: float) -> Audit:
    table = {name: {measure: estimate(value)} for name, value in (MEANS | means).items()}
    of = (table, {}) if measure == "auc" else ({}, table)
    (found,) = audit(*of, rows(measure), METHODS, struck or {})
    return found


def test_a_measure_that_puts_the_true_place_first_and_noise_last_is_believed() -> None:
    found = judge()
    assert (found.judgement, found.oracle_rank, found.noise_rank, found.maps, found.note) == (
        "believe", 1, 6, 7, "",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("means", "judgement", "note"),
    [
        ({"attention": 0.949}, "believe", ""),
        ({"attention": 0.951}, "don’t", "attention before the true place"),
        ({"centre": 0.951}, "don’t", "centre before the true place"),
        ({"random": 0.549}, "believe", ""),
        ({"random": 0.551}, "beware", "random before pixel_b"),
        ({"uniform": 0.551}, "beware", "uniform before pixel_b"),
        ({"centre": 0.01}, "believe", ""),
        ({"oracle": -9.0, "inverse_grid": 9.0, "path_now": 9.0, "attention_plus_1": 9.0}, "believe", ""),
        (
            {"attention": 0.99, "random": 0.7},
            "don’t",
            "attention before the true place; random before grid_a, pixel_b",
        ),
    ],
)
def test_judgements_turn_where_a_mean_leaves_the_other_s_interval(
    means: dict[str, float], judgement: str, note: str
) -> None:
    found = judge(**means)
    assert (found.judgement, found.note) == (judgement, note)
    assert (found.oracle_rank == 1) == (judgement != "don’t")


def test_where_lower_is_better_the_order_is_turned_around() -> None:
    turned = {name: 1 - value for name, value in MEANS.items()}
    found = judge("deletion_cells", **turned)
    assert (found.judgement, found.oracle_rank, found.noise_rank) == ("believe", 1, 6)
    assert judge("deletion_cells").judgement == "don’t"


def test_measures_of_faithfulness_say_that_the_true_place_need_not_be_first() -> None:
    for measure in ("deletion_cells", "insertion_blur"):
        assert "need not put the true place first" in judge(measure).note
    assert "need not" not in judge("auc").note


def test_a_method_that_is_struck_out_breaks_no_rank() -> None:
    assert judge(attention=5.0, struck={"attention": "it is wrong"}).judgement == "believe"


def test_separation_is_the_share_of_images_in_which_the_true_place_beats_noise() -> None:
    frame = rows("auc")
    worse = (frame["method"] == "oracle_grid") & (frame["image_id"] == "i0")
    frame.loc[worse, "auc"] = -1.0
    level = (frame["method"] == "oracle_grid") & (frame["image_id"] == "i1")
    frame.loc[level, "auc"] = MEANS["random"]
    frame.loc[(frame["image_id"] == "i2") & (frame["word_index"] == 0), "auc"] = np.nan
    table = {name: {"auc": estimate(value)} for name, value in MEANS.items()}
    (found,) = audit(table, {}, frame, METHODS, {})
    assert found.separation == share_interval(2, 4)


def test_data_without_answers_has_no_audit() -> None:
    table = {name: {"auc": estimate(v)} for name, v in MEANS.items() if not name.startswith("oracle")}
    assert audit(table, {}, rows("auc"), METHODS, {}) == ()
    assert audit({}, {}, rows("auc"), METHODS, {}) == ()
