"""Lengths, variety and retrieval of captions, against literal counts and repeated experiments."""

import itertools
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from bench.scoring.variety import Said, retrieval, variety

REFERENCES = [["A red star.", "a red star, there"], ["Nothing"], ["a blue square above a star"] * 3]
CAPTIONS = [["a", "red", "star"], [], ["a", "blue", "star", "above", "a", "star"]]


def described(captions, references=None):
    said = Said()
    for words, texts in zip(captions, references or [["a"]] * len(captions), strict=True):
        said.add(words, texts)
    found = variety(said)
    return {each.name: each for each in found}


# ---- variety --------------------------------------------------------------------------------------------


def test_lengths_and_variety_are_what_can_be_counted_by_hand():
    found = described(CAPTIONS, REFERENCES)
    assert {name: each.value for name, each in found.items()} == pytest.approx(
        {
            "Mean length": 3,
            "Spread of lengths": 6**0.5,
            "Mean reference length": (3 + 4 + 1 + 3 * 6) / 6,
            "Words used": 5,
            "Distinct-1": 5 / 9,
            "Distinct-2": 6 / 7,  # "a star" twice
            "Distinct captions": 1,
        }
        | {
            "Distinct-2": len({"a red", "red star", "a blue", "blue star", "star above", "above a", "a star"})
            / 7
        }
    )
    assert {each.unit for each in found.values()} == {"words", "share"}
    assert all(each.higher_is_better is None and each.reason is None for each in found.values())


def literal(captions):
    """The same numbers, each from its definition."""
    grams = {
        n: [tuple(words[i : i + n]) for words in captions for i in range(len(words) - n + 1)] for n in (1, 2)
    }
    return {
        "Mean length": np.mean([len(words) for words in captions]),
        "Spread of lengths": np.std([len(words) for words in captions]),
        "Words used": len(set(grams[1])),
        "Distinct-1": len(set(grams[1])) / len(grams[1]),
        "Distinct-2": len(set(grams[2])) / len(grams[2]),
        "Distinct captions": len({tuple(words) for words in captions}) / len(captions),
    }


def drawn(rng, count):
    """Captions of two to five words that rank by Zipf's law, some of them said again and again."""
    words = [f"word{number}" for number in range(200)]
    odds = 1 / np.arange(1, 201)
    stock = [["a", "man"], ["a", "man", "and", "a", "dog"]]
    return [
        stock[rng.integers(2)]
        if rng.random() < 0.3
        else list(rng.choice(words, rng.integers(2, 6), p=odds / odds.sum()))
        for _ in range(count)
    ]


@pytest.mark.parametrize("count", [2, 3, 40])
def test_every_interval_but_the_mean_lengths_is_the_jackknife_done_literally(count):
    captions = drawn(np.random.default_rng(count), count)
    found, value = described(captions), literal(captions)
    without = [literal(captions[:i] + captions[i + 1 :]) for i in range(count)]
    for name in value:
        assert found[name].value == pytest.approx(value[name])
        if name != "Mean length":
            each = np.array([left[name] for left in without])
            error = 1.959964 * ((count - 1) / count * ((each - each.mean()) ** 2).sum()) ** 0.5
            most = np.inf if found[name].unit == "words" else 1
            expected = (max(value[name] - error, 0), min(value[name] + error, most))
            assert (found[name].interval.low, found[name].interval.high) == pytest.approx(expected), name
            assert found[name].interval.n == found[name].n == count


def test_intervals_hold_what_as_many_captions_of_other_images_give_on_average():
    rng = np.random.default_rng(7)
    experiments = [described(drawn(rng, 100)) for _ in range(200)]
    for name in literal([["a", "b"]]):
        expected = np.mean([found[name].value for found in experiments])
        held = np.mean(
            [found[name].interval.low <= expected <= found[name].interval.high for found in experiments]
        )
        assert held > 0.92, name


def test_what_cannot_be_computed_has_no_value_and_a_reason():
    nothing = described([[], []])
    assert nothing["Mean length"].value == nothing["Spread of lengths"].value == 0
    assert nothing["Distinct captions"].value == 0.5
    for name, reason in (
        ("Words used", "no words were said"),
        ("Distinct-1", "no words were said"),
        ("Distinct-2", "no word pairs were said"),
    ):
        assert (nothing[name].value, nothing[name].interval, nothing[name].reason) == (None, None, reason)
    single = described([["one", "two"]])
    assert single["Spread of lengths"].reason == "there are fewer than two captions"
    assert single["Distinct-1"].interval == (1, None, None, 1)
    assert {each.value for each in described([]).values()} == {None}
    assert described([["a"]], [[]])["Mean reference length"].reason == "there are no references"


# ---- retrieval ------------------------------------------------------------------------------------------


def frame(above, ties, images):
    columns = {"retrieval_above": above, "retrieval_ties": ties, "retrieval_images": [images] * len(above)}
    return pd.DataFrame(columns, dtype=float)


def measured(*args):
    return {each.name: each for each in retrieval(frame(*args))}


def test_ties_are_the_mean_over_all_orders_in_which_they_could_stand():
    above, ties = [0, 0, 2, 7, 9, 12], [0, 2, 4, 5, 0, 7]
    found = measured(above, ties, 20)
    # An image with n ties stands anywhere from above + 1 to above + 1 + n; all combinations are as likely.
    ranks = np.array(
        list(itertools.product(*(range(a + 1, a + 2 + t) for a, t in zip(above, ties, strict=True))))
    )
    for k in (1, 5, 10):
        assert found[f"Retrieval recall@{k}"].value == pytest.approx((ranks <= k).mean())
    assert found["Retrieval median rank"].value == pytest.approx(np.median(ranks.mean(axis=0)))


def test_a_perfect_and_a_blind_model_are_at_the_ends_of_the_scale():
    perfect, blind = measured([0] * 50, [0] * 50, 50), measured([0] * 50, [49] * 50, 50)
    for k in (1, 5, 10):
        name = f"Retrieval recall@{k}"
        assert perfect[name].value == 1
        assert perfect[name].interval.low < 1  # 50 images prove no certainty
        assert blind[name].value == pytest.approx(blind[name].chance) == pytest.approx(k / 50)
        assert blind[name].interval.low < blind[name].chance < blind[name].interval.high
    assert perfect["Retrieval median rank"].interval == (1, 1, 1, 50)
    assert blind["Retrieval median rank"].interval == (25.5, 25.5, 25.5, 50)
    assert blind["Retrieval median rank"].chance == 25.5
    assert [each.higher_is_better for each in blind.values()] == [True, True, True, False]
    assert {each.signature for each in blind.values()} == {"among:50"}


@pytest.mark.parametrize("n", [6, 7, 50, 200])
def test_the_medians_interval_is_the_narrowest_of_the_binomial_ones_that_cover(n):
    found = measured(np.arange(n), [0] * n, n)["Retrieval median rank"]
    assert found.value == (n + 1) / 2
    low, high = (
        found.interval.low,
        found.interval.high,
    )  # the ranks are 1 … n: order statistics are their places
    assert low + high == n + 1
    assert 1 - 2 * binom.cdf(low - 1, n, 0.5) >= 0.95  # low or fewer of n lie below the median
    assert 1 - 2 * binom.cdf(low, n, 0.5) < 0.95


def test_guesses_are_held_by_their_intervals_as_often_as_promised():
    rng = np.random.default_rng(3)
    held = dict.fromkeys(("Retrieval median rank", *(f"Retrieval recall@{k}" for k in (1, 5, 10))), 0)
    for _ in range(400):
        for each in retrieval(frame(rng.integers(100, size=100), [0] * 100, 100)):
            held[each.name] += each.interval.low <= each.chance <= each.interval.high
    assert all(count / 400 > 0.94 for count in held.values()), held


def test_images_that_could_not_be_ranked_are_left_out():
    nan = np.nan
    found = measured([0, nan, 1, nan], [0, nan, 0, nan], 4)
    assert (found["Retrieval recall@1"].value, found["Retrieval recall@1"].n) == (0.5, 2)
    assert found["Retrieval median rank"].interval == (1.5, None, None, 2)  # fewer than six can't say
    for each in measured([nan], [nan], 4).values():
        assert (each.value, each.interval, each.n, each.reason) == (
            None,
            None,
            0,
            "no caption could be ranked",
        )


def test_a_frame_without_ranks_has_no_such_metrics():
    assert list(retrieval(pd.DataFrame({"CIDEr": [1.0]}))) == []


def test_nothing_here_needs_torch():
    code = "import sys, bench.scoring.variety; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
