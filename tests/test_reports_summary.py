"""The tables of a run."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reports.estimates import askable, estimates
from reports.explanations import LAGS
from reports.records import (
    AGREEMENT,
    GATE,
    LOCALISATION,
    NULLS,
    PATHS,
    TRIAL_DISTANCES,
    TRIAL_DROPS,
    GateRow,
    MetricRow,
)
from reports.stats import ratio_interval
from reports.store import RunStore
from reports.summary import ALL, BY_CLASS, CONTENT, Summary, estimate, summarise


def words(values: dict[str, list[float]], **more: float) -> pd.DataFrame:
    """Rows of a measure: image -> value of each of its words."""
    rows = [
        {"image_id": i, "mass": v, "mass_null": 0.1, "mass_ceiling": 0.8}
        for i, vs in values.items()
        for v in vs
    ]
    return pd.DataFrame(rows)


def test_an_estimate_is_the_mean_over_words_and_resamples_images() -> None:
    rows = words({"a": [0.1, 0.5, np.nan], "b": [0.9], "c": [np.nan], "d": [0.2, 0.2]})
    found = estimate(rows, "mass")
    assert found is not None
    assert found.interval.value == pytest.approx((0.1 + 0.5 + 0.9 + 0.2 + 0.2) / 5)
    assert found.interval == ratio_interval(np.array([0.6, 0.9, 0.4]), np.array([2.0, 1.0, 2.0]))
    assert (found.null, found.ceiling) == (pytest.approx(0.1), pytest.approx(0.8))


def test_words_without_a_value_leave_nulls_and_ceilings_alone() -> None:
    rows = words({"a": [0.5, np.nan]})
    rows.loc[1, ["mass_null", "mass_ceiling"]] = 1e9
    found = estimate(rows, "mass")
    assert found is not None
    assert (found.null, found.ceiling) == (pytest.approx(0.1), pytest.approx(0.8))


def test_a_measure_without_values_has_no_estimate() -> None:
    assert estimate(words({"a": [np.nan]}), "mass") is None


def test_the_order_of_words_does_not_matter() -> None:
    rows = words({str(n): [n / 10, 0.3] for n in range(8)})
    assert estimate(rows, "mass") == estimate(rows.sample(frac=1, random_state=1), "mass")


@pytest.fixture(scope="module")
def summary(finished_run: Path) -> Summary:
    return summarise(RunStore(finished_run))


@pytest.fixture(scope="module")
def attributions(finished_run: Path) -> pd.DataFrame:
    frame = RunStore(finished_run).read_attributions()
    assert frame is not None
    return frame


def test_every_method_and_word_class_has_its_row(summary: Summary) -> None:
    lags = [name for lag, name in LAGS.items() if lag]
    names = [method.name for method in summary.methods if method.name not in lags]
    full = ("oracle", "inverse")
    assert list(summary.localisation) == names
    assert list(summary.agreement) == [name for name in names if name not in ("attention", *full)]
    assert list(summary.faithfulness) == [name for name in names if name not in full]
    assert all(list(row) == list(LOCALISATION) for row in summary.localisation.values())
    assert all(list(row) == list(AGREEMENT) for row in summary.agreement.values())
    assert list(summary.attention_by_class) == ["colour", "shape", "relation"], "function words have no place"
    assert list(summary.paths) == [ALL, CONTENT, "colour", "shape", "relation", "function"]
    for row in summary.paths.values():
        assert sum(row[path].interval.value for path in PATHS) == pytest.approx(1)
    assert list(summary.classes) == [name for name in BY_CLASS if name != "on_things"], "which this run lacks"
    assert list(summary.classes["auc"]["attention"]) == ["colour", "shape", "relation"]
    assert list(summary.classes["cosine"]["grid_gradient"]) == ["colour", "shape", "relation", "function"]


def test_all_but_function_words_are_what_the_name_says(summary: Summary, attributions: pd.DataFrame) -> None:
    rows = attributions[(attributions["method"] == "attention") & (attributions["word_class"] != "function")]
    found = summary.trial[CONTENT]["permute_drop"]
    assert found.interval.value == pytest.approx(rows["permute_drop"].mean())
    assert (found.words, found.coverage) == (len(rows), 1)
    assert set(summary.trial[ALL]) == {*TRIAL_DROPS, *TRIAL_DISTANCES, GATE}


def test_coverage_counts_the_words_that_any_method_has_a_value_for() -> None:
    rows = pd.DataFrame(
        {"image_id": i, "word_index": t, "method": m, "auc": value}
        for i, t, m, value in (
            ("a", 0, "x", 0.5), ("a", 0, "y", np.nan), ("a", 1, "x", np.nan), ("a", 1, "y", np.nan),
            ("b", 0, "x", np.nan), ("b", 0, "y", 0.25), ("b", 1, "x", 0.7), ("b", 1, "y", 0.5),
        )
    )  # fmt: skip
    assert askable(rows, ["auc", "not there"]) == {"auc": 3}
    found = {m: estimates(ours, ["auc"], askable(rows, ["auc"]))["auc"] for m, ours in rows.groupby("method")}
    assert {m: (e.words, e.coverage) for m, e in found.items()} == {"x": (2, 2 / 3), "y": (2, 2 / 3)}


@pytest.mark.parametrize(("measure", "best"), [("cosine", 1.0), ("root_jsd", 0.0), ("pearson", 1.0)])
def test_corrected_is_the_way_from_chance_to_the_best_possible(measure: str, best: float) -> None:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"image_id": rng.integers(9, size=40).astype(str), measure: rng.random(40)})
    for null in NULLS:
        rows[f"{measure}_{null}"] = rng.random(40)
    rows.loc[:3, measure] = np.nan
    rows.loc[4:6, f"{measure}_null"] = np.nan
    found = estimate(rows, measure)
    assert found is not None
    assert found.corrected is not None
    kept = rows.dropna()
    literal = (kept[measure] - kept[f"{measure}_null"]).sum() / (best - kept[f"{measure}_null"]).sum()
    assert found.corrected.value == pytest.approx(literal)
    assert found.corrected.low is not None
    assert found.corrected.low < literal < (found.corrected.high or 0)
    defined = rows.dropna(subset=measure)
    assert found.null == pytest.approx(defined[f"{measure}_null"].mean())
    assert found.null_word == pytest.approx(defined[f"{measure}_null_word"].mean())
    assert found.null_shift == pytest.approx(defined[f"{measure}_null_shift"].mean())


def test_agreement_at_chance_is_corrected_to_zero_and_at_its_best_to_one() -> None:
    rows = words({"a": [0.3, 0.3], "b": [0.3]}).rename(columns={"mass": "cosine"})
    chance = estimate(rows.assign(cosine_null=0.3), "cosine")
    best = estimate(rows.assign(cosine=1.0, cosine_null=0.3), "cosine")
    assert chance is not None
    assert best is not None
    assert chance.corrected is not None
    assert best.corrected is not None
    assert (chance.corrected.value, best.corrected.value) == (0, 1)


def test_chance_and_reference_of_faithfulness_are_those_of_the_same_words(
    summary: Summary, attributions: pd.DataFrame
) -> None:
    found = summary.faithfulness["attention"]["abpc_cells"]
    keys = ["image_id", "word_index"]
    mine, random, oracle = (
        attributions[attributions["method"] == name].set_index(keys)["abpc_cells"]
        for name in ("attention", "random", "oracle_grid")
    )
    defined = mine[mine.notna()].index
    assert found.null == pytest.approx(random[defined].mean())
    assert found.ceiling == pytest.approx(oracle[defined].mean())


def test_the_lag_profile_shows_attention_before_and_after_each_word(
    summary: Summary, attributions: pd.DataFrame
) -> None:
    assert list(summary.lags) == [ALL, "colour", "shape", "relation"]
    rows = attributions[(attributions["method"] == LAGS[-1]) & (attributions["word_class"] == "shape")]
    assert list(summary.lags["shape"]) == [-2, -1, 0, 1, 2]
    assert summary.lags["shape"][-1]["mass"].interval.value == pytest.approx(rows["mass"].mean())


def test_a_failed_gate_a_sum_that_misses_and_maps_that_stay_strike_out(example_run: Path) -> None:
    store = RunStore(example_run)
    frame, checked, record = store.read_attributions(), store.read_sanity(), store.read_run()
    assert frame is not None
    assert checked is not None
    assert record.explanations is not None
    wrong = frame["method"] == "pixel_integrated_gradients"
    frame.loc[wrong, "completeness_error"] = 0.3
    store.write_attributions(frame)
    checked.loc[checked["method"] == "pixel_saliency", "spearman"] = 0.9
    store.write_sanity(checked)
    gated = {"grid_integrated_gradients": "it misses"}
    gates = tuple(row for row in record.explanations.gates if row.gate != "completeness")
    gates += tuple(GateRow(name, "causality", False, 1.0, 0.0, 3, why) for name, why in gated.items())
    store.write_run(
        dataclasses.replace(record, explanations=dataclasses.replace(record.explanations, gates=gates))
    )
    found = summarise(store)
    assert found.struck == {
        "grid_integrated_gradients": "it misses",
        "pixel_saliency": "its maps stay alike when every weight is random (Spearman 0.90, at most 0.5)",
        "pixel_integrated_gradients": "its sum misses the score difference it should add up to by 30 %",
        "pixel_guided_backprop": "its maps equal those of the plain gradient",
    }
    assert not {c.method for c in found.comparisons} & set(found.struck)


def test_a_method_whose_sums_miss_over_the_whole_run_is_struck_though_its_gate_passed(
    example_run: Path,
) -> None:
    store = RunStore(example_run)
    frame = store.read_attributions()
    assert frame is not None
    store.write_attributions(frame.assign(completeness_error=0.3))
    assert "by 30 %" in summarise(store).struck["grid_integrated_gradients"]


def test_only_complete_methods_are_held_to_completeness(example_run: Path) -> None:
    completeness = summarise(RunStore(example_run)).completeness
    assert list(completeness) == ["grid_integrated_gradients", "pixel_integrated_gradients"]
    rows = RunStore(example_run).read_attributions()
    assert rows is not None
    errors = rows.loc[rows["method"] == "grid_integrated_gradients", "completeness_error"]
    found = completeness["grid_integrated_gradients"]
    assert found.median == pytest.approx(errors.median())
    assert found.quartiles == (pytest.approx(errors.quantile(0.25)), pytest.approx(errors.quantile(0.75)))
    assert found.holds
    assert not found._replace(median=0.05).holds


def test_the_best_beam_is_the_smallest_of_equals(example_run: Path) -> None:
    store = RunStore(example_run)
    record = store.read_run()
    rows = [
        MetricRow("CIDEr", beam, value, "0 to 10", True, None, None, 26, None)
        for beam, value in ((5, 1.0), (3, 1.0), (1, 0.9))
    ]
    store.write_run(dataclasses.replace(record, metrics=tuple(rows)))
    best = summarise(store).best
    assert best is not None
    assert best.beam_size == 3


def test_leads_are_differences_of_the_same_pictures(example_run: Path) -> None:
    store = RunStore(example_run)
    summary, scores = summarise(store), store.read_scores()
    assert scores is not None
    assert summary.best is not None
    table = scores.pivot(index="image_id", columns="beam_size", values="CIDEr")
    best = summary.best.beam_size
    assert set(summary.leads) == {1, 3, 5} - {best}
    for beam, lead in summary.leads.items():
        ahead = (table[best] - table[beam]).to_numpy()
        assert lead == ratio_interval(ahead, np.ones(len(ahead)))


def test_true_words_are_counted_over_all_classes(example_run: Path) -> None:
    store = RunStore(example_run)
    scores = store.read_scores()
    assert scores is not None
    scores["true_shape"], scores["said_shape"] = 1.0, 4.0
    store.write_scores(scores)
    summary = summarise(store)
    assert summary.best is not None
    assert summary.true_words is not None
    rows = scores[scores["beam_size"] == summary.best.beam_size]
    assert summary.true_words.value == pytest.approx(
        (rows["true_colour"].sum() + len(rows)) / (6 * len(rows))
    )


def test_the_ranking_runs_from_worst_to_best(example_run: Path) -> None:
    ranking = summarise(RunStore(example_run)).ranking
    assert len(ranking) == 26
    assert list(ranking.values()) == sorted(ranking.values())


def test_a_run_that_only_decoded_has_empty_tables(example_run: Path) -> None:
    for name in ("scores.parquet", "attributions.parquet", "maps.npz"):
        (example_run / name).unlink()
    store = RunStore(example_run)
    store.write_run(dataclasses.replace(store.read_run(), metrics=(), explanations=None))
    summary = summarise(store)
    assert summary.best is None
    assert not any((summary.leads, summary.ranking, summary.localisation, summary.agreement, summary.paths))
    assert not any((summary.struck, summary.trial, summary.lags, summary.comparisons, summary.audit))


def test_a_run_of_before_the_benchmark_has_what_it_measured(old_run: Path) -> None:
    summary = summarise(RunStore(old_run))
    assert summary.localisation["attention"]["mass"].words == 130
    assert summary.agreement["grid_gradient"]["cosine"].corrected is not None
    assert not any((summary.faithfulness, summary.trial, summary.lags, summary.interventions, summary.sanity))
    assert {c.measure for c in summary.comparisons} == {"auc", "mass", "pointing"}
