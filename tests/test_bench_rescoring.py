"""Scoring without a model, and the gate, through the command line."""

import dataclasses
import json
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from bench.cli import main
from bench.data.scenes import load_scenes
from bench.scoring import Scorer
from reports.store import RunStore

pytestmark = pytest.mark.java
OVERLAP = {"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The demo model on a few scenes, nothing explained."""
    out = tmp_path_factory.mktemp("runs") / "demo"
    assert main(["eval", "--limit", "12", "--explain", "0", "--beam-size", "1", "3", "--out", str(out)]) == 0
    return out


@pytest.fixture
def copied(run, tmp_path):
    """A copy of the run, to be changed."""
    return RunStore(shutil.copytree(run, tmp_path / "copy"))


def reword(store, change):
    """Replaces captions: `change(row)` returns the new text."""
    path = store.path / "captions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["caption"] = change(row)
        row["words"] = row["caption"].split()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def by_name(store, beam_size):
    return {row.name: row for row in store.read_run().metrics if row.beam_size == beam_size}


def test_scoring_a_run_again_finds_every_number_again(copied):
    before, frame = copied.read_run(), copied.read_scores()
    (copied.path / "report.html").unlink()
    assert main(["score", str(copied.path)]) == 0
    after = copied.read_run()
    assert after.metrics == before.metrics
    assert after.metric_signature == before.metric_signature
    assert after.status == "finished"
    pd.testing.assert_frame_equal(copied.read_scores(), frame, check_like=True)
    assert (copied.path / "report.html").exists()


def test_scoring_again_scores_what_is_stored_now_and_keeps_what_only_the_model_knows(copied):
    before = by_name(copied, 3)
    reword(copied, lambda row: "a dog" if row["beam_size"] == 3 else row["caption"])
    assert main(["score", str(copied.path)]) == 0
    after = by_name(copied, 3)
    assert after["CIDEr"].value < 0.1 * before["CIDEr"].value
    assert after["Mean length"].value == 2
    assert after["Retrieval recall@1"] == before["Retrieval recall@1"]
    assert by_name(copied, 1)["CIDEr"] == by_name(RunStore(copied.path), 1)["CIDEr"]


@pytest.mark.parametrize(
    ("name", "state"), [("captions.0.1.jsonl", ", not merged yet"), ("captions.jsonl", "")]
)
def test_a_run_that_lacks_captions_is_not_scored_but_told_how_to_finish(copied, capsys, name, state):
    captions = copied.path / "captions.jsonl"
    rows = captions.read_bytes().splitlines(keepends=True)
    captions.unlink()
    (copied.path / name).write_bytes(b"".join(rows[:10]))
    command = "gazebench eval --fresh --limit 12"
    copied.write_run(dataclasses.replace(copied.read_run(), status="interrupted", command=command))
    before = (copied.path / "run.json").read_bytes()
    assert main(["score", str(copied.path)]) == 2
    told = capsys.readouterr().err
    assert f"holds 10 of 24 captions{state}; finish it first with: gazebench eval --limit 12\n" in told
    assert (copied.path / "run.json").read_bytes() == before


def test_a_run_that_was_broken_off_before_it_was_scored_is_scored_again_when_it_is_finished(run, copied):
    before = copied.read_run()
    stages = tuple(stage for stage in before.stages if stage.name != "score")
    copied.write_run(
        dataclasses.replace(before, status="interrupted", metrics=(), metric_signature="", stages=stages)
    )
    (copied.path / "scores.parquet").unlink()
    again = ["eval", "--limit", "12", "--explain", "0", "--beam-size", "1", "3", "--out", str(copied.path)]
    assert main(["score", str(copied.path)]) == 0
    assert by_name(copied, 3)["CIDEr"] == by_name(RunStore(run), 3)["CIDEr"]
    assert "Retrieval recall@1" not in by_name(copied, 3)
    assert main(again) == 0
    assert copied.read_run().metrics == before.metrics
    pd.testing.assert_frame_equal(copied.read_scores(), RunStore(run).read_scores())
    assert not (copied.path / "unfinished").exists()


def test_every_metric_has_a_signature_that_names_beam_and_search(run):
    for row in RunStore(run).read_run().metrics:
        assert f"beam:{row.beam_size}|decoding:default" in row.signature
    assert "references:5" in by_name(RunStore(run), 3)["CIDEr"].signature


def test_the_same_captions_from_a_file_score_the_same(run, tmp_path, capsys):
    store = RunStore(run)
    said = {row.image_id: row.caption for row in store.read_captions() if row.beam_size == 3}
    results = tmp_path / "results.json"
    results.write_text(json.dumps([{"image_id": i, "caption": caption} for i, caption in said.items()]))
    out = tmp_path / "out"
    arguments = ["score", "--captions", str(results), "--references", "scenes", "--out", str(out)]
    assert main([*arguments, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    found = {row["name"]: row for row in printed["metrics"]}
    for name, row in by_name(store, 3).items():
        if name in OVERLAP:
            assert found[name]["value"] == pytest.approx(row.value, abs=1e-15)
            assert found[name]["ci_low"] == pytest.approx(row.ci_low, abs=1e-15)
            assert f"{found[name]['signature']}|beam:3|decoding:default|lp:0.7|unk:yes|rep:0" == row.signature
    assert printed["model"] is None
    assert "12,988 of 13,000 pictures with references have no caption" in printed["data"]["warnings"]
    page = (out / "report.html").read_text()
    assert "results.json" in page
    assert main(arguments) == 0  # the same command again replaces its own run
    results.write_text(json.dumps({next(iter(said)): "a red circle"}))
    assert main(arguments) == 2
    assert "holds a run of another" in capsys.readouterr().err


def test_fixed_document_frequencies_score_one_caption_and_stand_in_the_signature(tmp_path, capsys):
    scenes = load_scenes().select("test")[:20]
    references = tmp_path / "some references.json"
    references.write_text(
        json.dumps({
            "images": [
                {"filename": f"{each.image_id}.png", "sentences": [{"raw": text} for text in each.references]}
                for each in scenes
            ]
        })
    )  # fmt: skip
    results = tmp_path / "results.json"
    results.write_text(json.dumps({scenes[0].image_id: scenes[0].references[0]}))
    arguments = ["score", "--captions", str(results), "--references", str(references), "--json"]
    assert main([*arguments, "--out", str(tmp_path / "alone")]) == 0
    alone = {row["name"]: row for row in json.loads(capsys.readouterr().out)["metrics"]}
    assert alone["CIDEr"]["value"] is None
    assert "at least two images" in alone["CIDEr"]["reason"]
    assert main([*arguments, "--frequencies", str(references), "--out", str(tmp_path / "fixed")]) == 0
    fixed = {row["name"]: row for row in json.loads(capsys.readouterr().out)["metrics"]}
    assert fixed["CIDEr"]["value"] > 1
    assert "df:fixed-some_references.json-20-images" in fixed["CIDEr"]["signature"]


def test_captions_of_a_file_that_were_measured_before_a_kill_are_not_measured_again(monkeypatch, tmp_path):
    scenes = load_scenes().select("test")[:3]
    references, results, out = tmp_path / "references.csv", tmp_path / "results.json", tmp_path / "out"
    references.write_text(
        "image,caption\n"
        + "".join(f'{each.image_id}.png,"{text}"\n' for each in scenes for text in each.references)
    )
    results.write_text(json.dumps({each.image_id: each.references[0] for each in scenes}))
    arguments = ["score", "--captions", str(results), "--references", str(references), "--out", str(out)]

    def killed(*_):
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(Scorer, "scores", killed)
        with pytest.raises(MemoryError):
            main(arguments)
    assert RunStore(out).read_run().status == "running"
    assert len(list((out / "unfinished").iterdir())) == 1
    measured = []
    monkeypatch.setattr(Scorer, "measure", lambda *_, **__: measured.append(1))
    assert main(arguments) == 0
    assert not measured
    assert RunStore(out).read_run().status == "finished"
    assert by_name(RunStore(out), 0)["CIDEr"].value > 1
    assert len(RunStore(out).read_captions()) == 3
    assert not (out / "unfinished").exists()


def test_scoring_loads_no_torch():
    probe = "import sys, bench.rescoring, reports.gate, reports.gate_output; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["score"], "nothing to score was given"),
        (["score", "nowhere"], "nowhere is not a directory"),
        (["score", "--captions", "x.json"], "nothing to score was given"),
        (["score", "run", "--captions", "x.json"], "expected one or the other"),
        (["score", "--captions", "gone.json", "--references", "scenes"], "there is no file 'gone.json'"),
        (["bless", "nowhere", "-o", "b.toml"], "nowhere is not a directory"),
    ],
)
def test_mistakes_end_in_one_sentence(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_passes_the_gate_that_it_was_blessed_for(run, copied, tmp_path, capsys):
    baseline = tmp_path / "baselines" / "demo.toml"
    assert main(["bless", str(run), "-o", str(baseline)]) == 0
    assert main(["gate", str(copied.path), "--baseline", str(baseline)]) == 0
    reword(copied, lambda row: "a dog" if row["image_id"].endswith("3") else row["caption"])
    assert main(["score", str(copied.path)]) == 0
    capsys.readouterr()
    assert main(["gate", str(copied.path), "--baseline", str(baseline), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["exit_code"] == 1
    assert {"gate.json", "gate.md", "gate.junit.xml"} <= {path.name for path in copied.path.iterdir()}
    assert main(["gate", str(copied.path), "--baseline", str(tmp_path / "gone.toml")]) == 3
