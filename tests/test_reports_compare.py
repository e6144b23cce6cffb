"""Comparisons of runs: what is compared, what is refused, and planted differences that have to be found."""

import dataclasses
import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.comparison.compare import Comparison, compare
from reports.comparison.explanations import ExplanationComparison, Gaze, pooled
from reports.comparison.machines import MOST_SETTINGS
from reports.comparison.markdown import as_markdown
from reports.comparison.output import as_json, as_text, matrix, shown_ids, told_ids
from reports.comparison.scores import MetricTest
from reports.comparison.tables import paces
from reports.comparison.tables import settings as settings_table
from reports.comparison.verdict import _elsewhere
from reports.comparison.words import aligned, changes
from reports.corpus import corpus_scores, metric_names
from reports.maps import map_key
from reports.records import GateRow, ImageCounts, RunError
from reports.speed import SpeedRecord, SpeedRow
from reports.stats import BLEU_STATISTICS, METEOR_STATISTICS, Interval, paired_tests
from reports.store import RunStore

BEAM, IMAGES = 5, 26
TESTED = ["CIDEr", "BLEU-4", "METEOR", "ROUGE-L"]


def edit(run: Path, **fields: object) -> None:
    store = RunStore(run)
    store.write_run(dataclasses.replace(store.read_run(), **fields))


def edit_captions(run: Path, change: Callable) -> None:
    store = RunStore(run)
    rows = [change(row) for row in store.read_captions()]
    (run / "captions.jsonl").unlink()
    store.append_captions(row for row in rows if row is not None)


def write_scores(run: Path, frame: pd.DataFrame, **metric: object) -> None:
    """Stores scores together with the corpus scores that they give."""
    store, rows = RunStore(run), []
    store.write_scores(frame)
    found = {
        int(size): corpus_scores(rows.drop(columns="beam_size").set_index("image_id"))
        for size, rows in frame.groupby("beam_size")
    }
    for row in store.read_run().metrics:
        value = found.get(row.beam_size, {}).get(row.name, row.value)
        signature = f"references:2|{row.name.lower()}|beam:{row.beam_size}"
        fields = {"value": value, "ci_low": None, "ci_high": None, "signature": signature}
        rows.append(dataclasses.replace(row, **fields | metric))
    edit(run, metrics=tuple(rows))


@pytest.fixture(scope="session")
def scored_run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has what BLEU and METEOR are made of; only to be read."""
    run = Path(shutil.copytree(finished_run, tmp_path_factory.mktemp("scored") / "first"))
    (run / "sanity.parquet").unlink()
    rng, frame = np.random.default_rng(3), RunStore(run).read_scores()
    assert frame is not None
    for name in (*BLEU_STATISTICS, *METEOR_STATISTICS):
        frame[name] = rng.integers(2, 6, len(frame)).astype(float)
    for n in range(1, 5):
        frame[f"bleu_matches_{n}"] = np.minimum(frame[f"bleu_matches_{n}"], frame[f"bleu_totals_{n}"])
    write_scores(run, frame)
    return run


@pytest.fixture
def copy_run(scored_run: Path, tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(scored_run, tmp_path / name))


def worsen(run: Path, images: int, by: float) -> None:
    """Takes so much CIDEr from the first images, and puts another word into their captions."""
    frame = RunStore(run).read_scores()
    assert frame is not None
    ids = sorted(set(frame["image_id"]))[:images]
    hit = frame["image_id"].isin(ids) & (frame["beam_size"] == BEAM)
    write_scores(run, frame.assign(CIDEr=frame["CIDEr"].where(~hit, frame["CIDEr"] - by)))

    def change(row):
        if row.image_id not in ids or row.beam_size != BEAM:
            return row
        words = (*row.words[:1], "pink", *row.words[2:])
        return dataclasses.replace(row, words=words, caption=" ".join(words))

    edit_captions(run, change)


def compared(*runs: Path | str, **options: object) -> Comparison:
    return compare([str(run) for run in runs], **options)


def found_in(comparison: Comparison, metric: str) -> MetricTest:
    return next(test for test in comparison.against[0].pair.tests if test.metric == metric)


def answers(comparison: Comparison, run: int = 1) -> list[str]:
    return [finding.answer for finding in comparison.against[run - 1].verdict]


def test_a_planted_loss_is_found_with_its_size_and_its_captions(scored_run: Path, copy_run) -> None:
    worse = copy_run("worse")
    worsen(worse, 13, by=1.0)
    comparison = compared(scored_run, worse)
    found = found_in(comparison, "CIDEr")
    assert found.test.difference == pytest.approx(-0.5)
    assert found.test.low is not None
    assert found.test.high is not None
    assert found.test.low < -0.5 < found.test.high < 0
    assert (found.outcome, found.effect, found.differing, found.test.n) == ("worse", -1.0, 13, IMAGES)
    assert {found_in(comparison, name).outcome for name in TESTED[1:]} == {"level"}
    captions = comparison.against[0].captions
    assert captions.changed == 13
    assert captions.same.value == pytest.approx(0.5)
    assert len(captions.lost) == 10
    assert not captions.gained
    assert captions.lost[0].difference == pytest.approx(-1.0)
    assert {swap.after for swap in captions.swaps} == {"pink"}
    assert sum(swap.captions for swap in captions.swaps) == 13
    assert answers(comparison)[0] == "No, worse"
    assert any(s.startswith("CIDEr −0.500 (−") for s in comparison.against[0].verdict[0].sentences)


def test_equal_runs_show_no_difference(scored_run: Path, copy_run) -> None:
    comparison = compared(scored_run, copy_run("second"), copy_run("third"))
    for pair in comparison.pairs:
        assert [test.metric for test in pair.tests] == TESTED
        assert {(t.test.difference, t.adjusted_p, t.outcome, t.effect) for t in pair.tests} == {
            (0.0, 1.0, "level", None)
        }
    cells = [cell for line in matrix(comparison, "CIDEr") for cell in line]
    assert [cell and cell.outcome for cell in cells] == [None, *["level"] * 3, None, *["level"] * 3, None]
    assert comparison.best == (0, 1, 2)
    assert comparison.verdict[0].answer == "None stands out"
    for run in (1, 2):
        assert answers(comparison, run)[:3] == [
            "No difference shows", "Yes, word for word", "No, at the same places",
        ]  # fmt: skip


def test_the_order_of_runs_flips_signs_and_nothing_else(scored_run: Path, copy_run) -> None:
    worse = copy_run("worse")
    worsen(worse, 7, by=0.4)
    forth, back = compared(scored_run, worse), compared(worse, scored_run)
    for name in TESTED:
        one, other = found_in(forth, name), found_in(back, name)
        assert one.test.difference == pytest.approx(-other.test.difference)
        assert one.test.low == pytest.approx(-other.test.high, abs=1e-12)
        assert one.adjusted_p == other.adjusted_p
        assert one.effect == (None if other.effect is None else -other.effect)
    assert forth.against[0].captions.lost[0].scores == back.against[0].captions.gained[0].scores[::-1]
    lines = matrix(forth, "CIDEr")
    assert lines[1][0] is not None
    assert lines[0][1] is not None
    assert lines[1][0].test.difference == pytest.approx(-lines[0][1].test.difference)


def literal_holm(p_values: Sequence[float]) -> list[float]:
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    for place, i in enumerate(order):
        before = adjusted[order[place - 1]] if place else 0.0
        adjusted[i] = max(before, min(1.0, (len(p_values) - place) * p_values[i]))
    return adjusted


def test_p_values_are_those_of_paired_tests_corrected_over_all_pairs_and_metrics(
    scored_run: Path, copy_run
) -> None:
    runs = [scored_run, copy_run("b"), copy_run("c")]
    worsen(runs[1], 8, by=0.3)
    worsen(runs[2], 4, by=0.1)
    comparison = compared(*runs)
    frames = []
    for run in runs:
        frame = RunStore(run).read_scores()
        assert frame is not None
        frames.append(frame[frame["beam_size"] == BEAM].drop(columns="beam_size").set_index("image_id"))
    plain = {
        (i, j, name): paired_tests(frames[i], frames[j])[name]
        for i, j in itertools.combinations(range(3), 2)
        for name in TESTED
    }
    corrected = dict(zip(plain, literal_holm([test.p_differs for test in plain.values()]), strict=True))
    assert len(corrected) == 12
    for pair in comparison.pairs:
        for found in pair.tests:
            key = (pair.first, pair.second, found.metric)
            assert found.test == plain[key]
            assert found.adjusted_p == pytest.approx(corrected[key])


def test_values_are_over_the_images_that_all_runs_have(scored_run: Path, copy_run) -> None:
    fewer = copy_run("fewer")
    edit_captions(fewer, lambda row: None if row.image_id in ("scene-000", "scene-001") else row)
    frame = RunStore(fewer).read_scores()
    assert frame is not None
    write_scores(fewer, frame[~frame["image_id"].isin(["scene-000", "scene-001"])])
    comparison = compared(scored_run, fewer)
    assert len(comparison.image_ids) == 24
    assert {interval.n for metric in comparison.metrics for interval in metric.intervals} == {24}
    assert all(len({i.value for i in metric.intervals}) == 1 for metric in comparison.metrics)
    (warning,) = comparison.warnings
    assert warning == (
        "Not all runs have the same images: the comparison is over the 24 that all have; “first” has 2 more. "
        "Whether their pictures are the same can’t be told."
    )


def test_a_run_is_compared_with_itself_at_two_beam_sizes(scored_run: Path) -> None:
    comparison = compared(f"{scored_run}@1", f"{scored_run}@5")
    assert [run.name for run in comparison.runs] == ["first at beam size 1", "first at beam size 5"]
    assert [run.beam_size for run in comparison.runs] == [1, 5]
    rows = {(r.image_id, r.beam_size): r for r in RunStore(scored_run).read_captions()}
    assert comparison.runs[0].captions["scene-003"] == rows["scene-003", 1]
    assert comparison.against[0].speed.notes == ("Both are of one run, whose speed was measured once.",)
    assert any(
        "those of beam size 1 are compared" in note for note in comparison.against[0].explanations.notes
    )


def test_an_existing_path_with_an_at_sign_is_a_path(scored_run: Path, copy_run) -> None:
    comparison = compared(scored_run, copy_run("run@1"))
    assert [run.name for run in comparison.runs] == ["first", "run@1"]
    assert {run.beam_size for run in comparison.runs} == {5}


def test_the_beam_size_is_the_one_asked_for_or_the_largest_that_all_have(scored_run: Path, copy_run) -> None:
    small = copy_run("small")
    edit_captions(small, lambda row: None if row.beam_size == 5 else row)
    assert {run.beam_size for run in compared(scored_run, small).runs} == {3}
    assert {run.beam_size for run in compared(scored_run, small, beam_size=1).runs} == {1}
    named = compared(f"{scored_run}@1", small)
    assert {run.beam_size for run in named.runs} == {1}, "what was asked for of one run counts for the others"
    assert named.warnings == ()


def test_beam_sizes_that_differ_unasked_are_warned_of_by_name(scored_run: Path, copy_run) -> None:
    small = copy_run("small")
    edit_captions(small, lambda row: None if row.beam_size == 5 else row)
    unasked = compared(f"{scored_run}@5", small)
    assert [run.beam_size for run in unasked.runs] == [5, 3]
    assert unasked.warnings == (
        "The runs are compared at different beam sizes: first at beam size 5, small at beam size 3.",
    )
    assert compared(f"{scored_run}@5", f"{small}@3").warnings == ()


def test_runs_without_a_common_beam_size_are_compared_at_their_own_best(scored_run: Path, copy_run) -> None:
    one, other = copy_run("one"), copy_run("other")
    edit_captions(one, lambda row: None if row.beam_size == 5 else row)
    edit_captions(other, lambda row: row if row.beam_size == 5 else None)
    comparison = compared(one, other)
    values = {
        size: row.value
        for row in RunStore(one).read_run().metrics
        if row.name == "CIDEr" and (size := row.beam_size) < 5
    }
    best = max(values, key=lambda size: values[size])
    assert [run.beam_size for run in comparison.runs] == [best, 5]
    assert comparison.warnings[0] == (
        "The runs have no beam size in common, so each is compared at its own best: "
        f"one at beam size {best}, other at beam size 5."
    )


def test_names_are_unique(scored_run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(scored_run, tmp_path / "elsewhere" / "first"))
    assert [run.name for run in compared(scored_run, other).runs] == ["first", "first (2)"]
    assert [run.name for run in compared(scored_run, scored_run).runs] == [
        "first at beam size 5", "first at beam size 5 (2)",
    ]  # fmt: skip


@pytest.mark.parametrize("number", [1, 9])
def test_one_run_and_nine_runs_are_refused(scored_run: Path, number: int) -> None:
    with pytest.raises(RunError, match=f"{number} runs were given; expected 2 to 8 run directories"):
        compared(*[scored_run] * number)


def test_what_is_no_run_is_refused(scored_run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nowhere is not a directory; expected the directory of a run"):
        compared(scored_run, tmp_path / "nowhere")


def test_a_beam_size_that_a_run_lacks_is_refused(scored_run: Path) -> None:
    with pytest.raises(
        RunError, match="first has no captions of beam size 7; it has beam size 1, beam size 3"
    ):
        compared(f"{scored_run}@7", scored_run)


def test_a_run_without_captions_is_refused(scored_run: Path, copy_run) -> None:
    empty = copy_run("empty")
    edit_captions(empty, lambda row: dataclasses.replace(row, caption=None, error="torn"))
    with pytest.raises(RunError, match="empty holds no caption; expected a run that captioned at least one"):
        compared(scored_run, empty)


def test_runs_without_a_common_image_are_refused(scored_run: Path, copy_run) -> None:
    other = copy_run("other")
    edit_captions(other, lambda row: dataclasses.replace(row, image_id=f"x-{row.image_id}"))
    (other / "scores.parquet").unlink()
    with pytest.raises(RunError, match=r"no image in common.*“first” “scene-000”, “other” “x-scene-000”"):
        compared(scored_run, other)


def test_other_references_are_refused_with_an_example(scored_run: Path, copy_run) -> None:
    other = copy_run("other")
    edit_captions(
        other,
        lambda row: dataclasses.replace(row, references=("a cat",)) if row.image_id == "scene-004" else row,
    )
    with pytest.raises(
        RunError, match="“first” and “other” have different references of 1 image, such as “scene-004”"
    ):
        compared(scored_run, other)
    edit_captions(other, lambda row: dataclasses.replace(row, references=row.references[::-1]))
    with pytest.raises(RunError, match="“scene-004”"):
        compared(scored_run, other)


def test_scores_that_contradict_the_run_are_refused(scored_run: Path, copy_run) -> None:
    wrong, twice = copy_run("wrong"), copy_run("twice")
    frame = RunStore(wrong).read_scores()
    assert frame is not None
    RunStore(wrong).write_scores(frame.assign(CIDEr=frame["CIDEr"] + 1))
    with pytest.raises(
        RunError, match=r"“wrong” says CIDEr .* at beam size 5, its scores.parquet .*score the run again"
    ):
        compared(scored_run, wrong)
    RunStore(twice).write_scores(pd.concat([frame, frame[:3]]))
    with pytest.raises(RunError, match=r"twice/scores\.parquet has an image twice at one beam size"):
        compared(scored_run, twice)


def provenance(run: Path, **sha256: str):
    known = RunStore(run).read_run().provenance
    return dataclasses.replace(known, sha256={**known.sha256, **sha256})


@pytest.mark.parametrize(
    ("fields", "warning"),
    [
        ({"status": "interrupted"}, "“second” is interrupted: 26 of 26 images are done."),
        ({"images": ImageCounts(26, 24, 2)}, "In “second” 2 of 26 pictures could not be read: they are left out "
         "for all runs."),
        ({"config": {"encoder_dtype": "bfloat16"}}, "“first” and “second” encoded pictures in different precision: "
         "float32 and bfloat16."),
    ],
    ids=["unfinished", "failed", "precision"],
)  # fmt: skip
def test_runs_that_differ_in_more_than_captions_are_compared_with_a_warning(
    copy_run, fields: dict, warning: str
) -> None:
    first, second = copy_run("first"), copy_run("second")
    edit(first, config={"encoder_dtype": "float32"})
    edit(second, **{"config": {"encoder_dtype": "float32"}} | fields)
    assert compared(first, second).warnings == (warning,)


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("data", "“first” and “second”: the hashes of their data differ: other picture files, or another order of "
         "images or references."),
        ("vocabulary", "“first” and “second” have different vocabularies."),
    ],
)  # fmt: skip
def test_other_pictures_and_vocabularies_are_warned_of(copy_run, name: str, warning: str) -> None:
    first, second = copy_run("first"), copy_run("second")
    edit(first, provenance=provenance(first, vocabulary="aa", data="aa"))
    edit(second, provenance=provenance(second, **{"vocabulary": "aa", "data": "aa"} | {name: "bb"}))
    assert compared(first, second).warnings == (warning,)


def test_runs_without_scores_are_compared_by_their_captions(scored_run: Path, copy_run) -> None:
    bare = copy_run("bare")
    worsen(bare, 5, by=1.0)
    (bare / "scores.parquet").unlink()
    comparison = compared(scored_run, bare)
    assert comparison.warnings == ("“bare” has no scores; `gazebench score` computes them.",)
    assert comparison.metrics == ()
    assert answers(comparison)[0] == "Can’t be said"
    assert comparison.against[0].captions.changed == 5
    assert set(comparison.against[0].captions.differences.values()) == {None}


def signed_as(run: Path, signature: str) -> None:
    metrics = RunStore(run).read_run().metrics
    edit(run, metrics=tuple(
        dataclasses.replace(row, signature=f"{signature}|beam:{row.beam_size}") if row.name == "CIDEr" else row
        for row in metrics
    ))  # fmt: skip


def test_a_metric_that_was_computed_in_another_way_is_left_out_by_name(scored_run: Path, copy_run) -> None:
    other = copy_run("other")
    signed_as(other, "references:2|cider:other")
    comparison = compared(scored_run, other)
    assert [metric.name for metric in comparison.metrics] == TESTED[1:]
    assert comparison.left_out == (
        "CIDEr is not compared: it was computed in another way: signature cider in “first”, cider:other in "
        "“other”.",
    )
    assert "CIDEr" in {other.name for other in comparison.others}


def test_how_captions_were_searched_for_is_no_part_of_the_comparison(copy_run) -> None:
    one, other = copy_run("one"), copy_run("other")
    for run, search in ((one, "decoding:default|lp:0.7"), (other, "decoding:default|lp:0")):
        signed_as(run, f"references:2|cider|{search}")
        edit(run, search_signature=search)
    assert compared(one, other).left_out == ()
    assert compared(f"{one}@1", f"{other}@5").left_out == ()


def test_frequencies_of_other_images_leave_cider_out(copy_run) -> None:
    one, fewer = copy_run("one"), copy_run("fewer")
    edit_captions(fewer, lambda row: None if row.image_id == "scene-000" else row)
    frame = RunStore(fewer).read_scores()
    assert frame is not None
    write_scores(fewer, frame[frame["image_id"] != "scene-000"])
    signed_as(one, "cider|df:scored-26-images")
    signed_as(fewer, "cider|df:scored-25-images")
    (reason,) = compared(one, fewer).left_out
    assert "(df:scored-26-images in “one”, df:scored-25-images in “fewer”)" in reason
    assert "score the runs with the same --frequencies" in reason
    for run in (one, fewer):
        signed_as(run, "cider|df:fixed-coco-1000-images")
    assert compared(one, fewer).left_out == ()


def test_frequencies_of_other_files_of_the_same_name_leave_cider_out(copy_run) -> None:
    one, other = copy_run("one"), copy_run("other")
    for run, digest in ((one, "aa"), (other, "bb")):
        signed_as(run, "cider|df:fixed-coco-1000-images")
        edit(run, provenance=provenance(run, frequencies=digest))
    assert compared(one, other).left_out == (
        "CIDEr is not compared: its document frequencies come from different files.",
    )
    edit(other, provenance=provenance(other, frequencies="aa"))
    assert compared(one, other).left_out == ()


def test_how_many_references_other_images_have_leaves_no_metric_out(copy_run) -> None:
    one, other = copy_run("one"), copy_run("other")
    signed_as(one, "references:2-7|cider")
    signed_as(other, "references:2|cider")
    assert compared(one, other).left_out == ()


def test_values_and_differences_are_over_the_images_that_every_run_has_a_score_of(copy_run) -> None:
    runs = [copy_run(name) for name in ("one", "two", "three")]
    for run, lacking in zip(runs, ("scene-000", "scene-001", "scene-002"), strict=True):
        frame = RunStore(run).read_scores()
        assert frame is not None
        hit = frame["image_id"] == lacking
        write_scores(run, frame.assign(CIDEr=frame["CIDEr"].where(~hit) + (0.5 if run is runs[1] else 0)))
    comparison = compared(*runs)
    cider = comparison.metrics[0]
    assert {interval.n for interval in cider.intervals} == {IMAGES - 3}
    assert {pair.tests[0].test.n for pair in comparison.pairs} == {IMAGES - 3}
    difference = cider.intervals[1].value - cider.intervals[0].value
    assert found_in(comparison, "CIDEr").test.difference == pytest.approx(difference) == pytest.approx(0.5)
    assert {interval.n for interval in comparison.metrics[1].intervals} == {IMAGES}
    assert comparison.warnings == (
        "CIDEr is compared over 23 of 26 images: the others lack it in at least one run.",
    )


def test_a_metric_of_one_run_alone_is_left_out_with_the_reason(copy_run) -> None:
    one, other = copy_run("one"), copy_run("other")
    metrics = RunStore(other).read_run().metrics
    without = [
        dataclasses.replace(row, value=None, reason="no Java") if row.name == "METEOR" else row
        for row in metrics
    ]
    edit(other, metrics=tuple(without))
    assert compared(one, other).left_out == ("METEOR is not compared: “other” does not have it (no Java).",)


def test_a_metric_without_a_common_image_is_left_out(copy_run) -> None:
    one, other = copy_run("one"), copy_run("other")
    for run, first in ((one, True), (other, False)):
        frame = RunStore(run).read_scores()
        assert frame is not None
        known = (frame["image_id"] < "scene-013") == first
        write_scores(run, frame.assign(CIDEr=frame["CIDEr"].where(known)))
    comparison = compared(one, other)
    assert comparison.left_out == ("CIDEr is not compared: no image has it in every run.",)
    assert [metric.name for metric in comparison.metrics] == TESTED[1:]
    assert comparison.against[0].captions.metric == "BLEU-4"


captions = st.lists(st.sampled_from("abc"), max_size=7)


def longest(before: Sequence[str], after: Sequence[str]) -> int:
    """Of every subsequence of one that is in the other, the longest."""
    for n in range(len(before), 0, -1):
        for chosen in itertools.combinations(before, n):
            rest = iter(after)
            if all(word in rest for word in chosen):
                return n
    return 0


@given(captions, captions)
def test_the_alignment_is_a_longest_common_subsequence(before: list[str], after: list[str]) -> None:
    pairs = aligned(before, after)
    assert len(pairs) == longest(before, after)
    assert all(before[i] == after[j] for i, j in pairs)
    assert all(one[0] < two[0] and one[1] < two[1] for one, two in itertools.pairwise(pairs))


@given(captions, captions)
def test_changes_read_in_order_give_both_captions(before: list[str], after: list[str]) -> None:
    found = changes(before, after)
    assert [word for change in found for word in change.before] == before
    assert [word for change in found for word in change.after] == after
    assert all(change.before == change.after for change in found if change.kind == "same")
    assert all(one.kind != two.kind for one, two in itertools.pairwise(found))


def test_captions_of_thousands_of_words_are_diffed_in_part() -> None:
    long = [f"word{n}" for n in range(5000)]
    found = changes(long, ["other", *long])
    assert [word for change in found for word in change.after] == ["other", *long]


def rewrite_maps(run: Path, change: Callable[[np.ndarray, int], np.ndarray]) -> None:
    store = RunStore(run)
    ids = sorted({row.image_id for row in store.read_captions()})
    maps = store.read_maps(map_key(image_id, BEAM, "attention") for image_id in ids)
    store.write_maps({key: change(map_, place) for place, (key, map_) in enumerate(maps.items())})


def spots(map_: np.ndarray, place: int) -> np.ndarray:
    """One bright cell for each word, in a place of its own."""
    rng = np.random.default_rng(place)
    cells = rng.permutation(map_[0].size)[: len(map_)]
    return np.eye(map_[0].size, dtype=np.float16)[cells].reshape(map_.shape)


def test_equal_maps_look_at_the_same_places(scored_run: Path, copy_run) -> None:
    gaze = compared(scored_run, copy_run("same")).against[0].explanations.gaze
    assert gaze is not None
    assert gaze.cosine.value == pytest.approx(1)
    assert gaze.cosine.n == IMAGES
    assert gaze.words == 7 * IMAGES
    assert gaze.null < 0.9


def test_maps_shuffled_among_words_lie_at_the_null(copy_run) -> None:
    one, shuffled = copy_run("one"), copy_run("shuffled")
    rewrite_maps(one, spots)

    def shuffle(map_: np.ndarray, place: int) -> np.ndarray:
        words = spots(map_, place)
        return words[np.random.default_rng([7, place]).permutation(len(words))]

    rewrite_maps(shuffled, shuffle)
    comparison = compared(one, shuffled)
    gaze = comparison.against[0].explanations.gaze
    assert gaze is not None
    assert gaze.excess.low is not None
    assert gaze.excess.high is not None
    assert gaze.excess.low <= 0 <= gaze.excess.high
    assert gaze.null == pytest.approx(1 / 7, abs=0.05)
    assert answers(comparison)[2] == "Yes, elsewhere"
    assert answers(compared(one, one))[2] == "No, at the same places"


def test_maps_of_half_the_words_are_partly_at_the_same_places(copy_run) -> None:
    one, half = copy_run("one"), copy_run("half")
    rewrite_maps(one, spots)
    rewrite_maps(
        half, lambda map_, place: np.concatenate([spots(map_, place)[:4], spots(map_, place)[[5, 6, 4]]])
    )
    comparison = compared(one, half)
    gaze = comparison.against[0].explanations.gaze
    assert gaze is not None
    assert gaze.cosine.value == pytest.approx(4 / 7)
    assert answers(comparison)[2] == "Partly"


def test_captions_that_share_no_word_have_no_gaze_to_compare(scored_run: Path, copy_run) -> None:
    other = copy_run("other")
    edit_captions(other, lambda row: dataclasses.replace(row, words=("pink",), caption="pink"))
    found = compared(scored_run, other).against[0].explanations
    assert found.gaze is None
    assert found.notes == (
        "No image that both explained has two words that both captions share, with maps of attention.",
    )


def gaze_of(low: float, high: float, null: float = 0.4) -> Gaze:
    middle = (low + high) / 2
    return Gaze(Interval(null + middle, null, 1.0, 9), null, Interval(middle, low, high, 9), 20)


@pytest.mark.parametrize(
    ("gaze", "answer"),
    [
        (gaze_of(-0.1, 0.19), "Yes, elsewhere"),
        (gaze_of(-0.1, 0.21), "Can’t be said"),
        (gaze_of(-0.1, 0.21)._replace(excess=Interval(0.1, None, None, 1)), "Can’t be said"),
        (gaze_of(0.01, 0.3), "Partly"),
        (gaze_of(0.3, 0.6), "No, at the same places"),
    ],
)
def test_looking_elsewhere_needs_evidence_and_not_its_lack(gaze: Gaze, answer: str) -> None:
    finding = _elsewhere("second", ExplanationComparison((), gaze, ()))
    assert finding.answer == answer
    assert any("interval" in sentence for sentence in finding.sentences) == (answer == "Can’t be said")


def test_a_run_that_looks_at_nothing_does_not_look_elsewhere(scored_run: Path, copy_run) -> None:
    other = copy_run("even")
    edit_captions(other, lambda row: dataclasses.replace(row, attention_entropy=0.99))
    finding = next(
        f for f in compared(scored_run, other).against[0].verdict if "look elsewhere" in f.question
    )
    assert finding.answer == "At nothing in particular"
    assert finding.sentences[0].startswith("“even” spreads its attention evenly: mean entropy 0.990")


def test_maps_on_another_grid_are_pooled_and_the_page_says_so(scored_run: Path, copy_run) -> None:
    coarse = copy_run("coarse")

    def block(map_: np.ndarray, place: int) -> np.ndarray:
        return map_.reshape(len(map_), 7, 2, 7, 2).sum((2, 4), dtype=np.float64).astype(np.float16)

    rewrite_maps(coarse, block)
    found = compared(scored_run, coarse).against[0].explanations
    assert found.gaze is not None
    assert found.gaze.cosine.value == pytest.approx(1, abs=1e-4)
    assert found.notes == (
        "The attention grid has 14 × 14 cells in “first” and 7 × 7 in “coarse”: to be compared, maps are pooled by "
        "area to 7 × 7.",
    )


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_pooling_keeps_sums_and_an_even_map_even(rows: int, columns: int, seed: int) -> None:
    maps = np.random.default_rng(seed).random((2, 9, 9))
    small = pooled(maps, (rows, columns))
    assert small.shape == (2, rows, columns)
    assert np.allclose(small.sum((1, 2)), maps.sum((1, 2)))
    assert np.allclose(pooled(np.ones((1, 9, 9)), (rows, columns)), 81 / (rows * columns))


def test_planted_differences_of_measures_are_found_and_corrected_within_their_family(
    scored_run: Path, copy_run
) -> None:
    other = copy_run("other")
    frame = RunStore(other).read_attributions()
    assert frame is not None
    ours = frame["method"] == "attention"
    RunStore(other).write_attributions(frame.assign(
        mass=frame["mass"].where(~ours, frame["mass"] - 0.125),
        share_now=frame["share_now"].where(~ours | (frame["word_class"] != "function"), 0.9),
    ))  # fmt: skip
    tests = {t.measure.column: t for t in compared(scored_run, other).against[0].explanations.tests}
    assert set(tests) == {"pointing", "mass", "auc", "abpc_cells", "permute_drop", "share_now", "cosine"}
    mass = tests["mass"]
    assert mass.test.difference == pytest.approx(-0.125)
    assert mass.outcome == "▼ worse"
    assert mass.adjusted_p == pytest.approx(3 * mass.test.p_differs)
    assert tests["auc"].outcome == tests["pointing"].outcome == "= level"
    assert tests["share_now"].test.difference == 0, "function words are left out"
    words = frame[ours & (frame["image_id"] == "scene-000")]["mass"].dropna()
    assert len(words) == 5, "function words have no mass"


def test_places_from_other_regions_leave_localisation_out_with_a_note(copy_run) -> None:
    one, other = copy_run("one"), copy_run("other")
    edit(one, provenance=provenance(one, regions="aa"))
    explained = compared(one, other).against[0].explanations
    assert {t.measure.column for t in explained.tests} == {
        "abpc_cells",
        "permute_drop",
        "share_now",
        "cosine",
    }
    assert explained.notes == (
        "Pointing, mass and AUC are not compared: the places of words come from different regions files, or one run "
        "had none.",
    )
    edit(other, provenance=provenance(other, regions="aa"))
    assert compared(one, other).against[0].explanations.notes == ()


def test_other_grids_and_baselines_are_warned_of(copy_run) -> None:
    first, second = copy_run("first"), copy_run("second")
    record = RunStore(second).read_run()
    assert record.model is not None
    assert record.explanations is not None
    edit(
        second,
        model=dataclasses.replace(record.model, grid=(7, 7)),
        explanations=dataclasses.replace(record.explanations, annotation_baseline="zeros"),
    )
    grids, baselines = compared(first, second).warnings
    assert grids == (
        "“first” and “second” have other attention grids, 14 × 14 and 7 × 7 cells: measures of maps do not compare "
        "across grids."
    )
    assert "“zeros”: ABPC and the cosine with integrated gradients do not compare." in baselines


def test_a_method_that_breaks_its_own_sum_is_left_out_as_in_the_report(scored_run: Path, copy_run) -> None:
    bad = copy_run("bad")
    frame = RunStore(bad).read_attributions()
    assert frame is not None
    errors = frame["completeness_error"].where(frame["method"] != "grid_integrated_gradients", 0.4)
    RunStore(bad).write_attributions(frame.assign(completeness_error=errors))
    found = compared(scored_run, bad).against[0].explanations
    assert "cosine" not in {test.measure.column for test in found.tests}
    (note,) = found.notes
    assert "“bad” is left out: its sum misses the score difference it should add up to by 40 %." in note


def test_attention_that_failed_a_gate_is_left_out_with_the_reason(scored_run: Path, copy_run) -> None:
    bad = copy_run("bad")
    explained = RunStore(bad).read_run().explanations
    assert explained is not None
    gate = GateRow("attention", "causality", False, 1.0, 0.0, 9, "it looks ahead")
    edit(bad, explanations=dataclasses.replace(explained, gates=(*explained.gates, gate)))
    comparison = compared(scored_run, bad)
    assert comparison.against[0].explanations.tests == ()
    assert comparison.against[0].explanations.notes == ("Attention of “bad” is left out: it looks ahead.",)
    assert answers(comparison)[2] == "Can’t be said"


def test_attention_that_failed_the_sanity_check_is_left_out(scored_run: Path, copy_run) -> None:
    bad = copy_run("bad")
    frame = pd.DataFrame({
        "image_id": [f"scene-{n:03d}" for n in range(10)] * 2, "test": "cascade", "method": "attention",
        "stage": ["output"] * 10 + ["encoder"] * 10, "order": [0] * 10 + [1] * 10, "cosine": 0.9,
        "spearman": [0.1] * 10 + [0.9] * 10, "entropy_rise": np.nan, "words": 5, "reason": None,
    })  # fmt: skip
    RunStore(bad).write_sanity(frame)
    (note,) = compared(scored_run, bad).against[0].explanations.notes
    assert "“bad” is left out: its maps stay alike when every weight is random" in note
    RunStore(bad).write_sanity(frame.assign(spearman=frame["spearman"].to_numpy()[::-1]))
    assert compared(scored_run, bad).against[0].explanations.notes == ()


def test_attention_spread_is_compared_over_all_captions(copy_run) -> None:
    one, other = copy_run("one"), copy_run("other")
    for run, value in ((one, 0.25), (other, 0.5)):
        edit_captions(run, lambda row, value=value: dataclasses.replace(row, attention_entropy=value))
        edit(run, explanations=None)
    (found,) = compared(one, other).against[0].explanations.tests
    assert found.measure.column == "attention_entropy"
    assert (found.test.difference, found.outcome) == (0.25, "▲ higher")


def speed_record(factor: float = 1.0, **fields: object) -> SpeedRecord:
    ratios = tuple(factor * ratio for ratio in (1.0, 1.01, 0.99, 1.0, 1.002))
    row = SpeedRow("decode", {"images": 16}, ratios, ratios, {}, None)
    return dataclasses.replace(SpeedRecord("a processor", "cpu", 1, "2.15.0", (row,)), **fields)


@pytest.mark.parametrize(
    ("factor", "outcome", "answer"),
    [
        (1.5, "slower", "No, slower"),
        (1 / 1.5, "faster", "Yes"),
        (1.0, "same", "No difference beyond 20\u00a0%"),
    ],
)
def test_planted_slowness_is_found(copy_run, factor: float, outcome: str, answer: str) -> None:
    one, other = copy_run("one"), copy_run("other")
    RunStore(one).write_speed(speed_record())
    RunStore(other).write_speed(speed_record(factor))
    comparison = compared(one, other)
    rows = comparison.against[0].speed.rows
    assert [row.clock for row in rows] == ["CPU time", "wall time"]
    assert {row.pace.outcome for row in rows} == {outcome}
    assert rows[0].pace.slowdown == pytest.approx(factor - 1)
    assert answers(comparison)[3] == answer


def test_a_speed_up_that_could_hide_in_the_noise_is_not_called_the_same(copy_run) -> None:
    runs = [copy_run("one"), copy_run("other")]
    for run, ratios in zip(runs, ((1.0, 1.0, 1.0, 1.0), (0.8, 0.85, 0.95, 1.0)), strict=True):
        row = SpeedRow("decode", {"images": 16}, ratios, ratios, {}, None)
        RunStore(run).write_speed(dataclasses.replace(speed_record(), rows=(row,)))
    for pair, unlikely in ((runs, "low"), (runs[::-1], "high")):
        comparison = compared(*pair)
        pace = comparison.against[0].speed.rows[0].pace
        assert abs(getattr(pace, unlikely)) > 0.19
        assert pace.outcome == "inconclusive"
        assert answers(comparison)[3] == "Too noisy to tell"
        grid = paces(comparison.against[0])
        assert grid is not None
        assert grid.columns[0].value == "Change, with 90 % interval"
        assert "of time (90 % interval " in grid.groups[""][0].cells[0].value


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"threads": 2, "torch": "3"}, "Times are not compared: the runs were timed on another number of "
         "threads and version of PyTorch."),
        ({"processor": "another"}, "Times are not compared: the runs were timed on another processor."),
        ({"rows": (dataclasses.replace(speed_record().rows[0], sizes={"images": 8}),)},
         "“decode” is not compared: it was timed at other sizes."),
        ({"rows": ()}, "“decode” was timed in “one” alone."),
    ],
)  # fmt: skip
def test_times_that_do_not_compare_say_why(copy_run, fields: dict, note: str) -> None:
    one, other = copy_run("one"), copy_run("other")
    RunStore(one).write_speed(speed_record())
    RunStore(other).write_speed(speed_record(**fields))
    comparison = compared(one, other)
    assert comparison.against[0].speed == ((), (note,))
    assert answers(comparison)[3] == "Can’t be said"


def test_a_run_whose_speed_was_not_measured_is_named(copy_run) -> None:
    one, other = copy_run("one"), copy_run("other")
    RunStore(one).write_speed(speed_record())
    assert compared(one, other).against[0].speed.notes == ("Speed was not measured in “other”.",)


def test_settings_in_which_runs_differ_are_listed_without_folders(copy_run) -> None:
    one, other = copy_run("one"), copy_run("other")
    edit(one, config={"seed": 0, "checkpoint": "/home/ann/models/a.pth", "beam_sizes": [1, 5]})
    edit(
        other,
        config={"seed": 0, "checkpoint": "/home/ann/models/b.pth"},
        provenance=provenance(other, data="cd" * 32),
    )
    found = dict(compared(one, other).settings)
    assert found == {
        "settings: checkpoint": ("…/a.pth", "…/b.pth"),
        "settings: beam_sizes": ("[1, 5]", None),
        "sha256: data": ("ef" * 6, "cd" * 6),
    }
    with_paths = dict(compared(one, other, with_paths=True).settings)
    assert with_paths["settings: checkpoint"][0] == "/home/ann/models/a.pth"


def test_settings_that_differ_in_a_folder_alone_are_listed(copy_run) -> None:
    one, other = copy_run("one"), copy_run("other")
    edit(one, config={"checkpoint": "/home/ann/old/best.pth"})
    edit(other, config={"checkpoint": "/home/ann/new/best.pth"})
    comparison = compared(one, other)
    assert comparison.settings == (("settings: checkpoint", ("…/best.pth", "…/best.pth")),)
    grid = settings_table(comparison)
    assert grid is not None
    assert "shown alike differ in what is cut" in grid.caption


def test_a_list_of_settings_that_is_cut_says_so(copy_run) -> None:
    one, other = copy_run("one"), copy_run("other")
    edit(other, config={f"setting {n}": n for n in range(MOST_SETTINGS + 20)})
    comparison = compared(one, other)
    grid = settings_table(comparison)
    assert grid is not None
    assert len(grid.groups[""]) == MOST_SETTINGS
    assert f"The first 100 of {len(comparison.settings)} are listed" in grid.caption
    assert len(json.loads(as_json(comparison))["settings"]) == len(comparison.settings) >= MOST_SETTINGS + 20


def test_images_that_are_shown_alike_are_numbered_everywhere(copy_run) -> None:
    runs = [copy_run("one"), copy_run("other")]
    for run in runs:
        folders = {"scene-000": "/home/a/x.jpg", "scene-001": "/home/b/x.jpg"}
        frame = RunStore(run).read_scores()
        assert frame is not None
        write_scores(run, frame.assign(image_id=frame["image_id"].replace(folders)))
        edit_captions(
            run,
            lambda row, folders=folders: dataclasses.replace(
                row, image_id=folders.get(row.image_id, row.image_id)
            ),
        )
    edit_captions(runs[1], lambda row: dataclasses.replace(row, words=("pink",), caption="pink"))
    shown = shown_ids(with_paths=False)
    comparison = compared(*runs)
    (captions,) = json.loads(as_json(comparison, shown=shown))["captions"]
    names = [row["image_id"] for row in captions["changed"]]
    assert len(set(names)) == IMAGES
    assert {"…/x.jpg", "…/x.jpg (2)"} <= set(names)
    assert told_ids(comparison, shown)["/home/b/x.jpg"] == "…/x.jpg (2)"


def test_mixed_outcomes_are_called_mixed(scored_run: Path, copy_run) -> None:
    mixed = copy_run("mixed")
    frame = RunStore(mixed).read_scores()
    assert frame is not None
    write_scores(mixed, frame.assign(**{"CIDEr": frame["CIDEr"] - 1, "ROUGE-L": frame["ROUGE-L"] + 0.01}))
    comparison = compared(scored_run, mixed)
    assert answers(comparison)[0] == "Mixed"
    assert "Beyond noise it is better in ROUGE-L." in comparison.against[0].verdict[0].sentences
    assert comparison.best == (0, 1)


def test_the_best_of_three_is_named(scored_run: Path, copy_run) -> None:
    bad, worst = copy_run("bad"), copy_run("worst")
    worsen(bad, 13, by=1.0)
    worsen(worst, 26, by=2.0)
    comparison = compared(bad, scored_run, worst)
    assert comparison.best == (1,)
    (finding,) = comparison.verdict
    assert finding.answer == "“first”"
    assert finding.sentences == ("No run beats “first”; “bad” and “worst” are beaten.",)
    assert [[cell and cell.outcome for cell in line] for line in matrix(comparison, "CIDEr")] == [
        [None, "worse", "better"], ["better", None, "better"], ["worse", "worse", None],
    ]  # fmt: skip


def test_the_json_is_strict_whole_and_the_same_again(scored_run: Path, copy_run) -> None:
    worse = copy_run("worse")
    worsen(worse, 3, by=1.0)
    text = as_json(compared(scored_run, worse, command="gazebench compare a b"))
    assert text == as_json(compared(scored_run, worse, command="gazebench compare a b"))
    content = json.loads(text, parse_constant=pytest.fail)
    assert {
        "schema_version",
        "runs",
        "metrics",
        "pairs",
        "captions",
        "explanations",
        "speed",
        "verdict",
        "warnings",
    } <= set(content)
    assert [run["name"] for run in content["runs"]] == ["first", "worse"]
    (captions,) = content["captions"]
    assert [row["image_id"] for row in captions["lost_most"]] == ["scene-000", "scene-001", "scene-002"]
    assert [row["difference"] for row in captions["changed"]] == pytest.approx([-1, -1, -1])
    (pair,) = content["pairs"]
    assert [test["metric"] for test in pair["tests"]] == TESTED
    assert content["explanations"][0]["gaze"]["cosine"]["value"] == pytest.approx(1)


def test_markdown_and_terminal_tell_verdict_scores_and_losses(scored_run: Path, copy_run) -> None:
    worse = copy_run("worse")
    worsen(worse, 13, by=1.0)
    comparison = compared(scored_run, worse, copy_run("third"))
    markdown, text = as_markdown(comparison), as_text(comparison)
    assert "- Is “worse” better than “first”? **No, worse.**" in markdown
    assert "| CIDEr | worse |" in markdown
    assert "| worse | ▼ worse −0.500 | – | ▼ worse −0.500 |" in markdown
    assert markdown.count("<ins>pink</ins>") == 5
    assert "Is “worse” better than “first”? No, worse.\n" in text
    assert "▼ worse" in text
    assert all(metric in text for metric in TESTED)
    assert metric_names(pd.DataFrame(columns=TESTED)) == TESTED
