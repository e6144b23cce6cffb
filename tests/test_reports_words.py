"""Words that no reference of their picture has."""

import numpy as np
import pandas as pd
import pytest

from reports.records import CaptionRow
from reports.words import LEAST, WordCounts, failing_words, word_table


def said(image_id: str, caption: str, *references: str, log: float = -0.1) -> CaptionRow:
    words = tuple(caption.split())
    return CaptionRow(
        image_id,
        5,
        caption,
        words,
        tuple(range(len(words))),
        0.0,
        (log,) * (len(words) + 1),
        references,
        True,
        None,
    )


def counted(rows: list[CaptionRow]) -> WordCounts:
    counts = WordCounts()
    for row in rows:
        counts.add(row)
    return counts


def test_a_planted_wrong_word_is_found_with_its_share_and_its_pictures() -> None:
    rows = [said(f"right-{n}", "a dog runs", "A dog runs.") for n in range(6)]
    rows += [said(f"wrong-{n}", "a cat runs", "A dog runs.", log=np.log(0.5)) for n in range(8)]
    rows += [said(f"cat-{n}", "cat", "The cat!") for n in range(2)]
    worst, *others = failing_words(counted(rows))
    assert {found.word: found.missing.value for found in others} == {"a": 0, "dog": 0, "runs": 0}
    assert (worst.word, worst.missing.value, worst.missing.n) == ("cat", 0.8, 10)
    assert worst.missing.low < 0.8 < worst.missing.high
    assert worst.probability == pytest.approx((8 * 0.5 + 2 * np.exp(-0.1)) / 10)
    assert worst.pointing is None


def test_case_punctuation_and_hyphens_of_references_do_not_matter() -> None:
    rows = [said(str(n), "a man’s t-shirt red", "A man’s T-shirt, RED; a man's too.") for n in range(LEAST)]
    found = failing_words(counted(rows))
    assert {word.word for word in found} == {"a", "man’s", "t-shirt", "red"}
    assert all(word.missing.value == 0 for word in found)
    assert word_table(found) is None


def test_rare_words_and_captions_without_references_are_not_judged() -> None:
    assert failing_words(counted([said(str(n), "nonsense", "a dog") for n in range(LEAST - 1)])) == []
    assert failing_words(counted([said(str(n), "nonsense") for n in range(50)])) == []
    assert word_table([]) is None


def test_certain_failures_come_before_rare_ones() -> None:
    rows = [said(f"a{n}", "often", "a dog") for n in range(40)] + [
        said(f"b{n}", "often", "often") for n in range(4)
    ]
    rows += [said(f"c{n}", "rare", "a dog") for n in range(5)]
    assert [found.word for found in failing_words(counted(rows))] == ["often", "rare"]


def test_of_words_that_are_never_missing_those_come_first_that_attention_misses() -> None:
    rows = [said(str(n), "red dog", "red dog") for n in range(5)]
    seen = [("red", n, 0.9) for n in "abcde"] + [("dog", n, 0.4) for n in "abcde"]
    frame = pd.DataFrame(seen, columns=["word", "image_id", "pointing"]).assign(method="attention")
    found = failing_words(counted(rows), frame)
    assert [word.word for word in found] == ["dog", "red"]
    assert [row.head for row in word_table(found).groups[""]] == ["dog", "red"]


def test_pointing_is_attention_s_mean_over_the_times_that_the_word_has_a_place() -> None:
    rows = [said(str(n), "cat", "a dog") for n in range(5)]
    frame = pd.DataFrame({
        "word": ["cat"] * 8, "image_id": list("aabcdefa"), "method": ["attention"] * 7 + ["random"],
        "pointing": [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, np.nan, 0.0],
    })  # fmt: skip
    (found,) = failing_words(counted(rows), frame)
    assert (found.pointing, found.explained) == (0.7, 5), "the mean of the pictures, .5 1 1 0 1"
    few = failing_words(counted(rows), frame[frame["image_id"] != "e"])
    assert few[0].pointing is None, "four pictures are too few"
    table = word_table([found])
    assert [cell.value for cell in table.groups[""][0].cells] == ["100\u00a0%", "5", "90\u00a0%", "0.70"]
