"""Agreement of maps, against literal float64 loops and scipy, and the laws that every reader relies on."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import rankdata, spearmanr

from explain.agreement import Agreement, agreement, null_agreement
from explain.ranking import by_cell, rank_cells

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
    constant = len(set(a)) == 1 or len(set(b)) == 1
    return cosine, math.sqrt(bits), iou, math.nan if constant else spearmanr(a, b).statistic


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
    ranks = by_cell(ranking, len(values) - (ranking.above + ranking.through - 1) / 2)
    np.testing.assert_array_equal(ranks[0], rankdata(values))


def test_equal_maps_agree_wholly_even_with_ties():
    maps = some_maps(0)
    found = agreement(maps, maps)
    np.testing.assert_allclose(found.cosine, 1.0)
    np.testing.assert_array_equal(found.root_jsd, 0.0)
    np.testing.assert_array_equal(found.top10_iou, 1.0)
    np.testing.assert_allclose(found.spearman, 1.0)


def test_disjoint_maps_are_as_far_apart_as_can_be():
    halves = np.repeat(np.eye(2), CELLS // 2, axis=1)
    found = agreement(halves[0], halves[1])
    assert (found.cosine, found.top10_iou) == (0.0, 0.0)
    assert found.root_jsd == pytest.approx(1.0)
    assert found.spearman == pytest.approx(-1.0)


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


def test_a_constant_map_has_no_rank_correlation_and_overlaps_by_chance():
    found = agreement(np.full((1, CELLS), 0.3), some_maps(7, 2)[1:])
    assert np.isnan(found.spearman).all()
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
