import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.scoring.captions import MAX_CHARACTERS, MAX_WORDS, read_tokens, sanitise

BREAKS = "\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029"


@pytest.mark.parametrize("sign", ["\0", "\x1b", "\x7f", "\ud800", chr(0xDFFF), "|" * 3, "|" * 6, *BREAKS])
def test_unsafe_signs_become_a_space(sign):
    assert sanitise(f"a dog{sign}runs") == "a dog runs"


@given(st.text(alphabet=st.characters() | st.sampled_from(BREAKS + "|\ud801")))
def test_sanitised_text_is_one_line_of_utf8(caption):
    clean = sanitise(caption)
    assert len(clean.splitlines()) <= 1
    assert "|||" not in clean
    assert not any(unicodedata.category(sign) == "Cc" for sign in clean)
    clean.encode()


@pytest.mark.parametrize("caption", ["a dog", "", "naïve 日本 😀 </script> -lrb- <unk> | ||"])
def test_safe_text_stays_as_it_is(caption):
    assert sanitise(caption) == caption


def test_punctuation_is_dropped_but_lower_case_brackets_stay_as_in_pycocoevalcap():
    found = read_tokens(["`` a man ... -lrb- tall -rrb- , 's dog ''  ", ""], ["1", "2"])
    assert found.captions == ["a man -lrb- tall -rrb- 's dog", ""]
    assert found.cut == []


def test_long_captions_are_cut_and_named():
    exact, longer = " ".join("a" * MAX_WORDS), " ".join("a" * (MAX_WORDS + 1))
    found = read_tokens([exact, longer, "word"], [exact, longer, "w" * (MAX_CHARACTERS + 1)])
    assert found.captions == [exact, exact, "word"]
    assert found.cut == [1, 2]
    assert len(sanitise("w" * 10 * MAX_CHARACTERS)) == MAX_CHARACTERS
