"""A word map of another checkpoint is found out by its size, or by the words that the model prefers."""

import json
import random

import pytest
import torch

from models.errors import CheckpointError
from models.formats.word_map import COMMON, doubts, find_word_map, read_word_map, vocabulary_from_ids


def ids(words=("a", "dog", "runs"), shift=0):
    names = [*words, "<unk>", "<start>", "<end>"]
    return {word: number + shift for number, word in enumerate(names, start=1)} | {"<pad>": 0}


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_word_map_gives_words_in_the_order_of_their_ids_and_special_tokens_by_role(tmp_path):
    vocabulary = read_word_map(write(tmp_path / "map.json", ids()), 7, "model")
    assert vocabulary.words == ("<pad>", "a", "dog", "runs", "<unk>", "<start>", "<end>")
    assert (vocabulary.pad, vocabulary.unk, vocabulary.start, vocabulary.end) == (0, 4, 5, 6)


@pytest.mark.parametrize("names", [("<PAD>", "<SOS>", "<EOS>", "<UNK>"), ("<pad>", "<s>", "</s>", "<unk>")])
def test_special_tokens_are_known_however_a_project_writes_them(names):
    vocabulary = vocabulary_from_ids({name: place for place, name in enumerate(names)}, 4, "map", "model")
    assert (vocabulary.pad, vocabulary.start, vocabulary.end, vocabulary.unk) == (0, 1, 2, 3)


def test_the_word_map_of_another_training_is_called_that(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"has 7 words, but the output layer of model has 9 rows.*another training"
    ):
        read_word_map(write(tmp_path / "map.json", ids()), 9, "model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m | {"dog": 1}, "'a' and 'dog' have the same id, 1"),
        (lambda m: m | {"dog": 7}, "'dog' has the id 7; expected 0 to 6"),
        (lambda m: m | {"dog": -1}, "'dog' has the id -1"),
        (lambda m: m | {"dog": True}, "'dog' has the id True; expected text and a whole number"),
        (lambda m: m | {"dog": 2.0}, "'dog' has the id 2.0"),
        (lambda m: {("cat" if w == "<start>" else w): i for w, i in m.items()}, "no start token"),
        (lambda m: {("<SOS>" if w == "dog" else w): i for w, i in m.items()}, "more than one start token"),
    ],
)
def test_ids_that_do_not_number_the_words_are_named(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        read_word_map(write(tmp_path / "map.json", change(ids())), 7, "model")


def test_a_model_without_a_token_for_unknown_words_has_none():
    names = {"<pad>": 0, "<start>": 1, "<end>": 2, "dog": 3}
    assert vocabulary_from_ids(names, 4, "map", "model").unk is None


def test_the_map_beside_a_checkpoint_is_found_by_name_then_by_size(tmp_path):
    checkpoint = tmp_path / "BEST_checkpoint_coco_5.pth.tar"
    with pytest.raises(CheckpointError, match=r"no WORDMAP_.* lies beside it; give it with --word-map"):
        find_word_map(checkpoint, 7)
    write(tmp_path / "WORDMAP_other.json", ids(("a", "cat", "runs")))
    assert find_word_map(checkpoint, 7)[1].name == "WORDMAP_other.json"
    write(tmp_path / "WORDMAP_coco_5.json", ids())
    assert find_word_map(checkpoint, 7)[1].name == "WORDMAP_coco_5.json"
    write(tmp_path / "WORDMAP_third.json", ids(("one", "two", "three")))
    with pytest.raises(CheckpointError, match="several word maps beside it fit"):
        find_word_map(tmp_path / "mine.pth.tar", 7)
    with pytest.raises(
        CheckpointError, match=r"the word map beside it does not fit: word map WORDMAP_coco_5\.json has 7"
    ):
        find_word_map(checkpoint, 8)


def planted(seed):
    """A vocabulary, and an output bias that favours the words that captions use most."""
    words = [*COMMON, *(f"w{number}" for number in range(300))]
    random.Random(seed).shuffle(words)
    vocabulary = vocabulary_from_ids(ids(words), len(words) + 4, "map", "model")
    bias = torch.randn(len(words) + 4, generator=torch.Generator().manual_seed(seed))
    for word in COMMON:
        bias[vocabulary.encode([word])] += 2.0
    return words, vocabulary, bias


def test_a_map_that_numbers_the_words_otherwise_is_doubted_nine_times_in_ten_and_the_right_one_never():
    doubted = 0
    for seed in range(30):
        words, vocabulary, bias = planted(seed)
        assert doubts(vocabulary, bias) is None
        random.Random(seed + 100).shuffle(words)
        other = vocabulary_from_ids(ids(words), len(words) + 4, "map", "model")
        doubted += "word map is another training's" in (doubts(other, bias) or "")
    assert doubted >= 26


def test_nothing_is_doubted_where_nothing_can_be_known():
    _, vocabulary, bias = planted(0)
    assert doubts(vocabulary, torch.zeros_like(bias)) is None
    foreign = vocabulary_from_ids(ids(("ein", "hund", "läuft")), 7, "map", "model")
    assert doubts(foreign, torch.randn(7)) is None
