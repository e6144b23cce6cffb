"""Agreement of maps, against literal float64 loops and scipy, and the laws that every reader relies on."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import rankdata, spearmanr

from explain.agreement import BEST, Agreement, agreement, agreement_with_nulls, null_agreement
from explain.ranking import centred_ranks, rank_cells

CELLS = 20  # the top tenth is two cells


def some_maps(seed, count=6):
    """Signed maps, half of them with many ties."""
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(count, CELLS))
    maps[: count // 2] = np.round(maps[: count // 2])
    maps[:, 0] = 1.0  # never without a positive value
    return maps


def literal_top_membership(values, top):
    """The chance of each cell to be among the first `top`, ties broken at random."""
    members = []
    for cell in range(len(values)):
        higher = sum(v > values[cell] for v in values)
        equal = sum(v == values[cell] for v in values)
        members.append(min(1.0, max(0.0, (top - higher) / equal)))
    return members


def literal_agreement(a, b):
    a, b = ([max(float(v), 0.0) for v in values] for values in (a, b))
    p, q = ([v / sum(values) for v in values] for values in (a, b))
    dot = sum(x * y for x, y in zip(p, q, strict=True))
    cosine = dot / math.sqrt(sum(x * x for x in p) * sum(y * y for y in q))
    bits = 0.0
    for x, y in zip(p, q, strict=True):
        for z in (x, y):
            if z > 0.0:
                bits += z / 2 * math.log2(z / ((x + y) / 2))
    top = round(len(p) / 10)
    first, second = literal_top_membership(a, top), literal_top_membership(b, top)
    iou = sum(map(min, first, second)) / sum(map(max, first, second))
    if len(set(a)) == 1 or len(set(b)) == 1:
        return cosine, math.sqrt(bits), iou, math.nan, math.nan
    mean = 1 / len(p)
    covariance = sum((x - mean) * (y - mean) for x, y in zip(p, q, strict=True))
    pearson = covariance / math.sqrt(sum((x - mean) ** 2 for x in p) * sum((y - mean) ** 2 for y in q))
    return cosine, math.sqrt(bits), iou, pearson, spearmanr(a, b).statistic


@pytest.mark.parametrize("seed", range(5))
def test_every_measure_is_its_literal_formula(seed):
    maps, others = some_maps(seed), some_maps(seed + 100)[::-1]
    found = np.stack(agreement(maps, others), axis=1)
    expected = [literal_agreement(a, b) for a, b in zip(maps, others, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_root_jsd_is_that_of_scipy():
    maps, others = np.abs(some_maps(1)), np.abs(some_maps(2))
    expected = jensenshannon(maps, others, base=2, axis=1)
    np.testing.assert_allclose(agreement(maps, others).root_jsd, expected, rtol=1e-10)


def test_membership_of_the_top_is_the_expectation_over_all_ways_to_break_ties():
    values = [3, 2, 2, 2, 1]
    counts = np.zeros(5)
    orders = list(itertools.permutations(range(5)))
    for order in orders:
        counts[sorted(order, key=lambda cell: -values[cell])[:2]] += 1
    np.testing.assert_allclose(counts / len(orders), literal_top_membership(values, 2))


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30))
def test_average_ranks_are_those_of_scipy(values):
    ranking = rank_cells(np.array([values], dtype=float))
    np.testing.assert_array_equal(centred_ranks(ranking)[0], rankdata(values) - (len(values) + 1) / 2)


def test_equal_maps_agree_wholly_even_with_ties():
    maps = some_maps(0)
    found = agreement(maps, maps)
    np.testing.assert_array_equal(found.top10_iou, 1.0)
    for name, best in BEST.items():
        np.testing.assert_allclose(getattr(found, name), best, rtol=1e-12)


def test_disjoint_maps_are_as_far_apart_as_can_be():
    halves = np.repeat(np.eye(2), CELLS // 2, axis=1)
    found = agreement(halves[0], halves[1])
    assert (found.cosine, found.top10_iou) == (0.0, 0.0)
    assert found.root_jsd == pytest.approx(1.0)
    assert found.spearman == pytest.approx(-1.0)
    assert found.pearson == pytest.approx(-1.0)


@pytest.mark.parametrize("factor", [1e-30, 0.1, 3.0, 1e30])
def test_a_constant_factor_and_negative_values_change_nothing(factor):
    maps, others = some_maps(3), some_maps(4)
    np.testing.assert_allclose(agreement(maps * factor, others), agreement(maps, others), atol=1e-12)
    np.testing.assert_array_equal(agreement(np.maximum(maps, 0.0), others), agreement(maps, others))


def test_agreement_is_symmetric_and_blind_to_the_order_of_cells():
    maps, others = some_maps(5), some_maps(6)
    np.testing.assert_allclose(agreement(maps, others), agreement(others, maps), atol=1e-12)
    order = np.random.default_rng(0).permutation(CELLS)
    np.testing.assert_allclose(
        agreement(maps[:, order], others[:, order]), agreement(maps, others), atol=1e-12
    )


@pytest.mark.parametrize("value", [0.3, 1e-30, 1.0])
def test_a_constant_map_has_no_correlation_and_overlaps_by_chance(value):
    found = agreement(np.full((1, CELLS), value), some_maps(7, 2)[1:])
    assert np.isnan(found.spearman).all()
    assert np.isnan(found.pearson).all()
    assert found.top10_iou == pytest.approx(0.1 / 1.9)
    assert np.isfinite(found.cosine).all()
    assert np.isfinite(found.root_jsd).all()


@pytest.mark.parametrize("empty", [np.zeros(CELLS), -np.ones(CELLS), np.full(CELLS, np.nan)])
def test_a_map_without_positive_values_is_undefined_in_every_measure(empty):
    assert np.isnan(np.stack(agreement(empty, some_maps(0)))).all()
    assert np.isnan(np.stack(agreement(some_maps(0), empty))).all()


def test_null_is_the_mean_over_donors_for_which_the_measure_is_defined():
    maps, donors = some_maps(8, 3), some_maps(9, 4)
    donors[0], donors[1] = 0.0, 1.0  # undefined in every measure; undefined in rank correlation
    found = null_agreement(maps, donors)
    for index, a in enumerate(maps):
        values = [literal_agreement(a, donor) for donor in donors[1:]]
        for name, column in zip(Agreement._fields, zip(*values, strict=True), strict=True):
            defined = [value for value in column if not math.isnan(value)]
            assert getattr(found, name)[index] == pytest.approx(sum(defined) / len(defined))


def test_without_a_donor_there_is_no_null():
    assert np.isnan(np.stack(null_agreement(some_maps(0), np.zeros((0, CELLS))))).all()


GRID = (4, 5)


def a_caption(seed, *, methods=3, words=4, donors=5):
    """Maps, attention, and attention in other images, as the benchmark has them."""
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(methods, words, CELLS)).astype(np.float32)
    maps[:1] = np.round(maps[:1])
    alphas, elsewhere = (
        rng.dirichlet(np.full(CELLS, 0.3), words),
        rng.dirichlet(np.ones(CELLS), (words, donors)),
    )
    return maps, alphas, elsewhere


def test_one_call_gives_agreement_and_every_null_as_they_are_one_by_one():
    maps, alphas, donors = a_caption(0)
    maps[1, 2], donors[0, 1:], donors[3] = 0.0, np.nan, np.nan
    found = agreement_with_nulls(maps, alphas, donors, grid=GRID, shifts=19, seed=0)
    everywhere = [
        np.roll(alphas.reshape(-1, *GRID), (down, right), axis=(1, 2)).reshape(len(alphas), CELLS)
        for down in range(GRID[0])
        for right in range(GRID[1])
    ]
    others = np.stack([np.delete(alphas, word, axis=0) for word in range(len(alphas))])
    expected = (
        agreement(maps, alphas),
        null_agreement(maps, donors),
        null_agreement(maps, others),
        null_agreement(maps, np.stack(everywhere[1:], axis=1)),
    )
    for part, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(part, wanted, atol=1e-7)
    assert np.isnan(np.stack(found.null)[:, :, 3]).all()
    assert not np.isnan(np.stack(found.null)[:, 0, :3]).any()


def test_random_shifts_are_some_of_all_the_same_for_every_method_and_the_seed_chooses_them():
    maps, alphas, donors = a_caption(1)
    maps[1] = maps[0]

    def null_shift(shifts, seed):
        return np.stack(
            agreement_with_nulls(maps, alphas, donors, grid=GRID, shifts=shifts, seed=seed).null_shift
        )

    np.testing.assert_array_equal(null_shift(3, 0), null_shift(3, 0))
    assert (null_shift(3, 0)[0] != null_shift(3, 1)[0]).all()
    np.testing.assert_array_equal(null_shift(3, 0)[:, 0], null_shift(3, 0)[:, 1])
    np.testing.assert_allclose(null_shift(100, 0), null_shift(100, 1))  # there are only 19
    # The mean of a random choice is right on average.
    several = np.stack([null_shift(3, seed) for seed in range(300)])
    off = (several.mean(axis=0) - null_shift(19, 0)) / (several.std(axis=0) / np.sqrt(300))
    assert np.abs(off).max() < 4.5


def test_a_shifted_map_is_never_the_map_itself():
    alphas = np.eye(CELLS)[:2]
    found = agreement_with_nulls(alphas[None], alphas, alphas[:, None], grid=GRID, shifts=19, seed=0)
    assert (found.null_shift.cosine == 0.0).all()
    assert (found.observed.cosine == 1.0).all()


def test_words_are_compared_alone_as_in_their_caption():
    maps, alphas, donors = a_caption(2)
    together = agreement_with_nulls(maps, alphas, donors, grid=GRID, shifts=19, seed=0)
    for word in range(len(alphas)):
        only = slice(word, word + 1)
        alone = agreement_with_nulls(maps[:, only], alphas[only], donors[only], grid=GRID, shifts=19, seed=0)
        for name in ("observed", "null", "null_shift"):
            np.testing.assert_allclose(
                np.stack(getattr(alone, name))[..., 0],
                np.stack(getattr(together, name))[..., word],
                atol=1e-12,
            )
        assert np.isnan(np.stack(alone.null_word)).all()


@pytest.mark.parametrize(
    ("methods", "words", "donors", "shifts", "grid"),
    [(2, 0, 3, 3, GRID), (0, 2, 3, 3, GRID), (2, 2, 0, 3, GRID), (2, 2, 3, 0, GRID), (2, 2, 3, 3, (1, 1))],
)
def test_what_there_is_none_of_is_undefined_or_empty(methods, words, donors, shifts, grid):
    cells = grid[0] * grid[1]
    maps, alphas, elsewhere = a_caption(3, methods=methods, words=words, donors=donors)
    found = agreement_with_nulls(
        maps[..., :cells], alphas[:, :cells], elsewhere[..., :cells], grid=grid, shifts=shifts, seed=0
    )
    assert {values.shape for part in found for values in part} == {(methods, words)}
    if donors == 0:
        assert np.isnan(np.stack(found.null)).all()
    if shifts == 0 or cells == 1:
        assert np.isnan(np.stack(found.null_shift)).all()
