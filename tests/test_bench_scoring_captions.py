import unicodedata
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

from bench.scoring import ptb
from bench.scoring.captions import MAX_CHARACTERS, CaptionTokenizer, drop_punctuation, sanitise
from bench.scoring.java import Deadline, find_java

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


@pytest.mark.parametrize("caption", ["a dog", "", "naïve 日本 😀 </script> -lrb- <unk> | ||", "word " * 2000])
def test_safe_text_stays_as_it_is(caption):
    assert sanitise(caption) == caption


def test_text_of_any_length_is_bounded():
    assert sanitise("w" * 100 * MAX_CHARACTERS) == "w" * MAX_CHARACTERS


def test_punctuation_is_dropped_but_lower_case_brackets_stay_as_in_pycocoevalcap():
    tokens = "`` a man ... -lrb- tall -rrb- , 's dog ''  "
    assert drop_punctuation(tokens) == "a man -lrb- tall -rrb- 's dog"
    assert drop_punctuation(" ".join(PUNCTUATIONS)) == drop_punctuation("") == ""


def test_without_java_captions_are_split_in_python():
    tokenizer = CaptionTokenizer(None)
    said = ["A man's\u2028dog.", ""]
    expected = [drop_punctuation(tokens) for tokens in ptb.tokenize([sanitise(text) for text in said])]
    assert tokenizer.tokenise(said, deadline=Deadline(1)) == expected
    assert tokenizer.name == "PTB-python"


@pytest.mark.java
def test_with_java_captions_are_split_in_java():
    with closing(CaptionTokenizer(find_java())) as tokenizer:
        assert tokenizer.tokenise(["A man's\u2028dog (1).", ""], deadline=Deadline(60)) == [
            "a man 's dog -lrb- 1 -rrb-",
            "",
        ]
        assert tokenizer.tokenise([], deadline=Deadline(60)) == []
        assert tokenizer.name == "PTB-corenlp-3.4.1"
        assert tokenizer.failure is None


def test_after_a_failure_all_captions_are_split_in_python(tmp_path):
    with closing(CaptionTokenizer(tmp_path / "no java")) as tokenizer:
        assert tokenizer.tokenise(["A dog."], deadline=Deadline(60)) == ["a dog"]
        assert "the tokenizer could not be started" in tokenizer.failure
        assert tokenizer.name == "PTB-python"
        failure = tokenizer.failure
        assert tokenizer.tokenise(["A dog."], deadline=Deadline(60)) == ["a dog"]
        assert tokenizer.failure is failure, "Java was not asked again"
