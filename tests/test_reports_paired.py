"""Paired tests of two runs: laws, the literal program, sacrebleu's program on the same captions."""

import itertools
import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest as SacrePairedTest

from reports.stats import (
    BLEU_STATISTICS,
    METEOR_STATISTICS,
    bleu,
    corpus_scores,
    holm,
    metric_intervals,
    paired_tests,
    resample_weights,
)

WORDS = (
    *("a", "man", "on", "the", "red", "bike", "rides", "dog", "in", "park", "with"),
    *("two", "girl", "ball", "runs", "green", "street", "near", "water", "old"),
)


def captions(n, seed=0):
    """References of n images, and a function that says them again with a share of the words wrong or left out."""
    rng = np.random.default_rng(seed)
    references = [
        [" ".join(rng.choice(WORDS, rng.integers(6, 12))) for _ in range(rng.integers(3, 6))]
        for _ in range(n)
    ]

    def said(wrong, seed):
        rng = np.random.default_rng(seed)

        def say(word):
            if rng.random() >= wrong:
                return [word]
            return [str(rng.choice(WORDS))] if rng.random() < 0.7 else []

        return [" ".join(w for word in texts[0].split() for w in say(word)) for texts in references]

    return references, said


def scored(hypotheses, references, seed=0):
    """BLEU of captions, beside them a made-up mean."""
    found = [
        cook_test(caption, cook_refs(texts), eff="closest")
        for caption, texts in zip(hypotheses, references, strict=True)
    ]
    counts = np.array([[f["testlen"], f["reflen"], *f["correct"], *f["guess"]] for f in found], dtype=float)
    frame = pd.DataFrame(bleu(counts), columns=[f"BLEU-{order}" for order in range(1, 5)])
    frame = frame.join(pd.DataFrame(counts, columns=BLEU_STATISTICS))
    frame["CIDEr"] = frame["BLEU-2"] * 2
    return frame.set_axis([f"image {number:04d}" for number in range(len(frame))])


def pair(n, seed=0, first=0.4, second=0.45):
    references, said = captions(n, seed)
    return scored(said(first, seed + 1), references), scored(said(second, seed + 2), references)


def test_all_swaps_of_few_images_are_what_the_permutation_draws_from():
    first, second = pair(7, second=0.8)
    statistics = [frame[list(BLEU_STATISTICS)].to_numpy() for frame in (first, second)]
    found = []
    for swaps in itertools.product([False, True], repeat=7):
        swapped = np.array(swaps)[:, None]
        one, two = np.where(swapped, *statistics[::-1]), np.where(swapped, *statistics)
        found.append(bleu(two.sum(axis=0))[3] - bleu(one.sum(axis=0))[3])
    test = paired_tests(first, second, permutations=20_000)["BLEU-4"]
    worse = np.mean(np.array(found) <= test.difference + 1e-12)
    differs = np.mean(np.abs(found) >= abs(test.difference) - 1e-12)
    assert test.difference == pytest.approx(corpus_scores(second)["BLEU-4"] - corpus_scores(first)["BLEU-4"])
    # Four standard errors of a share of 20,000.
    assert test.p_worse == pytest.approx(worse, abs=4 * (worse * (1 - worse) / 20_000) ** 0.5 + 1e-4)
    assert test.p_differs == pytest.approx(differs, abs=4 * (differs * (1 - differs) / 20_000) ** 0.5 + 1e-4)


def test_the_interval_is_of_differences_on_the_same_resampled_images():
    first, second = pair(50)
    drawn = []
    for row in resample_weights(50, resamples=200, seed=4):
        images = np.repeat(np.arange(50), row.astype(int))
        sums = [frame[list(BLEU_STATISTICS)].to_numpy()[images].sum(axis=0) for frame in (first, second)]
        drawn.append(bleu(sums[1])[2] - bleu(sums[0])[2])
    test = paired_tests(first, second, resamples=200, permutations=10, seed=4)["BLEU-3"]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert test.low + test.high == pytest.approx(2 * test.difference)
    # 2.00957524 is Student's t of 49 degrees of freedom.
    width = (high - low) * 2.00957524 / 1.95996398 * (50 / 49) ** 0.5
    assert test.high - test.low == pytest.approx(width, rel=1e-7)


def test_a_run_does_not_differ_from_itself():
    first, _ = pair(20)
    for test in paired_tests(first, first, permutations=50).values():
        assert test == (0, 0, 0, 1, 1, 20, 0)


def test_changing_places_turns_the_sign():
    first, second = pair(40)
    there, back = paired_tests(first, second), paired_tests(second, first)
    for name, test in there.items():
        assert back[name].difference == -test.difference
        assert (back[name].low, back[name].high) == pytest.approx((-test.high, -test.low))
        assert back[name].p_differs == pytest.approx(test.p_differs, abs=0.02)
        # A difference is this low, or this high, or has this size: only the size itself is counted twice.
        assert back[name].p_worse + test.p_worse == pytest.approx(1, abs=0.03)


def test_a_clear_loss_is_worse_and_a_clear_gain_is_not():
    first, second = pair(200, second=0.8)
    loss, gain = paired_tests(first, second)["BLEU-4"], paired_tests(second, first)["BLEU-4"]
    assert (loss.p_worse, gain.p_worse) == (1 / 10_001, 1)
    assert loss.high < 0 < gain.low


def test_the_order_of_the_rows_and_other_metrics_change_no_digit():
    first, second = pair(30)
    expected = paired_tests(first, second, permutations=500)
    shuffled = paired_tests(
        first.sample(frac=1, random_state=1), second.sample(frac=1, random_state=2), permutations=500
    )
    assert shuffled == expected
    alone = paired_tests(first[["CIDEr"]], second[["CIDEr"]], permutations=500)
    assert alone["CIDEr"] == pytest.approx(expected["CIDEr"], abs=1e-12)


def test_each_metric_is_tested_on_the_images_that_have_it_in_both_runs():
    first, second = pair(30)
    first.iloc[4, first.columns.get_loc("CIDEr")] = np.nan
    second.iloc[9, second.columns.get_loc("CIDEr")] = np.nan
    first["METEOR"] = np.nan
    for name in METEOR_STATISTICS:
        first[name] = np.nan
    second["SPICE"] = 0.5
    tests = paired_tests(first, second, permutations=50)
    assert list(tests) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "CIDEr"]
    assert (tests["BLEU-4"].n, tests["CIDEr"].n) == (30, 28)
    both = first["CIDEr"].notna() & second["CIDEr"].notna()
    assert tests["CIDEr"].difference == pytest.approx((second["CIDEr"] - first["CIDEr"])[both].mean())


def test_changed_counts_the_images_whose_statistics_differ():
    first, _ = pair(30)
    second = first.copy()
    second.iloc[3, second.columns.get_loc("CIDEr")] += 0.5
    tests = paired_tests(first, second, permutations=4000)
    assert {name: test.changed for name, test in tests.items()} == dict.fromkeys(tests, 0) | {"CIDEr": 1}
    assert tests["CIDEr"].p_worse == 1  # swapped or not, the difference is at most this
    assert tests["CIDEr"].p_differs == 1


def test_one_image_has_a_difference_but_no_interval():
    first, second = pair(1)
    test = paired_tests(first, second, permutations=50)["BLEU-1"]
    assert (test.low, test.high, test.n) == (None, None, 1)


def test_runs_over_other_images_are_refused_by_name():
    first, second = pair(10)
    with pytest.raises(
        ValueError, match=r"2 images are in one run alone: image 0003, image 0007; give two runs"
    ):
        paired_tests(first.drop("image 0003"), second.drop("image 0007"))
    with pytest.raises(
        ValueError, match=r"the second run has image 'image 0000' more than once; give one row"
    ):
        paired_tests(first, pd.concat([second, second.iloc[:1]]))


def test_a_paired_interval_is_narrower_than_the_runs_own():
    first, _ = pair(300)
    second = first.copy()
    second.iloc[:30] = pair(300, second=0.7)[1].iloc[:30]
    test, alone = paired_tests(first, second, permutations=10)["BLEU-4"], metric_intervals(first)["BLEU-4"]
    assert test.high - test.low < (alone.high - alone.low) / 2


def test_holms_procedure_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert holm({}) == {}
    assert list(holm({2: 0.9, 1: 0.8})) == [2, 1]
    assert holm({("CIDEr", 3): 0.9, ("CIDEr", 5): 0.8}) == {("CIDEr", 3): 1.0, ("CIDEr", 5): 1.0}


@given(st.dictionaries(st.integers(), st.floats(0, 1), max_size=8), st.sampled_from([0.01, 0.05, 0.2]))
def test_adjusted_p_values_reject_what_holm_rejects_step_by_step(p_values, alpha):
    rejected, left = set(), dict(p_values)
    while left and min(left.values()) * len(left) < alpha:  # written as a product, to round like the subject
        smallest = min(left, key=left.get)
        rejected.add(smallest)
        del left[smallest]
    adjusted = holm(p_values)
    assert {key for key, p in adjusted.items() if p < alpha} == rejected
    assert all(p_values[key] <= p <= 1 for key, p in adjusted.items())


def sacre(kind, first, second, references, samples):
    """Scores and the p-value that sacrebleu gives; its references come by place, not by image."""
    most = max(map(len, references))
    places = [[texts[k] if k < len(texts) else None for texts in references] for k in range(most)]
    metric = BLEU(tokenize="none", smooth_method="none", force=True)
    systems = [("first", first), ("second", second)]
    _, found = SacrePairedTest(systems, {"BLEU": metric}, places, test_type=kind, n_samples=samples)()
    return [result.score / 100 for result in found["BLEU"]], found["BLEU"][1].p_value


@pytest.mark.parametrize(("second", "least", "most"), [(0.4, 0.3, 1), (0.46, 0.003, 0.3), (0.55, 0, 0.002)])
def test_bleu_and_p_values_are_sacrebleus(second, least, most, monkeypatch):
    monkeypatch.setattr(logging.getLogger("sacrebleu"), "disabled", True)
    references, said = captions(150, seed=5)
    runs = [said(0.4, seed=6), said(second, seed=8)]
    first, other = (scored(run, references) for run in runs)
    samples = 4000
    test = paired_tests(first, other, permutations=samples)["BLEU-4"]
    scores, swapped = sacre("ar", *runs, references, samples)
    _, resampled = sacre("bs", *runs, references, samples)
    for frame, score in zip((first, other), scores, strict=True):
        assert corpus_scores(frame)["BLEU-4"] == pytest.approx(score, rel=1e-8)  # 1e-15 and 1e-9 are added
    assert least <= test.p_differs <= most
    # Two independent shares of 4,000; four standard errors of their difference.
    close = 4 * (2 * swapped * (1 - swapped) / samples) ** 0.5 + 2 / samples
    assert test.p_differs == pytest.approx(swapped, abs=close)
    weights = resample_weights(150, resamples=samples)
    drawn = [bleu(weights @ frame[list(BLEU_STATISTICS)].to_numpy())[:, 3] for frame in (first, other)]
    sizes = np.abs(drawn[1] - drawn[0])  # as sacrebleu has it, after Moses: sizes less their mean
    ours = (np.sum(sizes - sizes.mean() > abs(test.difference)) + 1) / (samples + 1)
    assert ours == pytest.approx(
        resampled, abs=4 * (2 * resampled * (1 - resampled) / samples) ** 0.5 + 2 / samples
    )
