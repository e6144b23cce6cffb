import random

from hypothesis import given
from hypothesis import strategies as st
from pycocoevalcap.rouge.rouge import Rouge, my_lcs

from bench.scoring.rouge import RougeL

sentences = st.lists(st.sampled_from(["a", "b", "c", "d", ""]), max_size=12).map(" ".join)


@given(sentences, st.lists(sentences, min_size=1, max_size=4))
def test_scores_are_pycocoevalcaps_to_the_last_bit(caption, references):
    assert RougeL(references)(caption) == Rouge().calc_score([caption], references)


def test_long_texts_have_pycocoevalcaps_score_too():
    draw = random.Random(0)
    caption, *references = [" ".join(draw.choices("abcdefgh", k=n)) for n in (300, 129, 64, 257)]
    scorer = RougeL(references)
    assert scorer(caption) == Rouge().calc_score([caption], references)
    assert scorer(caption) == scorer(caption), "asking changes nothing"
    words = caption.split(" ")
    assert my_lcs(words, words) == 300
    assert RougeL([caption])(caption) == 1


def test_texts_of_thousands_of_words_are_scored():
    half = ["one"] * 10_000
    assert RougeL([" ".join(half * 2)])(" ".join(half)) == Rouge().calc_score(["one"], ["one one"])
