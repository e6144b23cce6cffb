"""Other people's checkpoints: each form of each layout computes what its own modules compute."""

import copy
import datetime
import json
from argparse import Namespace
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_layouts import (
    TUTORIAL,
    WORDS,
    DecoderWithAttention,
    Spoken,
    Variant,
    bot_checkpoint,
    make_bot,
    make_tutorial,
    pickled_under,
    save,
    states,
    tutorial_checkpoint,
    with_torchvision_names,
    word_map,
    write_word_map,
)
from torch import Tensor, nn
from torchvision import transforms

from models.beam import DECODINGS, beam_search
from models.captioner import Captioner
from models.errors import CheckpointError
from models.formats import load_checkpoint
from models.formats.native import save_native
from models.preprocessing import Preprocessing, read_picture

SHARED = Path(__file__).parents[2] / "shared"
FIXTURES = SHARED / "checkpoints"
PHOTOGRAPHS = SHARED / "data" / "flickr8k-mini" / "Images"
TUTORIAL_FIXTURE = "BEST_checkpoint_flickr8kmini_5_cap_per_img_5_min_word_freq"
needs_fixtures = pytest.mark.skipif(
    not (FIXTURES.is_dir() and PHOTOGRAPHS.is_dir()),
    reason="the originals' checkpoints and photographs are not here",
)

_generator = torch.Generator().manual_seed(1)
IMAGES = torch.randn(2, 3, 96, 96, generator=_generator)
LARGER = torch.randn(2, 3, 224, 224, generator=_generator)
"""For a model that takes its encoder's grid as it comes, 7 x 7 only from 224 pixels."""
CAPTIONS = torch.randint(len(word_map()), (2, 6), generator=_generator)


@torch.no_grad()
def said_by(encoder: nn.Module, decoder: nn.Module, start: int, images: Tensor = IMAGES) -> Spoken:
    """What the literal modules make of the test's captions and pictures."""
    return decoder(encoder(images), CAPTIONS, start)


@torch.no_grad()
def said_by_ours(captioner: Captioner, images: Tensor = IMAGES) -> Spoken:
    annotations = captioner.encode(images)
    forced = captioner.decoder(annotations, CAPTIONS, captioner.vocabulary.start)
    return Spoken(annotations, forced.alphas, forced.log_probs)


def assert_same(ours: Spoken, theirs: Spoken, tolerance: float = 1e-5) -> None:
    """Equal up to rounding, which is relative to the largest numbers that were added up."""
    for name, mine, literal in zip(Spoken._fields, ours, theirs, strict=True):
        assert mine.shape == literal.shape, name
        assert distance(mine, literal) < tolerance, name


def distance(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max()) / max(1.0, float(theirs.abs().max()))


@pytest.fixture(scope="module")
def tutorial():
    return make_tutorial()


@pytest.fixture(scope="module")
def tutorial_says(tutorial):
    return said_by(*tutorial, word_map()["<start>"])


@pytest.fixture
def place(tmp_path):
    """Where a test writes its checkpoint; large files don't outlive their test."""
    yield tmp_path / "BEST_checkpoint_toy.pth.tar"
    for path in tmp_path.glob("*.pth*"):
        path.unlink()


def test_the_literal_models_attend_and_speak_decidedly(tutorial_says):
    """Without this the comparisons below would hold between any two untrained models."""
    assert tutorial_says.alphas.amax(2).mean() > 3 / 196
    assert tutorial_says.log_probs.exp().amax(2).mean() > 2 / len(word_map())
    assert tutorial_says.annotations.std() > 0.5


@pytest.mark.parametrize("name", TUTORIAL)
def test_the_tutorials_model_is_the_same_from_every_form_of_its_file(name, tutorial, tutorial_says, place):
    variant = TUTORIAL[name]
    variant.write(*tutorial, place)
    write_word_map(place.parent)
    loaded = load_checkpoint(place)
    says = tutorial_says
    if variant.dtype != torch.float32:
        rounded = (copy.deepcopy(part).to(variant.dtype).float() for part in tutorial)
        says = said_by(*rounded, word_map()["<start>"])
    assert_same(said_by_ours(loaded.captioner), says)
    assert ("legacy" in loaded.container.lower()) == variant.legacy
    assert loaded.layout == "sgrvinod"
    assert "sgrvinod" in loaded.origin
    assert not loaded.captioner.training
    assert {tensor.device.type for tensor in loaded.captioner.state_dict().values()} == {"cpu"}
    assert {p.dtype for p in loaded.captioner.parameters()} == {torch.float32}


def test_the_tutorials_words_pictures_and_grid_are_its_own(tutorial, place):
    TUTORIAL["zip"].write(*tutorial, place)
    write_word_map(place.parent)
    captioner = load_checkpoint(place).captioner
    words = captioner.vocabulary
    assert words.words == ("<pad>", *WORDS, "<unk>", "<start>", "<end>")
    assert (words.pad, words.unk, words.start, words.end) == (0, *range(len(WORDS) + 1, len(WORDS) + 4))
    assert captioner.preprocessing == Preprocessing(size=256, fit="squash")
    assert captioner.grid == (14, 14)
    assert captioner.max_steps == 51
    assert captioner.encoder_config.name == "resnet18"


def test_what_the_tutorial_notes_about_its_training_is_kept(tutorial, place):
    TUTORIAL["zip"].write(*tutorial, place)
    write_word_map(place.parent)
    training = load_checkpoint(place).training
    assert (training["epoch"], training["epochs_since_improvement"], training["bleu-4"]) == (7, 2, 0.2329)


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("legacy from a GPU", "cuda:0"),
        ("float16", "float16"),
        ("bfloat16", "bfloat16"),
        ("legacy", "source"),
        ("legacy of torch 0.4.0", "0.4"),
        ("zip, decoder of before August 2018", "2018"),
    ],
)
def test_what_is_unusual_about_a_file_is_told(name, note, tutorial, place):
    TUTORIAL[name].write(*tutorial, place)
    write_word_map(place.parent)
    assert note in " ".join(load_checkpoint(place).notes)


def test_a_fork_that_ties_its_output_layer_to_its_word_embedding_loads(tutorial, place):
    words = word_map(f"w{number}" for number in range(3000))
    torch.manual_seed(3)
    decoder = DecoderWithAttention(len(words), 512, 9, 20, 20).eval()
    decoder.fc.weight = decoder.embedding.weight
    save({"encoder": states(tutorial[0]), "decoder": states(decoder)}, place)
    write_word_map(place.parent, words=words)
    assert_same(
        said_by_ours(load_checkpoint(place).captioner), said_by(tutorial[0], decoder, words["<start>"])
    )


@pytest.mark.parametrize("depth", [34, 50, 101, 152])
def test_the_depth_of_the_resnet_is_read_off_its_tensors(depth, place):
    encoder, decoder = make_tutorial(depth)
    half = TUTORIAL["state dicts under longer names"]
    Variant(half.arrange, dtype=torch.float16).write(encoder, decoder, place)
    says = said_by(encoder.half().float(), decoder.half().float(), word_map()["<start>"])
    write_word_map(place.parent)
    captioner = load_checkpoint(place).captioner
    assert captioner.encoder_config.name == f"resnet{depth}"
    assert_same(said_by_ours(captioner), says, tolerance=1e-4)


@pytest.mark.parametrize("module", ["dataset", "__main__"])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_mrfahrenhiets_model_is_the_same_from_every_form_of_its_file(module, legacy, place):
    bot = make_bot()
    save(bot_checkpoint(bot), place, module=module, legacy=legacy)
    loaded = load_checkpoint(place)
    captioner = loaded.captioner
    theirs = said_by(bot.EncoderCNN, bot.DecoderLSTM, 1, LARGER)
    assert theirs.alphas.amax(2).mean() > 2 / 49
    assert_same(said_by_ours(captioner, LARGER), theirs)
    assert captioner.vocabulary.words == ("<PAD>", "<SOS>", "<EOS>", "<UNK>", *WORDS)
    assert [getattr(captioner.vocabulary, role) for role in ("pad", "start", "end", "unk")] == [0, 1, 2, 3]
    assert captioner.preprocessing == Preprocessing(size=224, fit="squash")
    assert captioner.grid == (7, 7)
    assert captioner.max_steps == 20
    assert loaded.layout == "mrfahrenhiet"
    assert loaded.training["num_epochs"] == 25


def test_mrfahrenhiets_own_resnet_50_loads(place):
    bot = make_bot(50)
    save(bot_checkpoint(bot), place, module="__main__")
    captioner = load_checkpoint(place).captioner
    assert captioner.encoder_config.name == "resnet50"
    with torch.no_grad():
        annotations = captioner.encode(LARGER)
        assert annotations.shape == (2, 49, 2048)
        assert distance(annotations, bot.EncoderCNN(LARGER)) < 1e-5


class Tokenizer:
    """Something of an author's own that nobody else has."""

    def __init__(self):
        self.lower = True


def test_what_else_a_fork_keeps_beside_its_model_does_no_harm(tutorial, tutorial_says, place):
    kept = {
        "losses": np.linspace(3, 1, 50),
        "bleu-4": np.float64(0.25),
        "saved": datetime.datetime(2021, 5, 1, 12, 30),
        "folder": Path("/data/coco"),
        "counts": Counter({"dog": 7}),
        "arguments": Namespace(batch_size=32, device=torch.device("cuda:0")),
        "transform": transforms.Compose([transforms.Resize((256, 256)), transforms.ToTensor()]),
        "tokenizer": Tokenizer(),
    }
    with pickled_under("text", Tokenizer):
        save(tutorial_checkpoint(*tutorial) | kept, place)
    write_word_map(place.parent)
    assert_same(said_by_ours(load_checkpoint(place).captioner), tutorial_says)


@pytest.mark.parametrize("legacy", [True, False])
def test_a_decoder_without_its_encoder_takes_torchvisions_weights_from_a_file(
    tutorial, tutorial_says, place, tmp_path, legacy
):
    save({"decoder": tutorial[1]}, place)
    write_word_map(place.parent)
    with pytest.raises(
        CheckpointError, match="holds no encoder; name the one it was trained with: --encoder-weights"
    ):
        load_checkpoint(place)
    network = with_torchvision_names(states(tutorial[0]))
    weights = {name.removeprefix("resnet."): tensor for name, tensor in network.items()}
    torch.save(weights, tmp_path / "resnet18.pth", _use_new_zipfile_serialization=not legacy)
    loaded = load_checkpoint(place, encoder_weights=str(tmp_path / "resnet18.pth"))
    assert_same(said_by_ours(loaded.captioner), tutorial_says)


def test_an_encoder_and_a_decoder_that_do_not_fit_are_called_that(tutorial, place, tmp_path):
    write_word_map(place.parent)
    save({"encoder": states(tutorial[0]), "decoder": states(make_tutorial(50)[1])}, place)
    with pytest.raises(
        CheckpointError, match="resnet18, gives annotation vectors of 512 numbers, but its decoder reads 2048"
    ):
        load_checkpoint(place)
    with pytest.raises(CheckpointError, match=r"gone\.pth is no file, and no name of torchvision's weights"):
        load_checkpoint(place, encoder_weights=str(tmp_path / "gone.pth"))


def test_the_word_map_beside_the_file_that_a_link_leads_to_is_found(tutorial, place, tmp_path):
    TUTORIAL["zip"].write(*tutorial, place)
    write_word_map(place.parent)
    link = tmp_path / "elsewhere" / "model.pth.tar"
    link.parent.mkdir()
    link.symlink_to(place)
    assert len(load_checkpoint(link).captioner.vocabulary) == len(word_map())


def test_a_word_map_that_is_named_wins_over_the_one_beside_the_checkpoint(tutorial, place, tmp_path):
    TUTORIAL["zip"].write(*tutorial, place)
    write_word_map(place.parent)
    other = tmp_path / "elsewhere"
    other.mkdir()
    named = write_word_map(other, words=word_map(reversed(WORDS)))
    assert load_checkpoint(place, word_map=named).captioner.vocabulary.words[1] == WORDS[-1]


def test_of_several_word_maps_the_one_with_the_checkpoints_name_is_taken(tutorial, place):
    TUTORIAL["zip"].write(*tutorial, place)
    write_word_map(place.parent, "other", words=word_map(reversed(WORDS)))
    write_word_map(place.parent, "toy")
    assert load_checkpoint(place).captioner.vocabulary.words[1] == WORDS[0]


def test_a_missing_word_map_is_asked_for(tutorial, place):
    TUTORIAL["zip"].write(*tutorial, place)
    with pytest.raises(CheckpointError, match="--word-map"):
        load_checkpoint(place)


def test_the_word_map_of_another_training_is_called_that(tutorial, place):
    TUTORIAL["zip"].write(*tutorial, place)
    write_word_map(place.parent, words=word_map((*WORDS, "bicycle")))
    with pytest.raises(CheckpointError, match=r"18 words.*17 rows.*another training"):
        load_checkpoint(place)


def test_a_converted_model_says_exactly_the_same(tutorial, place, tmp_path):
    TUTORIAL["legacy from a GPU"].write(*tutorial, place)
    write_word_map(place.parent)
    original = load_checkpoint(place)
    save_native(original.captioner, tmp_path / "out.safetensors", training=original.training)
    converted = load_checkpoint(tmp_path / "out.safetensors").captioner
    for name, tensor in original.captioner.state_dict().items():
        assert torch.equal(tensor, converted.state_dict()[name]), name
    assert converted.vocabulary == original.captioner.vocabulary
    assert converted.preprocessing == original.captioner.preprocessing
    assert converted.max_steps == original.captioner.max_steps
    with torch.no_grad():
        found = [
            beam_search(c, c.encode(IMAGES), 3, rules=DECODINGS["tutorial"])
            for c in (original.captioner, converted)
        ]
    assert [h[0].token_ids for h in found[0]] == [h[0].token_ids for h in found[1]]


# The originals' own answers: their programs ran, once, on files that their own classes wrote.


@pytest.fixture(scope="module")
def tutorial_answers():
    return json.loads((FIXTURES / "sgrvinod_expected.json").read_text())["cases"]


def annotations_of(captioner, names):
    with torch.no_grad():
        pictures = [captioner.preprocessing(read_picture(PHOTOGRAPHS / name)) for name in names]
        return captioner.encode(torch.stack(pictures))


def assert_tutorial_answers(captioner, cases):
    names = sorted({case["image"] for case in cases})
    annotations = annotations_of(captioner, names)
    maps = np.load(FIXTURES / "sgrvinod_alphas.npz")
    assert len(names) == 24
    for beam_size in (1, 3, 5):
        found = beam_search(captioner, annotations, beam_size, rules=DECODINGS["tutorial"])
        best = {name: hypotheses[0] for name, hypotheses in zip(names, found, strict=True)}
        expected = [case for case in cases if case["beam_size"] == beam_size]
        assert len(expected) == 24
        for case in expected:
            hypothesis = best[case["image"]]
            assert [captioner.vocabulary.start, *hypothesis.token_ids] == case["token_ids"]
            np.testing.assert_allclose(hypothesis.word_log_probs, case["token_log_probs"], rtol=0, atol=1e-4)
            assert abs(hypothesis.log_prob_nats - case["log_prob_nats"]) < 1e-4
            assert hypothesis.finished
            theirs = maps[f"{case['image']}/{beam_size}"]
            ours = hypothesis.alphas.view(-1, 14, 14).numpy()
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


@needs_fixtures
@pytest.mark.parametrize("name", [f"{TUTORIAL_FIXTURE}.pth.tar", f"{TUTORIAL_FIXTURE}.zip.pth.tar"])
def test_the_tutorials_own_captions_come_out_token_for_token(name, tutorial_answers):
    assert_tutorial_answers(load_checkpoint(FIXTURES / name).captioner, tutorial_answers)


def assert_bot_answers(captioner):
    cases = json.loads((FIXTURES / "mrfahrenhiet_expected.json").read_text())["cases"]
    maps = np.load(FIXTURES / "mrfahrenhiet_alphas.npz")
    found = beam_search(
        captioner,
        annotations_of(captioner, [case["image"] for case in cases]),
        1,
        rules=DECODINGS["tutorial"],
    )
    assert len(found) == 24
    for case, hypotheses in zip(cases, found, strict=True):
        assert list(hypotheses[0].token_ids) == case["token_ids"]
        theirs = maps[case["image"]]
        np.testing.assert_allclose(hypotheses[0].alphas.view(-1, 7, 7).numpy(), theirs, rtol=0, atol=1e-4)


def test_encoding_exactly_gives_the_programs_own_numbers_bit_for_bit(tutorial, place):
    TUTORIAL["zip"].write(*tutorial, place)
    write_word_map(place.parent)
    captioner = load_checkpoint(place).captioner
    with torch.no_grad():
        theirs = torch.cat([tutorial[0](image.unsqueeze(0)) for image in IMAGES])
        assert not torch.equal(captioner.encode(IMAGES), theirs)
        captioner.encode_exactly(True)
        assert torch.equal(captioner.encode(IMAGES), theirs)


def test_mrfahrenhiets_own_captions_come_out_token_for_token():
    assert_bot_answers(load_checkpoint(FIXTURES / "attention_model_state.pth").captioner)


@needs_fixtures
def test_converted_originals_still_say_what_the_originals_said(tutorial_answers, tmp_path):
    for name, answers in (
        (
            f"{TUTORIAL_FIXTURE}.pth.tar",
            lambda captioner: assert_tutorial_answers(captioner, tutorial_answers),
        ),
        ("attention_model_state.pth", assert_bot_answers),
    ):
        original = load_checkpoint(FIXTURES / name)
        save_native(original.captioner, tmp_path / "out.safetensors", training=original.training)
        answers(load_checkpoint(tmp_path / "out.safetensors").captioner)
        (tmp_path / "out.safetensors").unlink()
