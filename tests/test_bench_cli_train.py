"""`gazebench train` as a user meets it, and its training directory as a checkpoint."""

import json
import socket

import pytest
import torch

from bench.cli import _parser, main
from bench.commands import _training_name
from bench.data.scenes import make_scene
from bench.provenance import file_sha256
from bench.training.presets import PRESETS, changed

TRIAL = ("--limit", "4", "--max-steps", "1", "--batch-size", "4", "--epochs", "1")


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    out = tmp_path_factory.mktemp("training") / "my model"
    assert main(["train", *TRIAL, "--out", str(out)]) == 0
    return out


def photos(folder):
    (folder / "Images").mkdir(parents=True)
    lines = ["image,caption"]
    for index in range(30):
        scene = make_scene("test", index)
        scene.picture().save(folder / "Images" / f"{index}.png")
        lines += [f"{index}.png,{reference}" for reference in scene.references]
    (folder / "captions.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    def refused(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)


def test_a_recipe_is_shown_and_nothing_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--preset", "paper-hard", "--batch-size", "7", "--show"]) == 0
    text = capsys.readouterr().out
    assert "arXiv:1502.03044" in text
    assert "  batch_size = 7 " in text
    assert "  hard.reinforce = 0.1 " in text
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_as_json_has_every_value_and_every_meaning(capsys):
    assert main(["train", "--preset", "tutorial-coco", "--show", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    config, told = shown["config"], shown["meanings"]
    assert [stage["trained_from"] for stage in config["stages"]] == [None, 5]
    assert config.keys() == told["training"].keys()
    assert config["decoder"].keys() <= told["decoder"].keys()
    assert config["preprocessing"].keys() <= told["preprocessing"].keys()
    assert {name for name in config["stages"][0] if name not in ("penalty", "hard")} <= told["stage"].keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "mine"], "there is no preset 'mine'; known presets: scenes, "),
        (["--preset", "paper-soft"], "preset paper-soft brings no data set; name one with --data"),
        (["--epochs", "0"], "--epochs is 0; expected at least 1"),
        (["--batch-size", "0"], "--batch-size is 0; expected at least 1"),
        (["--limit", "0"], "--limit is 0; expected at least 1"),
        (["--max-steps", "-3"], "--max-steps is -3; expected at least 1"),
        (["--self-critical", "0"], "--self-critical is 0; expected at least 1"),
        (["--precision", "int8"], "--precision is 'int8'; expected float32 or bfloat16"),
        (["--data", "nowhere"], "there is no data set 'nowhere'"),
        (["--start", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--embeddings", "nowhere.txt"], "nowhere.txt"),
        (["--device", "tpu9"], "--device tpu9 can't be used"),
    ],
)
def test_mistakes_end_in_one_sentence_and_leave_nothing(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert error.count("\n") == 0
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_training_directory_is_named_after_what_was_asked_for(tmp_path):
    def name(*arguments):
        options = _parser().parse_args(["train", *arguments])
        config = changed(PRESETS[options.preset], seed=options.seed, embeddings=options.embeddings)
        return _training_name(options, config, "scenes", options.start)

    plain = name()
    assert plain.startswith("scenes-")
    assert len(plain) == len("scenes-") + 8
    assert plain == name(
        "--device", "cuda", "--fresh", "--cache", "elsewhere"
    )  # none of them decides weights
    others = [name("--seed", "1"), name("--limit", "5"), name("--max-steps", "5")]
    vectors = tmp_path / "glove.txt"
    for content in ("dog 1", "dog 2"):  # of a file, its content counts
        vectors.write_text(content)
        others.append(name("--embeddings", str(vectors)))
    assert len({plain, *others}) == 6


def test_the_result_can_be_had_as_json_and_a_finished_training_is_left_alone(training, capsys):
    assert main(["train", *TRIAL, "--out", str(training), "--json"]) == 0
    shown = capsys.readouterr()
    record = json.loads(shown.out)
    assert record["status"] == "finished"
    assert record["config"]["limit"] == 4
    assert "nothing is left to do" in shown.err


def test_a_training_directory_stands_for_its_best_checkpoint(training, tmp_path, capsys):
    best = training / "best.safetensors"
    out = tmp_path / "run"
    options = ["--limit", "2", "--beam-size", "1", "--n-best", "1", "--explain", "0", "--retrieval", "0"]
    assert main(["eval", str(training), *options, "--out", str(out)]) == 0
    record = json.loads((out / "run.json").read_text())
    assert record["model"]["name"] == "my model"
    assert record["name"].startswith("my-model-test-")
    assert record["config"]["checkpoint"] == "best.safetensors"
    assert record["provenance"]["sha256"]["checkpoint"] == file_sha256(best)
    capsys.readouterr()
    assert main(["inspect", str(training), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["file"] == "best.safetensors"
    assert main(["convert", str(training), "-o", str(tmp_path / "model.safetensors")]) == 0
    make_scene("test", 0).picture().save(tmp_path / "scene.png")
    capsys.readouterr()
    assert main(["caption", str(training), str(tmp_path / "scene.png"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["image_id"]


def test_a_folder_that_is_no_training_is_still_no_checkpoint(tmp_path, capsys):
    assert main(["inspect", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err


def test_an_interrupted_training_says_that_the_same_command_goes_on(tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.training.train.train", interrupted)
    assert main(["train", "--out", str(tmp_path / "out")]) == 130
    assert "interrupted; the same command goes on from here" in capsys.readouterr().err


@pytest.mark.usefixtures("no_network")
def test_without_a_network_a_trial_trains_on_random_weights_and_says_so_everywhere(tmp_path, capsys):
    folder = photos(tmp_path / "data")
    given = ["train", "--preset", "photos-small", "--data", str(folder), "--encoder-weights", "IMAGENET1K_V1"]
    out = tmp_path / "trial"
    assert main([*given, *TRIAL, "--out", str(out)]) == 0
    assert "WARNING: the weights IMAGENET1K_V1 of resnet18 could not be downloaded" in capsys.readouterr().err
    record = json.loads((out / "training.json").read_text())
    assert record["model"]["weights"] == "random"
    assert "could not be downloaded" in record["warnings"][0]
    assert main([*given, "--out", str(tmp_path / "real")]) == 2
    assert "give --encoder-weights FILE, or none" in capsys.readouterr().err
    assert not list((tmp_path / "real").rglob("*.safetensors"))
