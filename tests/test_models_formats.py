"""Native checkpoints: what is written is what is read, and bad files end in one clear sentence."""

import json
import struct
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.captioner import Captioner
from models.decoder import DecoderConfig
from models.encoder import ENCODERS, EncoderConfig
from models.errors import CheckpointError
from models.formats import load_checkpoint
from models.formats.native import save_native
from models.preprocessing import Preprocessing
from models.vocabulary import Vocabulary


def make_captioner():
    torch.manual_seed(0)
    vocabulary = Vocabulary.from_captions([["a", "red", "</script>", "ü"]])
    decoder = DecoderConfig(
        len(vocabulary), 80, embedding_dim=4, hidden_dim=5, attention_dim=3, gate="vector"
    )
    return Captioner(
        EncoderConfig("scenes", 5), decoder, vocabulary, Preprocessing(size=40), max_steps=20
    ).eval()


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "model.safetensors"
    save_native(make_captioner(), path, training={"preset": "test", "epochs": 3})
    return path


def rewritten(path, change):
    """The checkpoint with its description changed."""
    tensors = load_file(path)
    about = json.loads(
        json.loads(path.read_bytes()[8 : 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]])["__metadata__"][
            "gazebench"
        ]
    )
    change(about)
    save_file(tensors, path, metadata={"gazebench": json.dumps(about)})
    return path


def test_a_checkpoint_comes_back_as_it_was_saved(checkpoint):
    saved, read = make_captioner(), load_checkpoint(checkpoint)
    loaded, training = read.captioner, read.training
    assert (read.layout, read.container) == ("native", "safetensors")
    assert loaded.max_steps == saved.max_steps == 20
    assert loaded.vocabulary == saved.vocabulary
    assert loaded.preprocessing == saved.preprocessing
    assert loaded.decoder.config == saved.decoder.config
    assert training == {"preset": "test", "epochs": 3}
    assert not loaded.training
    for name, tensor in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_saving_twice_gives_the_same_bytes(checkpoint, tmp_path):
    save_native(make_captioner(), tmp_path / "again.safetensors", training={"preset": "test", "epochs": 3})
    assert (tmp_path / "again.safetensors").read_bytes() == checkpoint.read_bytes()


def test_a_checkpoint_is_known_by_its_content_not_its_name(checkpoint, tmp_path):
    renamed = checkpoint.rename(tmp_path / "model.pth.tar")
    assert load_checkpoint(renamed).captioner.vocabulary == make_captioner().vocabulary


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello, I am a text file\n", "not of a known kind"),
        (b"<!DOCTYPE html><html>404</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "run `git lfs pull`"),
        (b"PK\x03\x04" + bytes(100), "damaged or cut off"),
        (struct.pack("<Q", 1 << 40) + b"{" + bytes(50), "not of a known kind"),
        (struct.pack("<Q", 20) + b"{" + bytes(50), "damaged or truncated"),
        (b"\xff\xd8\xff\xe0" + bytes(50), "a JPEG picture"),
    ],
)
def test_files_that_are_no_checkpoints_are_called_what_they_are(tmp_path, content, message):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


def test_every_truncation_is_refused(checkpoint):
    whole = checkpoint.read_bytes()
    for length in (1, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        checkpoint.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            load_checkpoint(checkpoint)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(tmp_path / "nothing.safetensors")
    with pytest.raises(CheckpointError, match="is a folder"):
        load_checkpoint(tmp_path)


def test_safetensors_without_a_description_are_refused(tmp_path):
    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="without a gazebench description"):
        load_checkpoint(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.update(format_version=2), "format version 2"),
        (lambda a: a["decoder"].update(hidden_dim=10**9), "hidden_dim can't be 1000000000"),
        (lambda a: a["decoder"].update(hidden_dim=2**20), "but the configuration calls for"),
        (lambda a: a.update(max_steps=10**6), "max_steps can't be 1000000"),
        (lambda a: a["decoder"].update(hidden_dim="5"), "hidden_dim can't be '5'"),
        (lambda a: a["decoder"].update(gate="sometimes"), "gate can't be 'sometimes'"),
        (lambda a: a["decoder"].update(wings=2), r"unknown fields \['wings'\]"),
        (lambda a: a["decoder"].pop("annotation_dim"), r"lacks \['annotation_dim'\]"),
        (lambda a: a["encoder"].update(grid=10**6), "grid can't be 1000000"),
        (lambda a: a["decoder"].update(initial_layers=9), "initial_layers can't be 9"),
        (lambda a: a["decoder"].update(attention_layers=0), "attention_layers can't be 0"),
        (lambda a: a["encoder"].update(name="os.system"), "there is no encoder 'os.system'"),
        (lambda a: a["preprocessing"].update(mean=[0.1]), "mean can't be"),
        (
            lambda a: a["vocabulary"]["words"].append("extra"),
            "the vocabulary has 9 words but the output layer 8 rows",
        ),
        (lambda a: a["vocabulary"].update(end=99), "its end token has id 99"),
        (lambda a: a["vocabulary"].update(words="abc"), "not a list of words"),
        (lambda a: a.pop("encoder"), "the EncoderConfig part is missing"),
    ],
)
def test_inconsistent_descriptions_are_refused_by_name(checkpoint, change, message):
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(rewritten(checkpoint, change))


def test_a_checkpoint_written_before_max_steps_was_stored_decodes_as_the_tutorial_does(checkpoint):
    assert load_checkpoint(rewritten(checkpoint, lambda a: a.pop("max_steps"))).captioner.max_steps == 51


def test_a_checkpoint_written_before_decoders_had_further_layers_is_read_as_it_was(checkpoint):
    def as_before(about):
        del about["decoder"]["initial_layers"], about["decoder"]["attention_layers"]

    loaded = load_checkpoint(rewritten(checkpoint, as_before)).captioner
    assert loaded.decoder.config == make_captioner().decoder.config
    assert all(
        torch.equal(tensor, loaded.state_dict()[name])
        for name, tensor in make_captioner().state_dict().items()
    )


def test_further_layers_come_back_as_they_were_saved(tmp_path):
    plain = make_captioner()
    config = replace(plain.decoder.config, initial_layers=3, attention_layers=2)
    deep = Captioner(plain.encoder_config, config, plain.vocabulary, plain.preprocessing)
    save_native(deep, tmp_path / "deep.safetensors", training={})
    loaded = load_checkpoint(tmp_path / "deep.safetensors").captioner
    assert loaded.decoder.config == config
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in deep.state_dict().items())


def test_a_word_map_for_a_checkpoint_that_holds_its_words_is_refused(checkpoint):
    with pytest.raises(CheckpointError, match="leave --word-map out"):
        load_checkpoint(checkpoint, word_map=checkpoint)


def test_weights_that_are_not_finite_are_refused(checkpoint, tmp_path):
    captioner = make_captioner()
    with torch.no_grad():
        captioner.decoder.output.weight[0, 0] = torch.nan
    save_native(captioner, tmp_path / "broken.safetensors", training={})
    with pytest.raises(CheckpointError, match=r"decoder\.output\.weight holds values that are not finite"):
        load_checkpoint(tmp_path / "broken.safetensors")


def test_flipped_bytes_give_a_captioner_or_a_checkpoint_error_and_nothing_else(checkpoint):
    whole = checkpoint.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        damaged = bytearray(whole)
        for place in torch.randint(min(len(whole), 3000), (3,), generator=generator).tolist():
            damaged[place] = int(torch.randint(256, (), generator=generator))
        checkpoint.write_bytes(damaged)
        try:
            load_checkpoint(checkpoint)
        except CheckpointError as error:
            assert "\n" not in str(error)  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize("name", list(ENCODERS))
def test_every_encoder_gives_annotation_vectors_on_its_grid(name):
    from models.encoder import build_encoder

    encoder = build_encoder(EncoderConfig(name, 3)).eval()
    with torch.no_grad():
        assert encoder(torch.zeros(2, 3, 64, 64)).shape == (2, encoder.annotation_dim, 3, 3)


def test_the_tutorials_and_the_papers_grids_have_their_known_sizes():
    from models.encoder import build_encoder

    with torch.device("meta"):
        assert build_encoder(EncoderConfig("resnet101", 14))(torch.zeros(1, 3, 256, 256)).shape == (
            1,
            2048,
            14,
            14,
        )
        assert build_encoder(EncoderConfig("vgg19", 14))(torch.zeros(1, 3, 224, 224)).shape == (
            1,
            512,
            14,
            14,
        )
