import hashlib
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.cider.cider_scorer import CiderScorer

from bench.scoring.cider import CiderD
from bench.scoring.ngrams import Ngrams

sentences = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=7).map(" ".join)
images = st.tuples(sentences, st.lists(sentences, min_size=1, max_size=3))


def ngrams(references):
    return [[Ngrams(caption) for caption in captions] for captions in references]


def scores(cider, captions, references):
    return [
        cider.score(Ngrams(caption), each) for caption, each in zip(captions, ngrams(references), strict=True)
    ]


@given(st.lists(images, min_size=2, max_size=6))
@settings(max_examples=50, deadline=None)
def test_scores_are_pycocoevalcaps(pairs):
    captions, references = [caption for caption, _ in pairs], [list(texts) for _, texts in pairs]
    assume(any(caption for texts in references for caption in texts))  # else pycocoevalcap fails
    _, expected = Cider().compute_score(
        dict(enumerate(references)), {number: [caption] for number, caption in enumerate(captions)}
    )
    found = scores(CiderD(ngrams(references)), captions, references)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@given(st.lists(st.tuples(images, st.lists(sentences, min_size=1, max_size=3)), min_size=2, max_size=6))
@settings(max_examples=50, deadline=None)
def test_scores_with_the_frequencies_of_other_images_are_pycocoevalcaps_given_those(cases):
    captions = [caption for (caption, _), _ in cases]
    references = [list(texts) for (_, texts), _ in cases]
    others = [texts for _, texts in cases]  # as many as are scored: pycocoevalcap takes its base from these
    counted, original = CiderScorer(), CiderScorer()
    for caption, texts, other in zip(captions, references, others, strict=True):
        counted += (None, other)
        original += (caption, texts)
    counted.compute_doc_freq()
    original.document_frequency = counted.document_frequency
    found = scores(CiderD(ngrams(others)), captions, references)
    np.testing.assert_allclose(found, original.compute_cider(), rtol=1e-12, atol=1e-12)


def test_one_object_scores_many_captions_alike_in_any_order():
    references = [["a red dog runs"], ["a cat sits here", "one cat"]]
    cider = CiderD(ngrams(references))
    first = scores(cider, ["a red dog", "unheard words said here"], references)
    scores(cider, ["other words altogether", "one cat sits"], references)
    assert scores(cider, ["unheard words said here"], references[1:]) == first[1:]
    assert scores(cider, ["a red dog"], references[:1]) == first[:1]


def test_the_hash_names_the_references_that_were_counted():
    texts = [["a dog", "one dog"], ["a cat"]]
    assert CiderD(ngrams(texts)).sha256 == CiderD(ngrams(texts)).sha256
    others = (
        [["a dog", "one dog"], ["a pig"]],
        [["a dog"], ["one dog", "a cat"]],
        [["a dog one dog"], ["a cat"]],
    )
    assert len({CiderD(ngrams(each)).sha256 for each in (texts, *others)}) == 4
    expected = hashlib.sha256(b'["a dog", "one dog"]["a cat"]').hexdigest()
    assert CiderD(ngrams(texts)).sha256 == expected, "it is another one in another process"


def test_the_reference_itself_scores_ten():
    captions = ["a red dog runs fast", "one cat sits over there"]
    references = [[caption] for caption in captions]
    assert scores(CiderD(ngrams(references)), captions, references) == pytest.approx([10, 10])


def test_a_word_that_no_counted_image_has_is_as_rare_as_one_of_a_single_image():
    others = [["a dog"], ["a cat"], ["a bird"]]
    cider = CiderD(ngrams(others))
    with_new, with_known = (scores(cider, [f"a {word} x"], [[f"a {word} y"]]) for word in ("horse", "dog"))
    # "a dog" is in one image, "a horse" in none: both bigrams and both words weigh log(3).
    assert with_new == with_known
    assert with_new[0] > 0
    rarest = math.log(3)
    # Unigrams: a weighs 0, horse and x (or y) log 3: 1/2. Bigrams: "a horse" of two: 1/2. The trigram differs.
    assert with_new[0] == pytest.approx(10 * (rarest**2 / (2 * rarest**2) * 2) / 4)


def test_images_whose_references_are_all_empty_score_zero():
    assert scores(CiderD(ngrams([[""], ["", ""]])), ["", "a dog runs"], [[""], ["", ""]]) == [0, 0]
