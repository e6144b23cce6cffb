from collections import Counter
from pathlib import Path

import pytest

from bench.data.word_classes import WORDS, word_class


def test_no_word_has_two_classes():
    counts = Counter(word for words in WORDS.values() for word in words.split())
    assert [word for word, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("name", WORDS)
def test_listed_words_have_their_class_whatever_their_case(name):
    for word in WORDS[name].split():
        assert word_class(word) == word_class(word.upper()) == name


def test_a_caption_is_classified_word_by_word():
    caption = "Two brown dogs are standing on the green grass , behind a 3 year-old 's ball ."
    assert [word_class(word) for word in caption.split()] == [
        "number", "colour", "content", "function", "content", "relation", "function", "colour", "content",
        "function", "relation", "function", "number", "content", "function", "content", "function",
    ]  # fmt: skip


@pytest.mark.parametrize("mark", [".", ",", "``", "''", "--", "...", "", "!"])
def test_punctuation_is_function(mark):
    assert word_class(mark) == "function"


def test_all_other_words_are_content():
    assert [word_class(word) for word in ("dog", "running", "naïve", "日本", "<unk>", "x2")] == [
        "content"
    ] * 6


CAPTIONS = Path(__file__).parents[2] / "shared" / "data" / "flickr8k-captions-all.txt"


@pytest.mark.skipif(not CAPTIONS.is_file(), reason=f"the captions of {CAPTIONS} are not on this machine")
def test_the_commonest_words_of_flickr8k_are_not_mistaken_for_content():
    counts = Counter(CAPTIONS.read_text().lower().replace(",", " ").split())
    content = {word for word, _ in counts.most_common(40) if word_class(word) == "content"}
    assert content == {
        "dog", "man", "boy", "woman", "girl", "wearing", "people", "water", "young", "dogs", "running",
        "playing", "shirt", "ball", "standing", "little",
    }  # fmt: skip
