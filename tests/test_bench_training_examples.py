"""What a training reads: captions, pictures, frozen maps, word vectors, and weights that can't be downloaded."""

import errno
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import get_model

from bench.data.base import CaptionedImage
from bench.data.load import load_data
from bench.data.scenes import make_scene
from bench.distributed import World, world
from bench.errors import DataError
from bench.training.examples import read_examples, token_ids
from bench.training.kept import pooling
from bench.training.recipe import Stage
from bench.training.trunk_weights import trunk_weights
from bench.training.word_vectors import load_embeddings, start_embeddings
from models.captioner import Captioner
from models.decoder import DecoderConfig
from models.encoder import EncoderConfig, on_grid
from models.errors import CheckpointError
from models.preprocessing import Preprocessing
from models.vocabulary import Vocabulary

WORDS = ["a", "red", "dog", "left", "of", "bright", "circle"]
ALONE = World(0, 1, 0)


def captioner_of(encoder="resnet18", grid=3, size=64, words=WORDS):
    torch.manual_seed(0)
    vocabulary = Vocabulary.from_captions([words])
    dim = {"scenes": 80, "vgg19": 512}.get(encoder, 512)
    decoder = DecoderConfig(len(vocabulary), dim, embedding_dim=8, hidden_dim=8, attention_dim=8)
    return Captioner(EncoderConfig(encoder, grid), decoder, vocabulary, Preprocessing(size)).eval()


@pytest.fixture(scope="module")
def captioner():
    return captioner_of()


def photographs(folder, count=5, captions=("A red dog.", "a dog left of a dog", "!!")):
    """Pictures of noise, each with the same captions."""
    images = []
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        path = folder / f"{index}.png"
        Image.fromarray(pixels).save(path)
        images.append(CaptionedImage(path.name, captions, "train", path))
    return images


def read(images, captioner, folder, *, frozen=False, place=ALONE, **options):
    return read_examples(
        images, captioner, frozen=frozen, cache=folder / "cache", world=place, label="reading", **options
    )


def test_captions_are_token_ids_that_end_and_those_without_words_are_left_out():
    vocabulary = Vocabulary.from_captions([WORDS])
    found = token_ids(("A red DOG.", "?!", "", "a zebra left of a dog"), vocabulary, None)
    assert [vocabulary.decode(ids) for ids in found] == [
        ["a", "red", "dog"],
        ["a", "<unk>", "left", "of", "a", "dog"],
    ]
    assert all(ids[-1] == vocabulary.end for ids in found)
    assert all(vocabulary.start not in ids for ids in found)


def test_a_disk_in_trouble_ends_the_reading_and_costs_no_picture(captioner, tmp_path, monkeypatch):
    images, real = photographs(tmp_path), Path.read_bytes

    def read_bytes(path):
        if path == images[1].path:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with pytest.raises(DataError, match="Input/output error; that need not be the picture's fault"):
        read(images, captioner, tmp_path)
    monkeypatch.undo()
    assert not read(images, captioner, tmp_path).failures


def test_captions_that_are_too_long_are_left_out_not_cut():
    vocabulary = Vocabulary.from_captions([WORDS])
    (ids,) = token_ids(("a red dog left of a bright circle", "a red dog"), vocabulary, 3)
    assert vocabulary.decode(ids) == ["a", "red", "dog"]
    assert len(ids) == 4


def test_the_model_is_fed_what_its_preprocessing_makes_of_a_picture(captioner, tmp_path):
    images = photographs(tmp_path)
    examples = read(images, captioner, tmp_path)
    expected = torch.stack([captioner.preprocessing(images[i].picture()) for i in (3, 0)])
    assert torch.equal(examples.inputs([3, 0]), expected)
    assert examples.references == tuple(image.references for image in images)
    assert [len(captions) for captions in examples.captions] == [2] * 5


@pytest.mark.parametrize(
    ("encoder", "grid", "size"), [("resnet18", 3, 64), ("scenes", 14, 112), ("vgg19", 4, 32)]
)
def test_a_frozen_encoders_maps_are_those_of_captioning(tmp_path, encoder, grid, size):
    captioner = captioner_of(encoder, grid, size)
    images = photographs(tmp_path, 3)
    kept, fresh = (read(images, captioner, tmp_path, frozen=frozen) for frozen in (True, False))
    with torch.no_grad():
        expected = fresh.annotations([2, 0, 1], captioner)
        found = kept.annotations([2, 0, 1], captioner)
    assert found.shape == expected.shape == (3, grid * grid, captioner.decoder.config.annotation_dim)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_maps_are_kept_before_they_are_pooled_to_the_grid(tmp_path):
    captioner = captioner_of(grid=14)
    read(photographs(tmp_path, 2), captioner, tmp_path, frozen=True)
    (block,) = tmp_path.rglob("block-*.bin")
    assert block.stat().st_size == 2 * 512 * 2 * 2 * 4  # 64 pixels give 2 x 2 cells, float32


@pytest.mark.parametrize(("shape", "grid"), [((8, 8), 14), ((8, 8), 4), ((7, 7), 3), ((5, 9), 6)])
def test_pooling_as_a_matrix_is_pooling(shape, grid):
    maps = torch.randn(2, 6, *shape, generator=torch.Generator().manual_seed(0))
    weights = pooling(*shape, grid)
    found = weights @ maps.flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, on_grid(maps, grid).flatten(2).transpose(1, 2), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(grid * grid))


def test_keeping_maps_changes_nothing_in_the_encoder(captioner, tmp_path):
    captioner.train()
    before = {name: tensor.clone() for name, tensor in captioner.state_dict().items()}
    read(photographs(tmp_path, 3), captioner, tmp_path, frozen=True)
    assert captioner.encoder.training
    for name, tensor in captioner.state_dict().items():  # batch normalisation's running statistics, too
        assert torch.equal(tensor, before[name])
    captioner.eval()


def test_two_processes_read_what_one_reads(captioner, tmp_path):
    images = [make_scene("train", i) for i in range(70)]  # two blocks
    alone = read(images, captioner, tmp_path / "alone", frozen=True)
    for rank in (1, 0):
        shared = read(images, captioner, tmp_path / "shared", frozen=True, place=World(rank, 2, rank))
    assert torch.equal(shared.inputs(range(70)), alone.inputs(range(70)))


def test_other_weights_and_other_pictures_are_never_read_from_the_cache(captioner, tmp_path):
    images = photographs(tmp_path, 2)
    first = read(images, captioner, tmp_path, frozen=True).inputs([0, 1])
    other = captioner_of()
    with torch.no_grad():
        other.encoder.trunk[0].weight.mul_(2)
    assert not torch.equal(read(images, other, tmp_path, frozen=True).inputs([0, 1]), first)
    Image.new("RGB", (30, 30), "red").save(images[0].path)
    changed = read(images, captioner, tmp_path, frozen=True).inputs([0, 1])
    assert not torch.equal(changed[0], first[0])
    assert torch.equal(changed[1], first[1])


def test_unreadable_pictures_are_listed_every_time_and_never_dropped_in_silence(captioner, tmp_path, capsys):
    images = photographs(tmp_path, 3)
    images[1].path.write_bytes(b"no picture")
    images.append(CaptionedImage("silent.png", ("...", "!"), "train", images[0].path))
    for _ in range(2):  # read, then from the cache
        examples = read(images, captioner, tmp_path)
        assert examples.ids == ("0.png", "2.png")
        assert [failure.image_id for failure in examples.failures] == ["silent.png", "1.png"]
        assert "is not a picture" in examples.failures[1].reason
        assert "left out: 1.png" in capsys.readouterr().err
    assert torch.equal(examples.inputs([1])[0], captioner.preprocessing(images[2].picture()))
    Image.new("RGB", (9, 9)).save(images[1].path)  # mended
    assert read(images, captioner, tmp_path).ids == ("0.png", "1.png", "2.png")


def test_nothing_readable_is_an_error(captioner, tmp_path):
    images = [CaptionedImage("none.png", ("a dog",), "train", tmp_path / "none.png")]
    with pytest.raises(DataError, match="nothing to train on"):
        read(images, captioner, tmp_path)
    with pytest.raises(DataError, match="nothing to train on"):
        read([CaptionedImage("0", ("...",), "train", None)], captioner, tmp_path)


def test_captions_are_drawn_without_repetition_and_follow_from_the_seed(captioner, tmp_path):
    captions = tuple(f"a {'red ' * i}dog" for i in range(5))
    examples = read(photographs(tmp_path, 2, captions), captioner, tmp_path)

    def drawn(per_image, seed=0):
        draw = torch.Generator().manual_seed(seed)
        return examples.draw_captions([0, 1], per_image=per_image, draw=draw)

    assert all(sorted(chosen) == sorted(examples.captions[0]) for chosen in drawn(5))
    assert [len(set(chosen)) for chosen in drawn(3)] == [3, 3]
    assert [len(chosen) for chosen in drawn(7)] == [7, 7]
    assert drawn(2) == drawn(2)
    seen = {drawn(1, seed)[0][0] for seed in range(60)}
    assert seen == set(examples.captions[0])  # each can come first


def test_a_shift_moves_the_picture_and_repeats_its_border(captioner, tmp_path):
    examples = read(photographs(tmp_path, 3), captioner, tmp_path)
    stage = Stage("s", 1, 1e-3, trained_from=0, shift=0.1)
    plain = examples.inputs([0, 1, 2])
    draw = torch.Generator().manual_seed(4)
    moved = examples.inputs([0, 1, 2], stage=stage, draw=draw, captions=[[]] * 3)
    reach = round(0.1 * 64)
    moves = torch.randint(2 * reach + 1, (3, 2), generator=torch.Generator().manual_seed(4)).tolist()
    for image, found, (down, right) in zip(plain, moved, moves, strict=True):
        for y, x in ((0, 0), (10, 50), (63, 63), (30, 2)):
            source = [min(max(place + step - reach, 0), 63) for place, step in ((y, down), (x, right))]
            assert torch.equal(found[:, y, x], image[:, source[0], source[1]])


def test_pictures_are_mirrored_unless_a_drawn_caption_speaks_of_sides(captioner, tmp_path):
    examples = read(photographs(tmp_path, 2), captioner, tmp_path)
    stage = Stage("s", 1, 1e-3, trained_from=0, flip=True)
    encode = captioner.vocabulary.encode
    sided, plain = [tuple(encode(["dog", "left", "of"]))], [tuple(encode(["bright", "circle"]))]
    images = examples.inputs([0, 1])
    turned = 0
    for seed in range(40):
        draw = torch.Generator().manual_seed(seed)
        found = examples.inputs([0, 1], stage=stage, draw=draw, captions=[sided, plain])
        assert torch.equal(found[0], images[0])
        is_turned = torch.equal(found[1], images[1].flip(2))
        assert is_turned or torch.equal(found[1], images[1])
        turned += is_turned
    assert 10 <= turned <= 30
    assert torch.equal(examples.inputs([0, 1]), images)  # validation: nothing is done to pictures


def test_no_image_is_in_two_splits_whatever_its_captions_are_like(tmp_path):
    lines = ["image,caption"]
    for index in range(60):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{index}.jpg")
        lines += [f"{index}.jpg,a dog number {n}" for n in range(5)]
    (tmp_path / "captions.txt").write_text("\n".join(lines) + "\n")
    data = load_data(str(tmp_path))
    splits = {name: {image.image_id for image in data.select(name)} for name in ("train", "val", "test")}
    assert sum(map(len, splits.values())) == 60 == len(set.union(*splits.values()))
    assert all(len(image.references) == 5 for image in data.images)  # with all captions in the same split


# Word vectors.


def vectors_file(folder, lines):
    path = folder / "glove.txt"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines) + b"\n")
    return path


def test_word_vectors_start_the_words_that_a_file_has(tmp_path):
    captioner = captioner_of()
    before = captioner.decoder.embedding.weight.detach().clone()
    numbers = " ".join(str(i / 8) for i in range(8))
    doubled = " ".join(["9"] * 8)
    words = [f"zebra {numbers}", f"dog {numbers}", f". . {doubled}", f"red {doubled} "]
    path = vectors_file(tmp_path, [*words, f"dog {doubled}", f"<unk> {doubled}"])
    assert start_embeddings(captioner, path).startswith("2 of 11 words start from their vectors in glove.txt")
    after = captioner.decoder.embedding.weight
    dog, red = captioner.vocabulary.encode(["dog", "red"])
    assert after[dog].tolist() == [i / 8 for i in range(8)]
    assert after[red].tolist() == [9.0] * 8
    kept = [i for i in range(len(before)) if i not in (dog, red)]
    assert torch.equal(after[kept], before[kept])  # special tokens, too


def test_a_first_line_that_counts_words_is_passed_over(tmp_path):
    path = vectors_file(tmp_path, ["1 2", "dog 1 2"])
    found = load_embeddings(path, Vocabulary.from_captions([WORDS]), 2)
    assert found.vectors.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["cat 1 2", "dog 1"], "line 2 of glove.txt is a word and 1 numbers; expected 2"),
        (["dog 1 two"], "line 1 of glove.txt holds no number where one was expected"),
        (["dog 1 nan"], "line 1 of glove.txt holds a number that is not finite"),
        (["cat 1 2", b"x" * 70_000], "line 2 of glove.txt is longer than 65,536 bytes"),
        ([b"\xff\xfe 1 2"], "glove.txt has none of the vocabulary's 7 words"),
        ([""], "line 1 of glove.txt is a word and 0 numbers"),
    ],
)
def test_word_vectors_that_can_not_be_used_are_said_by_line(tmp_path, lines, message):
    with pytest.raises(DataError, match=message.replace(".", r"\.")):
        load_embeddings(vectors_file(tmp_path, lines), Vocabulary.from_captions([WORDS]), 2)


def test_word_vectors_that_are_not_there_are_an_error(tmp_path):
    with pytest.raises(DataError, match="can't be read: No such file"):
        load_embeddings(tmp_path / "none.txt", Vocabulary.from_captions([WORDS]), 2)


# Weights of the trunk.


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    def refused(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch_hub_folder = torch.hub._hub_dir
    torch.hub._hub_dir = None
    yield
    torch.hub._hub_dir = torch_hub_folder


@pytest.mark.usefixtures("no_network")
def test_where_nothing_can_be_downloaded_a_trial_goes_on_loudly_and_a_training_does_not(capsys):
    given = trunk_weights("resnet18", "IMAGENET1K_V1", is_trial=True, world=world())
    assert given.weights is None
    assert given.origin == "random"
    assert "could not be downloaded" in given.warning
    assert "say nothing about the recipe" in given.warning
    assert f"WARNING: {given.warning}" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="--encoder-weights FILE, or none to train from random weights"):
        trunk_weights("resnet18", "IMAGENET1K_V1", is_trial=False, world=world())
    assert socket.getdefaulttimeout() is None


def test_a_server_that_falls_silent_does_not_hold_up_a_training(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "torchvision.models._api.WeightsEnum.get_state_dict",
        lambda *_, **__: seen.append(socket.getdefaulttimeout()),
    )
    assert (
        trunk_weights("resnet18", "IMAGENET1K_V1", is_trial=False, world=world()).weights == "IMAGENET1K_V1"
    )
    assert seen == [20.0]
    assert socket.getdefaulttimeout() is None


def test_weights_from_a_file_need_no_network_and_say_which_file(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(get_model("resnet18", weights=None).state_dict(), path)
    given = trunk_weights("resnet18", str(path), is_trial=False, world=world())
    assert given.weights == str(path)
    assert given.origin.startswith("weights.pth (SHA-256 ")
    assert trunk_weights("resnet18", None, is_trial=False, world=world()).origin == "random"
