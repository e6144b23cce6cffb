"""Words and their numbers."""

import pytest

from models.errors import CheckpointError
from models.vocabulary import Vocabulary, split_words


def test_words_are_ordered_by_frequency_then_alphabet_after_the_special_tokens():
    vocabulary = Vocabulary.from_captions([["b", "a", "c"], ["b", "a"], ["d", "b"]], min_count=1)
    assert vocabulary.words == ("<pad>", "<start>", "<end>", "<unk>", "b", "a", "c", "d")


def test_rare_words_become_unknown():
    vocabulary = Vocabulary.from_captions([["a", "a", "b"]], min_count=2)
    assert vocabulary.encode(["a", "b"]) == [4, vocabulary.unk]


def test_decoding_drops_pad_start_and_end_but_keeps_unknown():
    vocabulary = Vocabulary.from_captions([["a"]])
    assert vocabulary.decode([1, 4, 3, 2, 0]) == ["a", "<unk>"]


def test_a_vocabulary_without_unknown_refuses_unknown_words():
    vocabulary = Vocabulary(("p", "s", "e", "a"), pad=0, start=1, end=2)
    with pytest.raises(KeyError):
        vocabulary.encode(["b"])


def test_repeated_words_are_refused():
    with pytest.raises(CheckpointError, match="lists the word 'a' 2 times"):
        Vocabulary(("p", "a", "a"), pad=0, start=0, end=0)


def test_special_tokens_outside_the_list_are_refused():
    with pytest.raises(CheckpointError, match="its end token has id 9"):
        Vocabulary(("p", "a"), pad=0, start=0, end=9)


def test_captions_are_split_into_lower_case_words_without_punctuation():
    assert split_words("A man's T-shirt, isn't <b>RED</b>! Über 2 naïve…") == [
        "a", "man's", "t-shirt", "isn't", "b", "red", "b", "über", "2", "naïve",
    ]  # fmt: skip
