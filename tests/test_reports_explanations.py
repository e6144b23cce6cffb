"""Methods against one another: gates, sanity checks, paired comparisons, tampered captions."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon

from reports.explanations import (
    FAMILIES,
    UNTOUCHED,
    VETO_ABOVE,
    comparisons,
    failed_gates,
    interventions,
    ranked,
    sanity,
)
from reports.records import GateRow, MethodInfo
from reports.stats import holm, rank_biserial, ratio_interval


def method(name: str, kind: str = "grid") -> MethodInfo:
    return MethodInfo(name, name.title(), kind, signed=False, complete=False, source="")


METHODS = (
    method("attention", "attention"),
    method("attention_plus_1", "attention"),
    method("path_now"),
    method("grid_a"),
    method("pixel_b", "pixels"),
    method("centre", "control"),
    method("random", "control"),
    method("edges", "control"),
)


def words(seed: int = 0, images: int = 12) -> pd.DataFrame:
    """One to four words an image, with holes."""
    rng = np.random.default_rng(seed)
    rows = [
        {"image_id": f"i{i}", "word_index": t, "method": m.name, "word_class": "colour"}
        | {"auc": rng.random(), "abpc_cells": rng.normal(0.1 * n, 1)}
        for i in range(images)
        for t in range(rng.integers(1, 5))
        for n, m in enumerate(METHODS)
    ]
    frame = pd.DataFrame(rows)
    for measure in ("auc", "abpc_cells"):
        frame.loc[rng.random(len(frame)) < 0.2, measure] = np.nan
    return frame


def literal_differences(frame: pd.DataFrame, name: str, measure: str) -> tuple[dict[str, float], int]:
    """By image, the mean over words that both have; and how many words these are."""
    found: dict[str, list[float]] = {}
    for _, row in frame[frame["method"] == name].iterrows():
        same = frame[
            (frame["method"] == "attention")
            & (frame["image_id"] == row["image_id"])
            & (frame["word_index"] == row["word_index"])
        ]
        difference = row[measure] - same[measure].item()
        if not np.isnan(difference):
            found.setdefault(row["image_id"], []).append(difference)
    return {i: sum(d) / len(d) for i, d in found.items()}, sum(map(len, found.values()))


def test_a_comparison_is_the_mean_over_images_of_means_over_words_that_both_have() -> None:
    frame = words()
    found = {(c.measure, c.method): c for c in comparisons(frame, METHODS, {})}
    compared = ("grid_a", "pixel_b", "centre", "random")
    assert set(found) == set(itertools.product(("auc", "abpc_cells"), compared))
    for (measure, name), pair in found.items():
        per_image, count = literal_differences(frame, name, measure)
        values = np.array(list(per_image.values()))
        assert pair.test.difference == pytest.approx(values.mean())
        assert (pair.test.n, pair.words) == (len(values), count)
        expected = ratio_interval(values, np.ones(len(values)))
        assert expected is not None
        assert pair.test.low == pytest.approx(expected.low, abs=0.1)  # clipped where the values end
        assert pair.effect == pytest.approx(literal_effect(values.tolist()))


def literal_effect(differences: list[float]) -> float:
    """Ranks of sizes by counting; ties share their mean rank."""
    kept = [d for d in differences if d]
    ranks = [sum(abs(o) < abs(d) for o in kept) + (sum(abs(o) == abs(d) for o in kept) + 1) / 2 for d in kept]
    up = sum(r for r, d in zip(ranks, kept, strict=True) if d > 0)
    return (up - (sum(ranks) - up)) / sum(ranks)


def test_the_p_value_is_that_of_all_sign_flips_and_is_adjusted_within_the_family() -> None:
    frame = words(images=8)
    found = [c for c in comparisons(frame, METHODS, {}) if c.family == "faithfulness"]
    for pair in found:
        values = np.array(list(literal_differences(frame, pair.method, pair.measure)[0].values()))
        means = [np.mean(values * signs) for signs in itertools.product((-1, 1), repeat=len(values))]
        exact = np.mean(np.abs(means) >= abs(values.mean()) - 1e-12)
        assert pair.test.p_differs == pytest.approx(exact, abs=0.02)
    adjusted = holm({(c.measure, c.method): c.test.p_differs for c in found})
    assert {(c.measure, c.method): c.adjusted_p for c in found} == adjusted


def test_a_method_that_is_struck_out_is_neither_ranked_nor_compared() -> None:
    struck = {"grid_a": "it is wrong"}
    assert [m.name for m in ranked(METHODS, struck)] == ["attention", "pixel_b"]
    assert {c.method for c in comparisons(words(), METHODS, struck)} == {"pixel_b", "centre", "random"}
    assert comparisons(words(), METHODS, {"attention": "it is wrong"}) == ()


def test_a_method_that_equals_attention_shows_no_difference_and_no_effect() -> None:
    frame = words()
    mine = frame["method"] == "grid_a"
    frame.loc[mine, ["auc", "abpc_cells"]] = frame.loc[
        frame["method"] == "attention", ["auc", "abpc_cells"]
    ].to_numpy()
    for pair in (c for c in comparisons(frame, METHODS, {}) if c.method == "grid_a"):
        assert (pair.test.difference, pair.effect, pair.adjusted_p) == (0, None, 1)


def test_every_measure_of_a_family_is_compared_once() -> None:
    measures = [measure for family in FAMILIES.values() for measure in family]
    assert len(measures) == len(set(measures))


@pytest.mark.parametrize("seed", range(5))
def test_the_effect_size_is_what_wilcoxon_s_rank_sums_say(seed: int) -> None:
    values = np.random.default_rng(seed).normal(0.3, 1, 20).round(1)
    found = rank_biserial(values)
    kept = values[values != 0]
    smaller = wilcoxon(kept).statistic
    assert found is not None
    assert abs(found) == pytest.approx(1 - 2 * smaller / (len(kept) * (len(kept) + 1) / 2))
    assert found == pytest.approx(literal_effect(values.tolist()))


def test_effect_sizes_at_their_ends() -> None:
    assert rank_biserial(np.array([0.0, 0.1, 5.0])) == 1
    assert rank_biserial(np.array([-0.1, -5.0])) == -1
    assert rank_biserial(np.array([-1.0, 1.0])) == 0
    assert rank_biserial(np.zeros(3)) is None


def gate(name: str, passed: bool | None, reason: str | None = None) -> GateRow:
    return GateRow(name, "row independence", passed, 0.1, 0.01, 4, reason)


def test_only_a_gate_that_failed_strikes_out() -> None:
    gates = (
        gate("a", True),
        gate("b", None, "no"),
        gate("c", False, "first"),
        gate("c", False),
        gate("d", False),
    )
    plain = "it fails the gate of row independence"
    assert failed_gates(gates) == {"c": f"first; {plain}", "d": plain}


def checked(left: float, method: str = "grid_a", reason: str | None = None) -> list[dict[str, object]]:
    """Two images and two stages; `left` is the similarity at the end."""
    return [
        {"image_id": i, "test": "cascade", "method": method, "stage": stage, "order": order, "cosine": 0.9}
        | {"spearman": value, "entropy_rise": np.nan, "words": n, "reason": reason}
        for i, n in (("x", 1), ("y", 3))
        for stage, order, value in (("encoder", 1, left), ("output", 0, 0.8))
    ]


def test_similarity_is_a_mean_over_words_in_the_order_of_the_stages() -> None:
    rows = checked(0.2)
    rows[0]["spearman"] = 0.6
    found = sanity(pd.DataFrame(rows), METHODS)
    assert found.stages == {"cascade": ("output", "encoder")}
    last = found.found["cascade"]["grid_a"]["encoder"]
    assert last.spearman is not None
    assert last.spearman.value == pytest.approx((1 * 0.6 + 3 * 0.2) / 4)
    assert (last.spearman.n, last.words, last.reason, last.entropy_rise) == (2, 4, None, None)


@pytest.mark.parametrize(("left", "fails"), [(VETO_ABOVE + 0.01, True), (VETO_ABOVE, False), (0.0, False)])
def test_a_method_whose_maps_stay_alike_is_vetoed(left: float, fails: bool) -> None:
    assert ("grid_a" in sanity(pd.DataFrame(checked(left)), METHODS).vetoed) == fails


def test_what_does_not_apply_by_construction_is_no_failure() -> None:
    reason = "attention does not depend on the output layer"
    rows = checked(np.nan, "attention", reason)
    for row in rows:
        row |= {"cosine": np.nan, "spearman": np.nan, "words": 0}
    found = sanity(pd.DataFrame(rows), METHODS)
    assert found.vetoed == {}
    assert found.found["cascade"]["attention"]["output"].reason == reason
    assert found.found["cascade"]["attention"]["output"].spearman is None


def test_a_method_that_no_list_names_is_passed_over() -> None:
    assert sanity(pd.DataFrame(checked(0.9, "stranger")), METHODS).found == {"cascade": {}}


def test_changes_are_taken_on_the_images_that_have_both_captions() -> None:
    rows = [
        ("a", "none", "red", 4.0, 1.0), ("b", "none", "blue", 6.0, np.nan), ("c", "none", "green", 9.0, 0.5),
        ("a", "uniform", "red", 1.0, 0.5), ("b", "uniform", "a", 2.0, 0.0), ("d", "uniform", "x", 0.0, 0.0),
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["image_id", "intervention", "caption", "cider", "words_true"])
    found = interventions(frame.sample(frac=1, random_state=0))
    assert list(found) == [UNTOUCHED, "uniform"]
    assert found[UNTOUCHED].cider_change is None
    shut = found["uniform"]
    assert shut.cider is not None
    assert shut.cider.value == pytest.approx(1)
    assert shut.cider_change == ratio_interval(np.array([-3.0, -4.0]), np.ones(2))
    assert shut.words_true_change is not None
    assert (shut.words_true_change.value, shut.words_true_change.n) == (-0.5, 1)
    assert shut.changed is not None
    assert (shut.changed.value, shut.changed.n) == (0.5, 2)


def test_without_untouched_captions_there_is_no_change() -> None:
    rows = [("a", "uniform", "red", 1.0, 0.5)]
    frame = pd.DataFrame(rows, columns=["image_id", "intervention", "caption", "cider", "words_true"])
    assert interventions(frame)["uniform"].cider_change is None
    assert interventions(frame)["uniform"].changed is None
