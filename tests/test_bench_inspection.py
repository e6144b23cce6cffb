"""`gazebench inspect`, `convert`, `explain` and `throughput` on checkpoints of our own and of others."""

import json
from pathlib import Path

import pytest
import torch
from foreign_layouts import make_tutorial, save, tutorial_checkpoint, word_map, write_word_map
from safetensors.torch import load_file

from bench.cli import main
from bench.data.scenes import make_scene

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "models" / "demo" / "scenes.safetensors"


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory):
    """A file of the tutorial's program, with its word map beside it, and the modules that were saved."""
    folder = tmp_path_factory.mktemp("tutorial")
    encoder, decoder = make_tutorial()
    save(tutorial_checkpoint(encoder, decoder), folder / "BEST_checkpoint_toy.pth.tar", legacy=True)
    write_word_map(folder)
    return folder / "BEST_checkpoint_toy.pth.tar", encoder, decoder


@pytest.fixture
def picture(tmp_path):
    make_scene("test", 3).picture().save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


def test_inspect_says_what_a_foreign_file_is_and_what_is_unusual(tutorial, capsys):
    assert main(["inspect", str(tutorial[0])]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for part in (
        "legacy stream of torch.save", "sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning", "256 x 256 pixels, squashed",
        "resnet18, 14 x 14 annotation vectors of 512 numbers", "embedding 11, hidden 13, attention 9",
        "relu attention, linear initial state, vector gate, plain output layer", f"{len(word_map())} words",
        "start <start>", "epoch 7", "words from WORDMAP_toy.json", "the source text of",
        "pooled up from 8 x 8 cells",
    ):  # fmt: skip
        assert part in out


def test_inspect_as_json_holds_every_dimension(tutorial, capsys):
    assert main(["inspect", str(tutorial[0]), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    _, encoder, decoder = tutorial
    assert about["layout"] == "sgrvinod"
    assert about["encoder"] == {"name": "resnet18", "grid": 14}
    assert about["decoder"]["vocabulary_size"] == about["vocabulary"]["words"] == decoder.fc.out_features
    assert about["vocabulary"]["special"]["end"] == {"id": word_map()["<end>"], "text": "<end>"}
    assert about["parameters"] == {
        "encoder": sum(p.numel() for p in encoder.parameters()),
        "decoder": sum(p.numel() for p in decoder.parameters()),
    }


def test_inspect_prints_no_line_that_a_word_or_a_file_name_made_up(tutorial, tmp_path, capsys):
    words = [f"x\n  note        verified {number}" for number in range(len(word_map()) - 4)]
    given = write_word_map(tmp_path, words=word_map(words))
    assert main(["inspect", str(tutorial[0]), "--word-map", str(given)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert not any(line.startswith("  note        verified") for line in lines)


def test_inspect_knows_our_own_checkpoint(capsys):
    assert main(["inspect", str(DEMO), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert (about["layout"], about["origin"]) == ("native", "gazebench train")
    assert about["training"]["preset"] == "scenes"


def test_converted_tensors_are_those_of_the_file_bit_by_bit(tutorial, tmp_path, capsys):
    path, encoder, decoder = tutorial
    out = tmp_path / "model.safetensors"
    assert main(["convert", str(path), "-o", str(out)]) == 0
    tensors = load_file(out)
    for name, tensor in encoder.resnet.state_dict().items():
        assert torch.equal(tensors[f"encoder.trunk.{name}"], tensor)
    kept = {tensor.numpy().tobytes() for name, tensor in tensors.items() if name.startswith("decoder.")}
    assert kept == {tensor.numpy().tobytes() for tensor in decoder.state_dict().values()}
    capsys.readouterr()
    assert main(["inspect", str(out), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["origin"] == "gazebench convert"
    assert about["training"]["converted_from"] == path.name


def test_convert_overwrites_nothing(tutorial, tmp_path, capsys):
    out = tmp_path / "model.safetensors"
    out.write_text("mine")
    assert main(["convert", str(tutorial[0]), "-o", str(out)]) == 2
    assert "exists; give another name" in capsys.readouterr().err
    assert out.read_text() == "mine"


def test_a_converted_checkpoint_says_the_same_as_the_file_it_was(tutorial, picture, tmp_path, capsys):
    out = tmp_path / "model.safetensors"
    assert main(["convert", str(tutorial[0]), "-o", str(out)]) == 0
    capsys.readouterr()
    said = []
    for checkpoint in (tutorial[0], out):
        assert main(["caption", str(checkpoint), str(picture), "--json", "--decoding", "tutorial"]) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said[0] == said[1]


def test_a_caption_that_did_not_end_is_marked(picture, capsys):
    assert main(["caption", str(DEMO), str(picture), "--max-steps", "3"]) == 0
    assert capsys.readouterr().out.endswith(" … (unfinished)\n")


def test_throughput_refuses_what_the_suite_did_not_write(tmp_path, capsys):
    (tmp_path / "other.json").write_text('{"benchmarks": []}')
    assert main(["throughput", str(tmp_path / "other.json")]) == 2
    assert "was not written by this throughput suite" in capsys.readouterr().err
