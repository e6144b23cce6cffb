"""Do the intervals hold the truth as often as they say, and the tests err as rarely? Simulated, with fixed seeds.

A population of images with five correlated beams of captions and three to five references each stands for the world;
its corpus scores are the truth. Samples are drawn from it with replacement, as from an endless world.
docs/statistics.md has the results of far more samples.
"""

from collections import Counter, defaultdict

import numpy as np
import pandas as pd
import pytest
from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from reports.stats import (
    BLEU_STATISTICS,
    METEOR_STATISTICS,
    bleu,
    corpus_scores,
    holm,
    meteor,
    metric_intervals,
    paired_tests,
    ratio_interval,
    share_interval,
)

IMAGES = 700
CONTENT = [f"thing{number}" for number in range(300)]
FUNCTION = ("a", "the", "in", "on", "with", "of")
METRICS = ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr"]


def meteor_row(caption, references):
    """METEOR's numbers if words match exactly or not at all, for the reference that scores best."""
    rows = []
    said = caption.split()
    for text in references:
        heard = text.split()
        places, matched = defaultdict(list), []
        for place, word in enumerate(heard):
            places[word].append(place)
        matched = [(place, places[word].pop(0)) for place, word in enumerate(said) if places[word]]
        function = sum(said[place] in FUNCTION for place, _ in matched)
        chunks = sum(
            k == 0 or matched[k] != (matched[k - 1][0] + 1, matched[k - 1][1] + 1)
            for k in range(len(matched))
        )
        kinds = [len(matched) - function] * 2 + [function] * 2
        functions = [sum(word in FUNCTION for word in words) for words in (said, heard)]
        rows.append([len(said), len(heard), *functions, *kinds, *[0] * 12, chunks, *[len(matched)] * 2])
    return max(rows, key=lambda row: meteor(np.array(row, float)))


def scored(captions, references):
    """All statistics of one caption per image, as the scorer gives them."""
    found = [
        cook_test(caption, cook_refs(texts), eff="closest")
        for caption, texts in zip(captions, references, strict=True)
    ]
    counts = np.array([[f["testlen"], f["reflen"], *f["correct"], *f["guess"]] for f in found], dtype=float)
    aligned = np.array(list(map(meteor_row, captions, references)), dtype=float)
    rouge = [
        Rouge().calc_score([caption], texts) for caption, texts in zip(captions, references, strict=True)
    ]
    _, cider = Cider().compute_score(
        dict(enumerate(references)), {number: [caption] for number, caption in enumerate(captions)}
    )
    frame = pd.DataFrame(bleu(counts), columns=METRICS[:4])
    frame = frame.assign(METEOR=meteor(aligned), **{"ROUGE-L": rouge, "CIDEr": cider})
    frame = frame.join(pd.DataFrame(counts, columns=BLEU_STATISTICS))
    return frame.join(pd.DataFrame(aligned, columns=METEOR_STATISTICS))


@pytest.fixture(scope="module")
def population():
    """Five beams, and captions of the wrong images."""
    rng = np.random.default_rng(6)
    common = 1 / np.arange(1, len(CONTENT) + 1) ** 0.7
    common /= common.sum()
    references, beams = [], [[] for _ in range(5)]

    def say(topic, wrong):
        words = []
        for word in rng.permutation(topic)[: rng.integers(3, 6)]:
            words += [
                str(rng.choice(FUNCTION)),
                str(rng.choice(CONTENT, p=common)) if rng.random() < wrong else word,
            ]
        return words

    def again(words):
        return [str(rng.choice(CONTENT, p=common)) if rng.random() < 0.15 else word for word in words]

    for _ in range(IMAGES):
        topic = rng.choice(CONTENT, 6, replace=False, p=common).tolist()
        references.append([" ".join(say(topic, 0.2)) for _ in range(rng.integers(3, 6))])
        likeness = rng.beta(2, 1)
        best = references[-1][0].split() if rng.random() < 0.2 else say(topic, 1 - likeness)
        for beam in beams:
            beam.append(" ".join(best if rng.random() < 0.5 else again(best)))
    wrong = beams[0][1:] + beams[0][:1]
    return [scored(captions, references) for captions in (*beams, wrong)]


def coverage(beams, n, samples, resamples=400, seed=0):
    """How often the truth lies in the intervals, by metric, and in those of differences from the first beam."""
    truths = [corpus_scores(frame) for frame in beams]
    held, tried = Counter(), Counter()
    for sample in range(samples):
        rows = np.random.default_rng([seed, n, sample]).integers(len(beams[0]), size=n)
        drawn = [frame.iloc[rows].reset_index(drop=True) for frame in beams]
        found = [metric_intervals(frame, resamples=resamples, seed=sample) for frame in drawn]
        cases = [(name, found[k][name], truths[k][name]) for k in range(len(beams)) for name in METRICS]
        for k in (1, len(beams) - 1):
            tests = paired_tests(drawn[0], drawn[k], resamples=resamples, permutations=1, seed=sample)
            cases += [
                (f"difference in {name}", tests[name], truths[k][name] - truths[0][name]) for name in METRICS
            ]
        for name, interval, truth in cases:
            held[name] += interval.low <= truth <= interval.high
            tried[name] += 1
    return {name: held[name] / tried[name] for name in held}


@pytest.mark.slow
def test_intervals_of_all_metrics_hold_the_truth_nineteen_times_in_twenty(population):
    found = coverage(population[:3], 100, samples=150, seed=1)
    assert set(found) == {*METRICS, *(f"difference in {name}" for name in METRICS)}
    # 150 samples, beams alike: the standard error is 0.018; three of those.
    assert all(share >= 0.895 for share in found.values()), found
    assert np.mean(list(found.values())) == pytest.approx(0.95, abs=0.02)


def clustered(rng, share, alike, whole):
    """How many of the things an image holds are as they should be; those of one image are alike."""
    return rng.binomial(whole.astype(int), rng.beta(share * alike, (1 - share) * alike, len(whole))).astype(
        float
    )


RATIOS = {
    "half of the images": (0.5, lambda rng, n: (rng.binomial(1, 0.5, n), np.ones(n))),
    "1 % of the images": (0.01, lambda rng, n: (rng.binomial(1, 0.01, n), np.ones(n))),
    "99.5 % of the images": (0.995, lambda rng, n: (rng.binomial(1, 0.995, n), np.ones(n))),
    "unknown words": (0.1, lambda rng, n: (clustered(rng, 0.1, 3, w := rng.integers(5, 14, n)), w)),
    "true words": (0.9, lambda rng, n: (clustered(rng, 0.9, 2, w := rng.integers(0, 5, n)), w)),
    "true words, nearly all": (
        0.995,
        lambda rng, n: (clustered(rng, 0.995, 2, w := rng.integers(0, 5, n)), w),
    ),
    "mean length": (9, lambda rng, n: (rng.integers(5, 14, n), np.ones(n))),
    "mean over words": (0.8, lambda rng, n: (rng.beta(20, 5, n) * (w := rng.integers(5, 14, n)), w)),
    "skewed mean": (1, lambda rng, n: (rng.exponential(size=n), np.ones(n))),
}


def ratio_coverage(truth, draw, n, samples, resamples=400):
    held = 0
    for sample in range(samples):
        numerators, denominators = draw(np.random.default_rng([1, n, sample]), n)
        interval = ratio_interval(
            np.asarray(numerators, float), np.asarray(denominators, float), resamples=resamples, seed=sample
        )
        held += interval.low <= truth <= interval.high
    return held / samples


@pytest.mark.parametrize("name", RATIOS)
def test_intervals_of_means_and_shares_hold_the_truth(name):
    truth, draw = RATIOS[name]
    # Three standard errors of 600 samples, and what whole numbers of few cases do to any interval of shares.
    assert 0.9 <= ratio_coverage(truth, draw, 300, samples=600) <= 0.985


def test_wilsons_interval_holds_the_truth_on_average_over_shares():
    rng = np.random.default_rng(2)
    shares = rng.uniform(0.002, 0.998, 2000)
    intervals = [share_interval(int(rng.binomial(200, share)), 200) for share in shares]
    covered = np.mean([i.low <= share <= i.high for i, share in zip(intervals, shares, strict=True)])
    assert covered == pytest.approx(0.95, abs=0.015)


def type_one_errors(beams, n, samples, permutations, alpha=0.05):
    """How often a run that is no worse is found to be worse, by metric: the runs change places image by image."""
    names = [*METRICS, *BLEU_STATISTICS, *METEOR_STATISTICS]
    wrong = Counter()
    for sample in range(samples):
        rng = np.random.default_rng([2, n, sample])
        rows, swap = rng.integers(len(beams[0]), size=n), rng.random(n)[:, None] < 0.5
        one, two = (frame[names].to_numpy()[rows] for frame in beams[:2])
        runs = [pd.DataFrame(np.where(swap, *pair), columns=names) for pair in ((one, two), (two, one))]
        tests = paired_tests(*runs, resamples=1, permutations=permutations, seed=sample)
        wrong.update(name for name in METRICS if tests[name].p_worse < alpha)
    return {name: wrong[name] / samples for name in METRICS}


@pytest.mark.slow
def test_exchangeable_runs_are_called_worse_once_in_twenty(population):
    found = type_one_errors(population, 60, samples=300, permutations=199)
    # Three standard errors of 300 samples.
    assert all(0.012 <= share <= 0.088 for share in found.values()), found


def losses_found(beams, n, samples, alpha=0.01, loss=0.03, permutations=2000):
    """How often a loss of CIDEr is found: captions of other images take the place of some, until it is as large."""
    good, bad = beams[0], beams[-1]
    found = Counter()
    family = ("BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
    for sample in range(samples):
        rng = np.random.default_rng([3, n, sample])
        rows = rng.integers(len(good), size=n)
        first, other = (frame.iloc[rows].reset_index(drop=True) for frame in (good, bad))
        order = rng.permutation(n)
        lost = np.cumsum((first["CIDEr"] - other["CIDEr"]).to_numpy()[order])
        replaced = order[: np.argmax(lost >= loss * first["CIDEr"].sum()) + 1]
        second = first.copy()
        second.iloc[replaced] = other.iloc[replaced]
        tests = paired_tests(first, second, resamples=1, permutations=permutations, seed=sample)
        p_values = holm({name: tests[name].p_worse for name in family})
        found.update(name for name in family if p_values[name] < alpha)
    return {name: found[name] / samples for name in family}


def test_a_loss_of_3_percent_in_cider_is_found_among_2000_images(population):
    assert losses_found(population, 2000, samples=12)["CIDEr"] == 1
