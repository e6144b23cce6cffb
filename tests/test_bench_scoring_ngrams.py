from hypothesis import given
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test, precook

from bench.scoring.ngrams import Ngrams, bleu_statistics

sentences = st.lists(st.sampled_from(["a", "b", "c\u00a0d"]), max_size=9).map(" ".join)


@given(sentences)
def test_ngrams_are_pycocoevalcaps(caption):
    length, counts = precook(caption)
    found = Ngrams(caption)
    assert (found.length, list(found.counts.items())) == (length, list(counts.items()))


@given(sentences, st.lists(sentences, min_size=1, max_size=4))
def test_bleu_statistics_are_pycocoevalcaps(caption, references):
    expected = cook_test(caption, cook_refs(references), eff="closest")
    found = bleu_statistics(Ngrams(caption), [Ngrams(reference) for reference in references])
    assert found == [expected["testlen"], expected["reflen"], *expected["correct"], *expected["guess"]]
