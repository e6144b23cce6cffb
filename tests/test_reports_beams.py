"""What beam search buys and costs: planted gains, planted times."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reports.beams import BeamTable, beams
from reports.corpus import BLEU_STATISTICS
from reports.records import FROM_FILE, CaptionRow, MetricRow, StageRow
from reports.stats import ratio_interval
from reports.store import RunStore
from reports.summary import read_material, summarise

IMAGES = 200
TIMES = {"decode": 99.0, "decode: pictures": 1.0, "decode: beam size 1": 0.2, "decode: beam size 3": 0.5}
TIMES |= {"decode: beam size 5": 1.4}


def stages(times: Mapping[str, float], images: int = IMAGES) -> tuple[StageRow, ...]:
    return tuple(StageRow(name, seconds, images, "images") for name, seconds in times.items())


@pytest.fixture
def plant(example_run: Path) -> Callable[..., RunStore]:
    """`plant({1: scores, 3: scores …}, captions=…)` writes a run whose beam sizes score so."""

    def _plant(
        scores: Mapping[int, Sequence[float]],
        *,
        metric: str = "CIDEr",
        times: tuple[StageRow, ...] = (),
        captions: Mapping[int, Sequence[str | None]] | None = None,
        extra: Sequence[MetricRow] = (),
    ) -> RunStore:
        store = RunStore(example_run)
        frames = [
            pd.DataFrame(
                {"image_id": [f"i{n}" for n in range(len(values))], "beam_size": size, metric: values}
            )
            for size, values in scores.items()
        ]
        store.write_scores(pd.concat(frames))
        means = {size: float(np.nanmean(values)) for size, values in scores.items()}
        rows = [
            MetricRow(metric, size, mean, "0 to 10", True, mean - 0.1, mean + 0.1, len(scores[size]), None)
            for size, mean in means.items()
        ]
        record = dataclasses.replace(
            store.read_run(), metrics=(*rows, *extra), stages=times, explanations=None
        )
        store.write_run(record)
        (example_run / "captions.jsonl").unlink(missing_ok=True)
        store.append_captions(
            CaptionRow(f"i{n}", size, text, (), (), None, (), (), True, None)
            for size, texts in (captions or {}).items()
            for n, text in enumerate(texts)
        )
        return store

    return _plant


def table(store: RunStore) -> BeamTable:
    found = beams(store, summarise(store))
    assert found is not None
    return found


def cells(found: BeamTable, column: str) -> list[str]:
    place = [cell.value for cell in found.grid.columns].index(column)
    return [" | ".join((row.cells[place].value, *row.cells[place].lines)) for row in found.grid.groups[""]]


def planted_scores() -> dict[int, list[float]]:
    """Beam size 3 gains 0.5 for all images, more or less; beam size 5 gains nothing more but noise."""
    rng = np.random.default_rng(0)
    base = rng.normal(3, 1, IMAGES)
    gained = base + rng.normal(0.5, 0.2, IMAGES)
    noisy = gained + rng.normal(0.001, 0.2, IMAGES)
    return {1: base.tolist(), 3: gained.tolist(), 5: (noisy - noisy.mean() + gained.mean() + 0.002).tolist()}


def test_a_planted_gain_is_beyond_noise_and_noise_is_not(plant: Callable[..., RunStore]) -> None:
    scores = planted_scores()
    found = table(plant(scores, times=stages(TIMES)))
    first, second, third = cells(found, "CIDEr gained")
    by_name = sorted(range(IMAGES), key=lambda number: f"i{number}")
    differences = np.subtract(scores[3], scores[1])[by_name]
    slow = ratio_interval(differences, np.ones(IMAGES))
    assert slow is not None
    assert first == "–"
    assert second == f"+{slow.value:.3f} | {slow.low:.3f} to {slow.high:.3f} | beyond noise"
    assert third.startswith("+0.002 | −0.0")
    assert third.endswith("| may be noise")


def test_the_sentence_says_what_is_gained_over_the_smallest_beam_and_what_it_costs(
    plant: Callable[..., RunStore],
) -> None:
    headline, where = table(plant(planted_scores(), times=stages(TIMES))).sentences
    assert headline.startswith("Beam size 5 gains 0.484 CIDEr (0.444 to 0.525)")
    assert headline.endswith(
        "over greedy decoding, beyond noise, and takes 2.0 times as long: 12.0 ms per image instead of 6.00, with "
        "reading and encoding the picture."
    )
    assert where == "Beyond beam size 3, no step to a larger beam gains more than noise may do."


def test_times_are_those_of_the_stages_and_their_ratios_count_reading_too(
    plant: Callable[..., RunStore],
) -> None:
    found = table(plant(planted_scores(), times=stages(TIMES)))
    assert cells(found, "Time per image") == [
        "6.00 ms | of which search 1.00",
        "7.50 ms | 1.25 times as long | of which search 2.50",
        "12.0 ms | 2.0 times as long | of which search 7.00",
    ]
    assert {name: time for name, (time, _) in found.points.items()} == pytest.approx(
        {"beam size 1": 6.0, "beam size 3": 7.5, "beam size 5": 12.0}
    )
    assert [quality.n for _, quality in found.points.values()] == [IMAGES] * 3


def test_a_resumed_run_adds_up_its_parts_and_without_pictures_the_search_alone_counts(
    plant: Callable[..., RunStore],
) -> None:
    searches = {name: time for name, time in TIMES.items() if "beam" in name}
    twice = stages(searches, 150) + stages({"decode: beam size 1": 0.1}, 50)
    found = table(plant(planted_scores(), times=twice))
    assert cells(found, "Time per image")[0] == "1.50 ms | of the search alone"
    assert found.sentences[0].endswith("instead of 1.50, for the search alone.")


def test_a_run_that_was_not_timed_says_so_and_has_no_points(plant: Callable[..., RunStore]) -> None:
    for times in ((), stages({"decode": 9.0}), stages(TIMES, images=0)):
        found = table(plant(planted_scores(), times=times))
        assert found.points == {}
        assert "Time per image" not in [cell.value for cell in found.grid.columns]
        assert found.sentences[-1].startswith("How long each beam size takes is not stored in this run")
    some = table(plant(planted_scores(), times=stages({"decode: beam size 3": 1.0})))
    assert list(some.points) == ["beam size 3"]
    assert cells(some, "Time per image") == ["–", "5.00 ms | of the search alone", "–"]


def test_captions_that_changed_are_counted_over_images_that_both_have(plant: Callable[..., RunStore]) -> None:
    captions = {1: ["a", "b", "c", None], 3: ["a", "B", "c", "d"], 5: ["a", "B", "C", "D"]}
    found = table(plant({size: [1.0, 2.0, 3.0, 4.0] for size in captions}, captions=captions))
    shares = [
        cell.partition(" |")[0] + cell[cell.rindex("|") + 1 :]
        for cell in cells(found, "Captions changed")[1:]
    ]
    assert shares == ["33\u00a0% of 3 images", "50\u00a0% of 4 images"]


def test_captions_that_were_read_already_are_not_read_again(plant: Callable[..., RunStore]) -> None:
    store = plant(planted_scores(), captions={1: ["a"], 3: ["b"], 5: ["b"]})
    material = read_material(store)
    expected = beams(store, summarise(store))
    (store.path / "captions.jsonl").unlink()
    assert beams(store, summarise(store, material), material) == expected


def test_where_the_smallest_beam_is_best_the_largest_is_held_against_it(
    plant: Callable[..., RunStore],
) -> None:
    rng = np.random.default_rng(1)
    base = rng.normal(3, 1, IMAGES)
    worse = (base - rng.normal(0.5, 0.1, IMAGES)).tolist()
    headline, where, _ = table(plant({1: base.tolist(), 3: worse, 5: worse})).sentences
    assert headline.startswith(
        "No larger beam scores higher than greedy decoding. Beam size 5 loses 0.491 CIDEr (0.479 to 0.503)"
    )
    assert headline.endswith("against greedy decoding, beyond noise.")
    assert where == "No single step to a larger beam gains more than noise may do."


def test_equal_captions_score_the_same(plant: Callable[..., RunStore]) -> None:
    headline, _ = table(plant({2: [1.0, 2.0], 4: [1.0, 2.0]})).sentences
    assert (
        headline == "No larger beam scores higher than beam size 2. Beam size 4 scores what beam size 2 does."
    )


def test_bleu_is_compared_through_its_statistics(plant: Callable[..., RunStore]) -> None:
    store = plant({1: [0.5, 0.5], 3: [0.9, 0.9]}, metric="BLEU-4")
    found = table(store)
    assert cells(found, "BLEU-4 gained")[1] == "–", "means of single images are no corpus score"
    scores = store.read_scores()
    assert scores is not None
    rng = np.random.default_rng(0)
    for column in BLEU_STATISTICS:
        scores[column] = rng.integers(1, 5, len(scores)).astype(float)
    store.write_scores(scores)
    assert cells(table(store), "BLEU-4 gained")[1].endswith(" noise")


def test_lengths_and_unfinished_captions_stand_beside(plant: Callable[..., RunStore]) -> None:
    extra = [MetricRow("Mean length", 1, 9.5, "words", None, 9.4, 9.6, 2, None)]
    extra += [MetricRow("Unfinished captions", 3, 0.25, "share", False, 0.1, 0.4, 2, None)]
    found = table(plant({1: [1.0, 2.0], 3: [1.5, 2.0]}, extra=extra))
    assert cells(found, "Mean length") == ["9.500 | 9.400 to 9.600", "–"]
    assert cells(found, "Unfinished") == ["–", "25\u00a0% | 10 to 40\u00a0%"]


def test_one_image_has_no_interval_and_nothing_is_beyond_noise(plant: Callable[..., RunStore]) -> None:
    found = table(plant({1: [1.0], 3: [2.0]}))
    assert cells(found, "CIDEr gained")[1] == "+1.000 | one image: no interval | may be noise"
    assert found.sentences[0] == "Beam size 3 gains 1.000 CIDEr over greedy decoding, which may be noise."


@pytest.mark.parametrize("sizes", [(5,), (FROM_FILE,), (FROM_FILE, 5), ()])
def test_a_single_beam_size_is_compared_with_nothing(
    plant: Callable[..., RunStore], sizes: tuple[int, ...]
) -> None:
    store = plant({1: [1.0], **{size: [1.0] for size in sizes}})
    record = store.read_run()
    rows = tuple(row for row in record.metrics if row.beam_size in sizes)
    store.write_run(dataclasses.replace(record, metrics=rows))
    assert beams(store, summarise(store)) is None


def test_scores_that_are_missing_or_not_numbers_end_in_no_error(plant: Callable[..., RunStore]) -> None:
    store = plant({1: [1.0, 2.0, np.nan], 3: [np.nan, 3.0, 1.0], 5: [1.0, 2.0]})
    assert cells(table(store), "CIDEr gained")[1].startswith("+1.000 | one image")
    (store.path / "scores.parquet").unlink()
    record = store.read_run()
    rows = tuple(dataclasses.replace(row, value=1.0 + row.beam_size) for row in record.metrics)
    store.write_run(dataclasses.replace(record, metrics=rows))
    found = table(store)
    assert cells(found, "CIDEr gained") == ["–"] * 3
    assert found.sentences[0] == "Beam size 5 scores 6.000 CIDEr."
