"""The tables of a run."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reports.records import AGREEMENT, LOCALISATION, PATHS, MetricRow
from reports.stats import ratio_interval
from reports.store import RunStore
from reports.summary import estimate, summarise


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


def test_every_method_and_word_class_has_its_row(example_run: Path) -> None:
    summary = summarise(RunStore(example_run))
    names = [method.name for method in summary.methods]
    assert list(summary.localisation) == names
    assert list(summary.agreement) == [name for name in names if name != "attention"]
    assert all(list(row) == list(LOCALISATION) for row in summary.localisation.values())
    assert all(list(row) == list(AGREEMENT) for row in summary.agreement.values())
    assert list(summary.attention_by_class) == ["colour", "shape", "relation"], "function words have no place"
    assert list(summary.paths) == ["all words", "colour", "shape", "relation", "function"]
    for row in summary.paths.values():
        assert sum(row[path].interval.value for path in PATHS) == pytest.approx(1)


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
