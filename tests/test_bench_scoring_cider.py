import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pycocoevalcap.cider.cider import Cider

from bench.scoring.cider import CiderD

sentences = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=7).map(" ".join)
images = st.tuples(sentences, st.lists(sentences, min_size=1, max_size=3))


@given(st.lists(images, min_size=2, max_size=6))
@settings(max_examples=30, deadline=None)
def test_scores_are_pycocoevalcaps(pairs):
    references = [list(captions) for _, captions in pairs]
    assume(any(caption for captions in references for caption in captions))  # else pycocoevalcap fails
    _, expected = Cider().compute_score(
        dict(enumerate(references)), {number: [caption] for number, (caption, _) in enumerate(pairs)}
    )
    found = CiderD(references).score([caption for caption, _ in pairs])
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_one_object_scores_many_sets_of_captions_alike():
    cider = CiderD([["a red dog runs"], ["a cat sits here", "one cat"]])
    first = cider.score(["a red dog", "unheard words said here"])
    cider.score(["other words altogether", "one cat sits"])
    np.testing.assert_array_equal(cider.score(["a red dog", "unheard words said here"]), first)


def test_the_reference_itself_scores_ten():
    captions = ["a red dog runs fast", "one cat sits over there"]
    assert CiderD([[caption] for caption in captions]).score(captions) == pytest.approx([10, 10])


def test_images_whose_references_are_all_empty_score_zero():
    np.testing.assert_array_equal(CiderD([[""], ["", ""]]).score(["", "a dog runs"]), [0, 0])
