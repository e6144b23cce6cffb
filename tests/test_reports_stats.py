import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test
from scipy.stats import binomtest
from scipy.stats import t as student

from reports.stats import (
    BLEU_STATISTICS,
    METEOR_STATISTICS,
    Interval,
    bleu,
    corpus_scores,
    meteor,
    metric_intervals,
    ratio_interval,
    ratio_intervals,
    resample_weights,
    resampled_sums,
    share_interval,
)

# What `java -jar meteor-1.5.jar - - -stdio -l en -norm` printed for SCORE, and for EVAL of its lines.
# In the fourth line, a caption that is its reference, it printed 1 chunk, but adds up as if there were none.
METEOR_LINES = """
11.0 8.0 4.0 4.0 1.0 1.0 3.0 3.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 3.0 4.0 4.0
9.0 13.0 4.0 7.0 2.0 2.0 4.0 4.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 4.0 6.0 6.0
20.0 13.0 7.0 7.0 3.0 3.0 4.0 4.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 5.0 7.0 7.0
5.0 5.0 2.0 2.0 3.0 3.0 2.0 2.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 5.0 5.0
2.0 3.0 0.0 1.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0
5.0 6.0 2.0 3.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 1.0 1.0 0.0 0.0 2.0 2.0 0.0 3.0 2.0 3.0 6.0
"""
METEOR_PRINTED = (
    0.14992996883794543,
    0.18536732494230845,
    0.20275754763914502,
    1.0,
    0.0,
    0.30949174224767373,
)
METEOR_PRINTED_FOR_ALL = 0.22557817989535603

sentences = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=8).map(" ".join)


def meteor_rows():
    return np.array([line.split() for line in METEOR_LINES.strip().splitlines()], dtype=float)


def literal_meteor(row):
    """Denkowski & Lavie 2014, written out for one row of numbers."""
    alpha, beta, gamma, delta = 0.85, 0.2, 0.6, 0.75
    hyp_words, ref_words, hyp_function, ref_function = row[:4]
    hyp_matched = ref_matched = 0.0
    for matcher, weight in enumerate((1.0, 0.6, 0.8, 0.6)):
        hyp_content, ref_content, hyp_f, ref_f = row[4 + 4 * matcher : 8 + 4 * matcher]
        hyp_matched += weight * (delta * hyp_content + (1 - delta) * hyp_f)
        ref_matched += weight * (delta * ref_content + (1 - delta) * ref_f)
    chunks, hyp_all, ref_all = row[20:]
    if hyp_all == 0:
        return 0.0
    precision = hyp_matched / (delta * (hyp_words - hyp_function) + (1 - delta) * hyp_function)
    recall = ref_matched / (delta * (ref_words - ref_function) + (1 - delta) * ref_function)
    fragmentation = chunks / ((hyp_all + ref_all) / 2)
    return (1 - gamma * fragmentation**beta) / (alpha / recall + (1 - alpha) / precision)


def bleu_row(hypothesis, references):
    found = cook_test(hypothesis, cook_refs(references), eff="closest")
    return [found["testlen"], found["reflen"], *found["correct"], *found["guess"]]


def literal_wilson(share, n, z):
    """The shares x for which |share - x| = z standard errors, which are those of x (Wilson 1927)."""
    return sorted(np.roots([1 + z * z / n, -2 * share - z * z / n, share**2]).real)


def literal_interval(value, drawn, n, top=None):
    """Student's interval, or Wilson's of as many images, all right or all wrong, as have the standard error."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    error, t = (high - low) / (2 * 1.959963984540054) * (n / (n - 1)) ** 0.5, student.ppf(0.975, n - 1)
    if top is None:
        return value - t * error, value + t * error
    share = value / top
    return tuple(top * x for x in literal_wilson(share, share * (1 - share) / (error / top) ** 2, t))


def scores_frame(n, seed=0):
    """Scores of n images as the scorer gives them, made up but consistent."""
    rng = np.random.default_rng(seed)
    words = ["a", "man", "on", "the", "red", "bike", "rides"]
    captions = [[" ".join(rng.choice(words, rng.integers(4, 9))) for _ in range(3)] for _ in range(n)]
    counts = np.array([bleu_row(first, rest) for first, *rest in captions], dtype=float)
    aligned = meteor_rows()[rng.integers(6, size=n)]
    frame = pd.DataFrame(bleu(counts), columns=[f"BLEU-{order}" for order in range(1, 5)])
    frame = frame.assign(METEOR=meteor(aligned), **{"ROUGE-L": rng.random(n), "CIDEr": rng.gamma(2, 0.4, n)})
    frame = frame.join(pd.DataFrame(counts, columns=BLEU_STATISTICS))
    frame = frame.join(pd.DataFrame(aligned, columns=METEOR_STATISTICS))
    return frame.set_axis([f"image {number:04d}" for number in rng.permutation(n)])


@given(st.lists(st.tuples(sentences, st.lists(sentences, min_size=1, max_size=3)), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_bleu_of_statistics_is_pycocoevalcaps_per_image_and_corpus(pairs):
    rows = np.array([bleu_row(hypothesis, references) for hypothesis, references in pairs], dtype=float)
    corpus, per_image = Bleu(4).compute_score(
        {number: references for number, (_, references) in enumerate(pairs)},
        {number: [hypothesis] for number, (hypothesis, _) in enumerate(pairs)},
        verbose=0,
    )
    np.testing.assert_allclose(bleu(rows), np.array(per_image).T, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(bleu(rows.sum(axis=0)), corpus, rtol=1e-12, atol=1e-12)


def test_meteor_of_statistics_is_what_the_java_program_prints_per_image_and_corpus():
    rows = meteor_rows()
    np.testing.assert_allclose(meteor(rows), METEOR_PRINTED, rtol=0, atol=1e-15)
    assert meteor(rows.sum(axis=0)) == pytest.approx(METEOR_PRINTED_FOR_ALL, abs=1e-15)


def test_meteor_equals_the_formula_written_out():
    rng = np.random.default_rng(3)
    matched = rng.integers(0, 3, (200, 4, 4)).astype(float)
    sides = matched.reshape(200, 4, 2, 2).sum(axis=(1, 2))
    function_words = matched.reshape(200, 4, 2, 2)[:, :, 1].sum(axis=1) + rng.integers(0, 3, (200, 2))
    lengths = sides + function_words + rng.integers(0, 4, (200, 2))
    chunks = np.ceil(sides.max(axis=1, keepdims=True) / rng.integers(1, 4, (200, 1)))
    rows = np.hstack([lengths, function_words, matched.reshape(200, 16), chunks, sides])
    np.testing.assert_allclose(meteor(rows), [literal_meteor(row) for row in rows], rtol=1e-13)


def test_every_statistic_has_a_name_of_its_own_that_is_no_metric():
    names = (*BLEU_STATISTICS, *METEOR_STATISTICS)
    assert len(BLEU_STATISTICS) == 10
    assert len(METEOR_STATISTICS) == 23
    assert len(set(names)) == 33
    assert all(name == name.lower() for name in names)


def test_each_resample_draws_as_many_images_as_there_are():
    weights = resample_weights(7, resamples=50, seed=1)
    assert weights.shape == (50, 7)
    assert (weights.sum(axis=1) == 7).all()
    assert (weights == resample_weights(7, resamples=50, seed=1)).all()
    assert (weights != resample_weights(7, resamples=50, seed=2)).any()


def test_every_image_is_drawn_equally_often():
    weights = resample_weights(20, resamples=4000)
    # The mean of 4,000 counts with variance 0.95 has standard error 0.0154; five of those.
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.077)
    np.testing.assert_allclose(weights.var(), 0.95, atol=0.03)


@pytest.mark.parametrize("n", [3000, 3001])
def test_sums_made_in_blocks_are_weights_times_statistics(n):
    statistics = (
        np.random.default_rng(0).integers(0, 9, (n, 2)).astype(float)
    )  # blocks of 699 and 698 resamples
    sums = resampled_sums(statistics, resamples=1500, seed=5)
    np.testing.assert_array_equal(sums, resample_weights(n, resamples=1500, seed=5) @ statistics)


def test_intervals_equal_a_loop_over_resampled_images():
    frame = scores_frame(40).sort_index()
    drawn = {name: [] for name in frame if name != name.lower()}
    for row in resample_weights(40, resamples=60, seed=9):
        images = frame.iloc[np.repeat(np.arange(40), row.astype(int))]
        counted, aligned = images[list(BLEU_STATISTICS)].sum(), images[list(METEOR_STATISTICS)].sum()
        for order in range(1, 5):
            product = 1.0
            for n in range(1, order + 1):
                product *= (counted[f"bleu_matches_{n}"] + 1e-15) / (counted[f"bleu_totals_{n}"] + 1e-9)
            ratio = (counted["bleu_hypothesis_length"] + 1e-15) / (counted["bleu_reference_length"] + 1e-9)
            drawn[f"BLEU-{order}"].append(product ** (1 / order) * min(1, np.exp(1 - 1 / ratio)))
        drawn["METEOR"].append(literal_meteor(aligned.to_numpy()))
        for name in ("ROUGE-L", "CIDEr"):
            drawn[name].append(images[name].mean())
    intervals = metric_intervals(frame, resamples=60, seed=9)
    assert list(intervals) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr"]
    for name, interval in intervals.items():
        expected = literal_interval(interval.value, drawn[name], 40, top=10 if name == "CIDEr" else 1)
        assert (interval.low, interval.high) == pytest.approx(expected, rel=1e-9)
        assert interval.value == corpus_scores(frame)[name]
        assert interval.n == 40


def test_the_order_of_the_images_changes_no_digit():
    frame = scores_frame(30)
    shuffled = frame.sample(frac=1, random_state=1)
    assert metric_intervals(shuffled) == metric_intervals(frame)
    assert corpus_scores(shuffled) == corpus_scores(frame)


def test_corpus_bleu_is_not_the_mean_of_the_images():
    frame = scores_frame(30)
    assert abs(corpus_scores(frame)["BLEU-2"] - frame["BLEU-2"].mean()) > 0.01


def test_each_metric_has_its_own_images():
    frame = scores_frame(12).sort_index()
    gaps = frame.copy()
    gaps.loc[gaps.index[3], ["METEOR", *METEOR_STATISTICS]] = np.nan
    gaps["SPICE"] = np.linspace(0.1, 0.4, 12)
    gaps.loc[gaps.index[[5, 7]], "SPICE"] = np.nan
    full, found = metric_intervals(frame), metric_intervals(gaps)
    assert {name: found[name] for name in full if name != "METEOR"} == {
        name: interval for name, interval in full.items() if name != "METEOR"
    }
    assert found["METEOR"] == metric_intervals(frame.drop(frame.index[3]))["METEOR"]
    assert (found["METEOR"].n, found["SPICE"].n, found["CIDEr"].n) == (11, 10, 12)
    assert found["SPICE"].value == pytest.approx(np.delete(np.linspace(0.1, 0.4, 12), [5, 7]).mean())
    assert corpus_scores(gaps) == {name: interval.value for name, interval in found.items()}


def test_two_rows_of_one_image_are_refused():
    frame = scores_frame(4)
    with pytest.raises(AssertionError, match="one row per image"):
        metric_intervals(pd.concat([frame, frame]))


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 7), (30, 100), (499, 500), (500, 500)])
def test_share_interval_is_wilsons(successes, n):
    interval = share_interval(successes, n)
    assert (interval.value, interval.n) == (successes / n, n)
    low, high = literal_wilson(successes / n, n, 1.959963984540054)
    assert (interval.low, interval.high) == pytest.approx((max(low, 0), min(high, 1)), abs=1e-7)
    test = binomtest(successes, n).proportion_ci(method="wilson")
    assert (interval.low, interval.high) == pytest.approx((test.low, test.high), abs=1e-12)


def test_a_share_of_none_or_all_has_an_interval_with_an_end():
    none, every = share_interval(0, 500), share_interval(500, 500)
    assert (none.value, none.low) == (0, 0)
    assert none.high == pytest.approx(0.00762, abs=1e-5)
    assert every == pytest.approx((1, 1 - none.high, 1, 500))
    frame = scores_frame(500).assign(**{"Exact match": 0.0})
    assert metric_intervals(frame, resamples=50)["Exact match"] == none
    assert ratio_interval(np.ones(500), np.ones(500)) == every
    words = np.random.default_rng(0).integers(5, 14, 500).astype(float)
    assert ratio_interval(np.zeros(500), words, resamples=50) == pytest.approx(
        (0, 0, none.high, 500), rel=0.01
    )
    assert ratio_interval(words, words, resamples=50) == pytest.approx((1, every.low, 1, 500), rel=0.01)


def test_a_share_of_words_is_as_wide_as_the_bootstrap_says_and_stays_within_0_and_1():
    rng = np.random.default_rng(1)
    words = rng.integers(1, 9, 60).astype(float)
    true = rng.binomial(words.astype(int), rng.beta(8, 0.5, 60)).astype(float)
    sums = resample_weights(60) @ np.stack([true, words], axis=1)
    interval = ratio_interval(true, words)
    expected = literal_interval(true.sum() / words.sum(), sums[:, 0] / sums[:, 1], 60, top=1)
    assert (interval.low, interval.high) == pytest.approx(expected, rel=1e-9)
    assert 0 < interval.low < interval.value < interval.high < 1


def test_other_ratios_have_students_interval_and_end_where_the_images_end():
    rng = np.random.default_rng(2)
    words, ones = rng.integers(5, 14, 80).astype(float), np.ones(80)
    drawn = resample_weights(80) @ words / 80
    interval = ratio_interval(words, ones)
    assert (interval.low, interval.high) == pytest.approx(literal_interval(words.mean(), drawn, 80), rel=1e-9)
    ahead = np.zeros(80)
    ahead[3] = 0.3  # one image of 80 is better, none is worse: no proof that the mean is above 0
    assert ratio_interval(ahead, ones).low == 0
    assert ratio_interval(-ahead, ones).high == 0


def test_a_metric_of_unknown_range_has_students_interval():
    frame = scores_frame(50).sort_index()
    frame["Agreement"] = np.random.default_rng(3).uniform(-1, 1, 50)
    interval = metric_intervals(frame)["Agreement"]
    drawn = resample_weights(50) @ frame["Agreement"].to_numpy() / 50
    expected = literal_interval(frame["Agreement"].mean(), drawn, 50)
    assert (interval.low, interval.high) == pytest.approx(expected, rel=1e-9)


def test_one_image_has_a_value_but_no_interval():
    intervals = metric_intervals(scores_frame(1))
    assert all(interval.low is None and interval.high is None for interval in intervals.values())
    assert all(interval.n == 1 for interval in intervals.values())
    assert ratio_interval(np.array([3.0]), np.array([4.0])) == Interval(0.75, None, None, 1)


def test_a_metric_without_values_is_none_and_the_others_stay():
    frame = scores_frame(10)
    full = metric_intervals(frame)
    frame[["METEOR", *METEOR_STATISTICS]] = np.nan
    assert metric_intervals(frame) == full | {"METEOR": None}
    assert corpus_scores(frame)["METEOR"] is None


def test_an_image_without_scores_is_left_out():
    frame = scores_frame(10).sort_index()
    expected = metric_intervals(frame.iloc[:9])
    frame.iloc[9] = np.nan
    assert metric_intervals(frame) == expected


def test_no_images_give_no_intervals():
    assert set(metric_intervals(scores_frame(3).iloc[:0]).values()) == {None}
    assert set(corpus_scores(scores_frame(3).iloc[:0]).values()) == {None}


def test_ratio_interval_weighs_images_by_their_denominators():
    interval = ratio_interval(np.array([1.0, 9.0, 5.0]), np.array([1.0, 3.0, 0.0]), resamples=200)
    assert interval.value == 2.5
    assert interval.n == 2
    assert 1 <= interval.low <= 2.5 <= interval.high <= 3


def test_ratio_interval_of_nothing_is_none():
    assert ratio_interval(np.zeros(3), np.zeros(3)) is None


def test_many_ratios_at_once_are_each_what_it_is_alone():
    rng = np.random.default_rng(0)
    denominators = rng.integers(0, 4, (30, 6)).astype(float)
    numerators = np.where(denominators > 0, rng.normal(size=(30, 6)), 0.0)
    denominators[:, 3], numerators[:, 3] = 0.0, 0.0
    denominators[:, 4], numerators[:, 4] = 1.0, rng.integers(0, 2, 30)
    denominators[:, 5], numerators[:, 5] = denominators[:, 0], 2 * numerators[:, 0]
    together = ratio_intervals(numerators, denominators)
    for column, found in enumerate(together):
        alone = ratio_interval(numerators[:, column], denominators[:, column])
        if column == 3:
            assert found is None
            assert alone is None
        else:
            assert found == pytest.approx(alone)
    assert together[4] == share_interval(int(numerators[:, 4].sum()), 30)


def test_what_was_drawn_is_not_kept_for_many_images(monkeypatch):
    parts = np.random.default_rng(0).random((20, 2))
    kept = ratio_interval(*parts.T)
    monkeypatch.setattr("reports.stats._BLOCK", 100)
    assert ratio_interval(*parts.T) == pytest.approx(kept)
