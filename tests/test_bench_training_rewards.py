import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.cider.cider import Cider

from bench.errors import DataError
from bench.training.rewards import CiderReward
from models.vocabulary import split_words

REFERENCES = {
    "a": ["A man on a horse.", "a man rides a brown horse"],
    "b": ["Two dogs run on the grass!", "two dogs play"],
    "c": ["a plate with a pizza on a table", "pizza on a plate"],
}
sentences = st.lists(st.sampled_from(["a", "man", "on", "horse", "dog"]), min_size=1, max_size=7)
images = st.tuples(sentences, st.booleans(), st.lists(sentences, min_size=1, max_size=3))


@given(st.lists(images, min_size=2, max_size=6))
@settings(max_examples=40, deadline=None)
def test_the_reward_is_pycocoevalcaps_cider_of_captions_with_their_end(cases):
    ids = [f"image {number}" for number in range(len(cases))]
    references = {
        name: [" ".join(words) for words in texts] for name, (*_, texts) in zip(ids, cases, strict=True)
    }
    reward = CiderReward(references)
    found = [
        reward(name, words, finished=finished) for name, (words, finished, _) in zip(ids, cases, strict=True)
    ]
    _, expected = Cider().compute_score(
        {name: [f"{text} ENDS" for text in texts] for name, texts in references.items()},
        {name: [" ".join(words) + " ENDS" * done] for name, (words, done, _) in zip(ids, cases, strict=True)},
    )
    assert found == pytest.approx([*expected], rel=1e-12, abs=1e-12)


def test_a_caption_that_breaks_off_gets_less_than_one_that_ends():
    reward = CiderReward(REFERENCES)
    words = split_words(REFERENCES["a"][0])
    ended = reward("a", words, finished=True)
    assert reward("a", words, finished=False) < ended
    assert reward("a", words[:-1], finished=True) < ended
    # As if nothing were said of ends, "a man on a" is an excellent beginning.
    assert reward("a", words[:-1], finished=True) < 0.8 * ended
    assert reward("a", words * 4, finished=False) < 0.2 * ended


def test_the_reward_goes_from_0_to_10():
    reward = CiderReward({"a": ["a man on a horse"], "b": ["two dogs run fast"]})
    assert reward("a", ["a", "man", "on", "a", "horse"], finished=True) == pytest.approx(10.0)
    assert reward("a", ["something", "else"], finished=False) == 0.0
    assert reward("a", [], finished=False) == 0.0
    assert 0.0 <= reward("b", [], finished=True) < 0.01


def test_references_are_split_into_the_words_that_a_model_can_say():
    reward = CiderReward(REFERENCES)
    said = CiderReward(
        {name: [" ".join(split_words(text)) for text in texts] for name, texts in REFERENCES.items()}
    )
    for words in (["two", "dogs", "run"], split_words(REFERENCES["b"][0])):
        assert reward("b", words, finished=True) == said("b", words, finished=True) > 0.0


def test_a_reward_does_not_depend_on_what_was_rewarded_before(monkeypatch):
    monkeypatch.setattr("bench.training.rewards._KEPT", 1)
    reward = CiderReward(REFERENCES)
    first = [reward(name, ["a", "man", "on"], finished=True) for name in REFERENCES]
    assert [reward(name, ["a", "man", "on"], finished=True) for name in reversed(REFERENCES)] == first[::-1]
    assert len(set(first)) > 1


def test_one_image_is_too_few_to_know_which_words_are_rare():
    with pytest.raises(DataError, match=r"at least 2 training images.* got 1; train on more images"):
        CiderReward({"a": ["a man"]})
