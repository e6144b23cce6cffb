import gzip

import pytest

from bench.scoring.meteor import _PARAPHRASES
from bench.scoring.paraphrases import write_usable

SENTENCES = ["a man  rides a horse", "two dogs play", "", "ñandú 日本 é", "horse"]


def pairs(table):
    with gzip.open(table) as file:
        lines = file.read().decode().splitlines()
    assert len(lines) % 3 == 0
    return list(zip(lines[::3], lines[1::3], lines[2::3], strict=True))


def phrases(sentences):
    return {
        " ".join(words[begin:end])
        for words in map(str.split, sentences)
        for begin in range(len(words))
        for end in range(begin + 1, len(words) + 1)
    }


def table(path, entries):
    with gzip.open(path, "wb") as file:
        file.write("".join(f"{line}\n" for entry in entries for line in entry).encode())
    return path


@pytest.fixture(scope="module")
def original():
    return pairs(_PARAPHRASES)


@pytest.mark.slow
def test_of_meteors_table_no_pair_with_a_known_phrase_is_lost_and_few_others_are_kept(original, tmp_path):
    kept = write_usable(_PARAPHRASES, SENTENCES, tmp_path / "out.gz")
    known = phrases(SENTENCES)
    expected = [pair for pair in original if known & {pair[1], pair[2]}]
    found = pairs(tmp_path / "out.gz")
    assert len(found) == kept
    assert len(expected) > 500
    assert kept - len(expected) < 100
    rest = iter(found)
    assert all(pair in rest for pair in expected), "a pair is missing or out of order"


@pytest.mark.slow
def test_meteors_table_has_no_phrase_that_is_longer_or_spaced_otherwise_than_is_looked_for(original):
    for _, *sides in original:
        for phrase in sides:
            assert phrase == " ".join(phrase.split(" ")[:7])
            assert "  " not in phrase
            assert phrase == phrase.strip()


def test_either_phrase_counts_as_a_whole_and_in_one_sentence(tmp_path):
    entries = [
        ("0.1", "a horse", "horses"),
        ("0.2", "mounts", "rides a"),
        ("0.3", "man rides a horse two", "men"),
        ("0.4", "hors", "orse"),
        ("0.5", "日本", "japan"),
        ("0.6", "a man rides a horse", "x"),
        ("0.7", "rides  a", "y"),
    ]
    given = table(tmp_path / "in.gz", entries)
    assert write_usable(given, SENTENCES, tmp_path / "out.gz") == 4
    assert pairs(tmp_path / "out.gz") == [entries[0], entries[1], entries[4], entries[5]]


def test_without_sentences_nothing_is_kept(tmp_path):
    given = table(tmp_path / "in.gz", [("0.1", "a horse", "horses")])
    assert write_usable(given, [], tmp_path / "out.gz") == 0
    assert pairs(tmp_path / "out.gz") == []
