"""The command line, end to end, on the demo model and on files of strangers."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.cli import main
from bench.config import EvalConfig, SearchConfig
from bench.data.scenes import make_scene
from bench.opening import _provenance
from bench.rescoring import _frequencies_sha256
from bench.run_stages import _explicable
from bench.stages.decode import decode
from models.formats import load_checkpoint
from reports.records import CaptionRow
from reports.store import RunStore

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "models" / "demo" / "scenes.safetensors"
BRIEFLY = ("--methods", "grid_gradient")  # where a test is about something else


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small evaluation of the demo model on scenes."""
    out = tmp_path_factory.mktemp("runs") / "small"
    assert main(["eval", "--limit", "6", "--explain", "3", "--out", str(out)]) == 0
    return out


def photos(folder, count=4):
    """A Flickr8k-like data set of drawn pictures: captions.txt and Images/."""
    (folder / "Images").mkdir(parents=True)
    lines = ["image,caption"]
    for index in range(count):
        scene = make_scene("test", index)
        scene.picture().resize((150, 100)).save(folder / "Images" / f"photo {index}.jpg", quality=95)
        lines += [f'"photo {index}.jpg","{reference} ."' for reference in scene.references]
    (folder / "captions.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_a_run_directory_holds_every_file_of_the_contract(run):
    names = {path.name for path in run.iterdir()}
    expected = {
        "run.json",
        "captions.jsonl",
        "scores.parquet",
        "attributions.parquet",
        "maps.npz",
        "sanity.parquet",
        "interventions.parquet",
        "thumbs",
        "report.html",
        "throughput.json",
        "failures.jsonl",
    }
    assert expected <= names
    record = RunStore(run).read_run()
    assert record.status == "finished"
    timed = ["decode: pictures", "decode: beam size 1", "decode: beam size 3", "decode: beam size 5"]
    stages = ["decode", *timed, "retrieve", "score", "explain", "intervene", "speed"]
    assert [stage.name for stage in record.stages] == stages
    assert record.images.done == 6
    assert {row.beam_size for row in record.metrics} == {1, 3, 5}
    by_name = {row.name: row for row in record.metrics if row.beam_size == 5}
    for name in ("BLEU-1", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr", "Exact match", "True colour words"):
        row = by_name[name]
        assert row.value is not None
        assert row.ci_low <= row.value <= row.ci_high


def test_the_demo_model_says_what_is_there_and_looks_where_it_speaks(run):
    record = RunStore(run).read_run()
    truths = [row.value for row in record.metrics if row.name.startswith("True ") and row.beam_size == 5]
    assert truths == [1.0, 1.0, 1.0]
    rows = pd.read_parquet(run / "attributions.parquet")
    content = rows[rows["word_class"].isin(["colour", "shape"])]
    assert content.loc[content["method"] == "attention", "pointing"].mean() > 0.7
    uniform = content[content["method"] == "uniform"]
    np.testing.assert_allclose(uniform["lift"], 1.0, atol=1e-6)
    assert (uniform["auc"] == 0.5).all()
    oracle = content[content["method"] == "oracle"]
    for measure in ("mass", "rank", "auc", "pointing", "topm_iou", "inside_outside"):
        np.testing.assert_allclose(oracle[measure], 1.0, atol=1e-12)


def test_integrated_gradients_are_complete_and_path_shares_sum_to_one(run):
    rows = pd.read_parquet(run / "attributions.parquet")
    grid = rows[rows["method"] == "grid_integrated_gradients"]
    assert grid["completeness_error"].median() <= 0.01
    attention = rows[rows["method"] == "attention"]
    np.testing.assert_allclose(
        attention[["share_now", "share_past", "share_init"]].sum(axis=1), 1.0, atol=1e-4
    )
    assert attention["path_sum_error"].max() < 1e-4


def test_function_words_have_no_localisation_but_a_reason(run):
    rows = pd.read_parquet(run / "attributions.parquet")
    function = rows[rows["word_class"] == "function"]
    assert function["mass"].isna().all()
    assert (function["reason"] == "a function word has no place").all()


def test_the_same_command_again_decodes_nothing_and_finds_the_same_scores(run, capsys):
    before, captions = RunStore(run).read_run(), (run / "captions.jsonl").read_bytes()
    assert main(["eval", "--limit", "6", "--explain", "3", "--out", str(run)]) == 0
    assert (run / "captions.jsonl").read_bytes() == captions
    assert RunStore(run).read_run().metrics == before.metrics
    capsys.readouterr()


def test_a_run_of_something_else_in_the_same_folder_is_refused_and_kept(run, capsys):
    before = (run / "run.json").read_bytes()
    assert main(["eval", "--limit", "5", "--explain", "3", "--out", str(run)]) == 2
    assert "holds a run of another checkpoint, data set or options" in capsys.readouterr().err
    assert (run / "run.json").read_bytes() == before


def test_captions_are_the_same_for_every_batch_size(tmp_path):
    captioner = load_checkpoint(DEMO).captioner
    images = [make_scene("test", index) for index in range(64)]
    said = []
    for size in (1, 7, 64):
        store = RunStore(tmp_path / str(size))
        decode(captioner, images, store, beam_sizes=(1, 3, 5), batch_size=size, begin=lambda: None)
        said.append(sorted((row.image_id, row.beam_size, row.token_ids) for row in store.read_captions()))
    assert said[0] == said[1] == said[2]


def test_one_image_has_no_cider_but_a_reason_and_json_prints_what_run_json_holds(tmp_path, capsys):
    out = tmp_path / "one"
    assert (
        main(
            [
                "eval",
                "--limit",
                "1",
                "--explain",
                "1",
                *BRIEFLY,
                "--beam-size",
                "2",
                "--out",
                str(out),
                "--json",
            ]
        )
        == 0
    )
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((out / "run.json").read_text())
    cider = next(row for row in printed["metrics"] if row["name"] == "CIDEr")
    assert cider["value"] is None
    assert "two images" in cider["reason"]
    assert (out / "report.html").exists()


def test_a_folder_of_pictures_with_a_broken_one_is_evaluated_and_the_broken_one_listed(tmp_path, capsys):
    folder = photos(tmp_path / "data")
    whole = (folder / "Images" / "photo 1.jpg").read_bytes()
    (folder / "Images" / "photo 1.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "Images" / "photo 2.jpg").unlink()
    out = tmp_path / "run"
    assert (
        main(
            [
                "eval",
                str(DEMO),
                "--data",
                str(folder),
                "--split",
                "all",
                "--explain",
                "2",
                *BRIEFLY,
                "--out",
                str(out),
            ]
        )
        == 0
    )
    record = RunStore(out).read_run()
    assert (record.images.expected, record.images.done, record.images.failed) == (3, 2, 1)
    assert record.data.missing == ("photo 2.jpg",)
    (failure,) = RunStore(out).read_failures()
    assert failure.image_id == "photo 1.jpg"
    assert record.explanations.reason == "this data set does not say where its words are in the pictures"
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "missing.safetensors"], "does not exist"),
        (["eval", "--data", "nowhere"], "there is no data set 'nowhere'"),
        (["eval", "--data", "scenes:upside-down"], "there are no scenes"),
        (["eval", "--images", "photos"], "scenes are drawn"),
        (["eval", "--split", "exam"], "there is no split 'exam'"),
        (["eval", "--limit", "0"], "--limit is 0; expected at least 1"),
        (["eval", "--beam-size", "0"], "expected sizes from 1 to 100"),
        (["eval", "--beam-size", "3", "3"], "name it once"),
        (["eval", "--explain", "some"], "expected a number of images, or all"),
        (["eval", "--device", "tpu9"], "--device tpu9 can't be used"),
        (["eval", "--encoder-dtype", "int8"], "--encoder-dtype is 'int8'; expected float32 or bfloat16"),
        (["eval", "--encoder-weights", "nowhere.pth", str(DEMO), "--decoding", "own"], "--decoding is 'own'"),
        (["eval", "--n-best", "6"], "--n-best is 6; a beam of 5 holds no more than 5"),
        (["eval", "--n-best", "0"], "--n-best is 0; expected at least 1"),
        (["eval", "--length-exponent", "-1"], "--length-exponent is -1.0; expected 0 to 10"),
        (["eval", "--length-exponent", "nan"], "--length-exponent is nan; expected 0 to 10"),
        (["eval", "--no-repeat", "-2"], "--no-repeat is -2; expected at least 0"),
        (["eval", "--max-steps", "0"], "--max-steps is 0; expected 1 to 1000"),
        (
            ["eval", "--decoding", "tutorial", "--length-exponent", "0.7", "--no-repeat", "2"],
            "--decoding tutorial is the tutorial's own search, which has no --length-exponent and --no-repeat",
        ),
        (
            ["eval", "--decoding", "tutorial", "--forbid-unknown"],
            "has no --forbid-unknown; leave one of them out",
        ),
        (["train", "--encoder-weights", "IMAGENET1K_V1"], "the scene encoder has no published weights"),
        (["train", "--preset", "mine"], "there is no preset 'mine'; known presets: scenes"),
        (["train", "--preset", "photos-small"], "brings no data set; name one with --data"),
        (["caption", str(DEMO), "no.jpg"], "no.jpg"),
        (["report", "nowhere"], "is not a directory"),
    ],
)
def test_mistakes_end_in_one_sentence_and_exit_code_two(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert error.count("\n") == 0
    assert list(tmp_path.iterdir()) == []


def test_pictures_that_all_fail_leave_no_run_directory(tmp_path, capsys):
    folder = photos(tmp_path / "data", count=2)
    for path in (folder / "Images").iterdir():
        path.write_bytes(b"")
    out = tmp_path / "run"
    assert main(["eval", "--data", str(folder), "--split", "all", "--out", str(out)]) == 2
    assert "not one of 2 pictures could be read" in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_that_is_no_run_is_never_touched(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    for extra in ([], ["--fresh"]):
        assert main(["eval", "--limit", "1", "--out", str(tmp_path), *extra]) == 2
        assert "is not a run directory" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_hostile_captions_reach_the_report_as_text(tmp_path, capsys):
    folder = photos(tmp_path / "data", count=2)
    hostile = [
        "a red\rcircle",
        "a\u2028b",
        "x ||| y",
        "</script><script>alert(1)</script>",
        "word " * 2000,
        "  ",
    ]
    with (folder / "captions.txt").open("a", newline="") as file:
        for caption in hostile:
            file.write(f'"photo 0.jpg","{caption}"\n')
    out = tmp_path / "run"
    assert (
        main(["eval", "--data", str(folder), "--split", "all", "--explain", "1", *BRIEFLY, "--out", str(out)])
        == 0
    )
    page = (out / "report.html").read_text()
    assert "<script>alert" not in page
    for row in RunStore(out).read_run().metrics:
        if row.name == "METEOR":
            assert row.value is None
            assert "'photo 0.jpg' has a caption or reference of 2,000 words" in row.reason
        elif row.name in ("BLEU-4", "ROUGE-L", "CIDEr"):
            assert row.value is not None
    capsys.readouterr()


def test_the_rules_of_a_run_are_part_of_its_identity_and_its_signature(tmp_path, capsys):
    out = tmp_path / "run"
    command = ["eval", "--limit", "2", "--explain", "1", *BRIEFLY, "--beam-size", "3", "--out", str(out)]
    assert main([*command, "--decoding", "tutorial", "--n-best", "2", "--encoder-dtype", "bfloat16"]) == 0
    record = RunStore(out).read_run()
    assert record.metric_signature.endswith("|decoding:tutorial|encoder:bfloat16")
    assert record.provenance.device.endswith("encoder in bfloat16")
    assert (record.config["decoding"], record.config["length_exponent"], record.config["n_best"]) == (
        "tutorial", 0.0, 2,
    )  # fmt: skip
    assert all(len(row.alternatives) == 1 for row in RunStore(out).read_captions())
    printed = capsys.readouterr().out
    assert "encoder in bfloat16" in printed
    assert "|pycocoevalcap:1.2|beam:K|decoding:tutorial|encoder:bfloat16" in printed
    assert main(command) == 2
    assert "holds a run of another checkpoint, data set or options" in capsys.readouterr().err
    assert main([*command, "--fresh", "--forbid-unknown", "--max-steps", "20"]) == 0
    assert (
        RunStore(out).read_run().metric_signature.endswith("|decoding:default|lp:0.7|unk:no|rep:0|steps:20")
    )
    capsys.readouterr()


def test_a_default_that_is_named_changes_nothing():
    assert (
        EvalConfig(search=SearchConfig(length_exponent=0.7, no_repeat=0)).as_json() == EvalConfig().as_json()
    )


def test_files_beside_the_checkpoint_are_known_by_their_hash_and_not_by_their_folder(tmp_path):
    words, weights = tmp_path / "words.json", tmp_path / "resnet.pth"
    for path in (words, weights):
        path.write_text("content")
    config = EvalConfig(word_map=words, encoder_weights=str(weights))
    captioner = load_checkpoint(DEMO).captioner
    made_with = _provenance(config, captioner, [])
    content = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    assert made_with.sha256["word_map"] == made_with.sha256["encoder_weights"] == content
    assert str(tmp_path) not in json.dumps(config.as_json())
    assert "word_map" not in _provenance(EvalConfig(), captioner, []).sha256


def test_annotations_in_a_folder_are_known_by_their_bytes_and_pictures_by_their_size(tmp_path):
    (tmp_path / "Annotations").mkdir()
    boxes, picture = tmp_path / "Annotations/1.xml", tmp_path / "1.JPG"
    captioner, found = load_checkpoint(DEMO).captioner, []
    for box, pixels in ((b"12", b"ab"), (b"13", b"ab"), (b"13", b"cd"), (b"13", b"abc")):
        boxes.write_bytes(box)
        picture.write_bytes(pixels)
        config = EvalConfig(regions=tmp_path, frequencies=tmp_path)
        made_with = _provenance(config, captioner, []).sha256
        assert (
            made_with["regions"] == made_with["frequencies"] == _frequencies_sha256(tmp_path)["frequencies"]
        )
        found.append(made_with["regions"])
    assert found[0] != found[1] == found[2] != found[3]


def test_a_caption_with_padding_in_between_is_not_explained():
    row = CaptionRow("i", 1, "a", ("a",), (4, 2), -1.0, (-1.0,), ("a",), True, None)
    assert _explicable(row)
    assert _explicable(dataclasses.replace(row, token_ids=(4,), finished=False))
    assert not _explicable(dataclasses.replace(row, token_ids=(0, 4, 2)))
    assert not _explicable(dataclasses.replace(row, words=(), token_ids=(2,)))


def test_an_interrupted_run_says_how_to_go_on_and_does(tmp_path):
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-P",
        "-m",
        "bench.cli",
        "eval",
        "--limit",
        "60",
        "--batch-size",
        "2",
        "--explain",
        "0",
        "--out",
        str(out),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list(out.glob("captions.*.jsonl")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "the same command goes on from here" in errors
    assert RunStore(out).read_run().status == "interrupted"
    kept = RunStore(out).read_captions()
    assert 0 < len(kept) < 180
    assert main(["eval", "--limit", "60", "--batch-size", "4", "--explain", "0", "--out", str(out)]) == 0
    rows = RunStore(out).read_captions()
    assert all(row in rows for row in kept)
    assert len({(row.image_id, row.beam_size) for row in rows}) == len(rows) == 180


STOPPED, FULL = KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("name", "fresh", "error"),
    [
        *(("eval", fresh, error) for fresh in ([], ["--fresh"], ["--fres"]) for error in (STOPPED, FULL)),
        ("train", ["--fresh"], STOPPED),
        ("train", ["--fresh"], FULL),
    ],
)
def test_the_command_that_goes_on_does_not_start_over(tmp_path, monkeypatch, capsys, name, fresh, error):
    def broken_off(*_, **__):
        raise error

    arguments = [name, *fresh, "--limit", "2", "--out", str(tmp_path / "out")]
    for what in ("bench.runner.evaluate", "bench.training.train.train"):
        monkeypatch.setattr(what, broken_off)
    monkeypatch.setattr(sys, "argv", ["gazebench", *arguments])
    main(arguments)
    told = capsys.readouterr().err
    assert "--fres" not in told
    assert ("the same command goes on from" in told) == (not fresh)
    assert "goes on from" in told
    if fresh or isinstance(error, KeyboardInterrupt):
        assert f"gazebench {name} --limit 2 --out {tmp_path / 'out'}" in told


def test_help_starts_without_the_heavy_libraries():
    probe = (
        "import sys; from bench.cli import _parser; _parser(); print({'torch', 'numpy'} & set(sys.modules))"
    )
    assert (
        subprocess.run([sys.executable, "-P", "-c", probe], capture_output=True, text=True, check=True).stdout
        == "set()\n"
    )


def test_a_models_package_of_somebody_else_is_not_used(tmp_path):
    (tmp_path / "models.py").write_text("raise SystemExit('taken over')")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    probe = "import sys; sys.argv = ['gazebench']; from bench.cli import main; sys.exit(main(['report', 'nowhere']))"
    result = subprocess.run(
        [sys.executable, "-P", "-c", probe], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "is not a directory" in result.stderr
