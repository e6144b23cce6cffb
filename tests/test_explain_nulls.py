"""The toroidal test: literal counts of shifts, its false alarms on maps that have nothing to do with each other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.stats import pearsonr

from explain.agreement import BEST, Agreement, agreement
from explain.nulls import all_offsets, shifted, toroidal_p_value

GRID = (14, 14)


def smooth_maps(count, *, seed, grid=GRID, sigma=1.5, torus=False):
    """Independent maps without negative values whose neighbouring cells are alike; no place is preferred."""
    margin = 0 if torus else 6  # what is smoothed together across the edges is cut off
    noise = np.random.default_rng(seed).normal(size=(count, *(n + 2 * margin for n in grid)))
    smooth = gaussian_filter(noise, (0, sigma, sigma), mode="wrap")
    smooth = smooth[:, margin : margin + grid[0], margin : margin + grid[1]]
    return np.exp(smooth / smooth.std()).reshape(count, -1)


def rolled(map_, down, right, grid):
    return np.roll(map_.reshape(grid), (down, right), axis=(0, 1)).ravel()


@pytest.mark.parametrize("measure", ["cosine", "pearson", "spearman"])
@pytest.mark.parametrize("grid", [(4, 5), (3, 3), (7, 2), (1, 6)])
def test_p_value_counts_the_shifts_that_agree_at_least_as_well(measure, grid):
    rng = np.random.default_rng(0)
    maps, others = np.round(rng.normal(size=(2, 6, grid[0] * grid[1])) + 1, 1)
    found = toroidal_p_value(maps, others, grid, measure=measure)
    for p, map_, other in zip(found, maps, others, strict=True):
        values = [
            getattr(agreement(map_, rolled(other, down, right, grid)), measure)
            for down in range(grid[0])
            for right in range(grid[1])
        ]
        at_least = sum(value >= values[0] - 1e-9 for value in values[1:])
        assert p == pytest.approx((1 + at_least) / len(values))


def test_false_alarms_are_as_rare_as_promised_where_counting_cells_calls_a_third_of_independent_maps_alike():
    maps, others = smooth_maps(2000, seed=1), smooth_maps(2000, seed=2)
    for measure in ("cosine", "pearson", "spearman"):
        assert 0.03 <= (toroidal_p_value(maps, others, GRID, measure=measure) <= 0.05).mean() <= 0.07
    naive = [pearsonr(map_, other).pvalue for map_, other in zip(maps, others, strict=True)]
    assert np.mean(np.array(naive) <= 0.05) > 0.25


def test_on_a_true_torus_p_values_are_spread_evenly():
    maps, others = (smooth_maps(3000, seed=seed, torus=True) for seed in (3, 4))
    p = toroidal_p_value(maps, others, GRID)
    for level in (0.05, 0.25, 0.5, 0.75):
        expected = np.floor(level * 196) / 196
        assert (p <= level).mean() == pytest.approx(
            expected, abs=4 * (expected * (1 - expected) / 3000) ** 0.5
        )


def test_maps_that_have_something_to_do_with_each_other_are_found():
    maps = smooth_maps(50, seed=5)
    assert (toroidal_p_value(maps, maps, GRID) == 1 / 196).all()
    related = maps * smooth_maps(50, seed=6) ** 0.5
    assert (toroidal_p_value(maps, related, GRID) <= 0.05).mean() > 0.9


def test_a_preference_for_the_same_part_of_the_picture_counts_as_agreement():
    y, x = np.mgrid[: GRID[0], : GRID[1]]
    centre = np.exp(-((y - 6.5) ** 2 + (x - 6.5) ** 2) / 20).ravel()
    maps, others = (smooth_maps(200, seed=seed) * centre for seed in (7, 8))
    assert (toroidal_p_value(maps, others, GRID) <= 0.05).mean() > 0.15


def test_where_nothing_can_be_said_p_is_one_or_undefined():
    map_ = smooth_maps(1, seed=0)[0]
    even, empty = np.full(196, 0.2), -np.ones(196)
    assert toroidal_p_value(map_, even, GRID) == 1.0
    for measure in ("pearson", "spearman"):
        assert np.isnan(toroidal_p_value(map_, even, GRID, measure=measure))
    for measure in ("cosine", "pearson", "spearman"):
        assert np.isnan(toroidal_p_value(empty, map_, GRID, measure=measure))
        assert np.isnan(toroidal_p_value(np.full(196, np.nan), map_, GRID, measure=measure))


@given(st.integers(0, 1000), st.floats(1e-20, 1e20))
def test_p_values_know_no_scale_no_batch_and_no_common_shift(seed, factor):
    maps, others = smooth_maps(3, seed=seed, grid=(5, 4)), smooth_maps(3, seed=seed + 2000, grid=(5, 4))
    found = toroidal_p_value(maps, others, (5, 4))
    np.testing.assert_array_equal(toroidal_p_value(maps * factor, others, (5, 4)), found)
    np.testing.assert_array_equal(toroidal_p_value(maps[1], others[1], (5, 4)), found[1])
    together = [shifted(each, np.array([[2, 3]]), (5, 4))[:, 0] for each in (maps, others)]
    np.testing.assert_array_equal(toroidal_p_value(*together, (5, 4)), found)


def test_shifted_rolls_rows_down_and_columns_to_the_right():
    maps = np.arange(24.0).reshape(2, 12)
    offsets = np.array([[0, 0], [1, 0], [0, 1], [-1, 6]])
    found = shifted(maps, offsets, (3, 4))
    assert found.shape == (2, 4, 12)
    for index, (down, right) in enumerate(offsets):
        for map_, moved in zip(maps, found[:, index], strict=True):
            np.testing.assert_array_equal(moved, rolled(map_, down, right, (3, 4)))


@pytest.mark.parametrize("grid", [(3, 4), (1, 5), (1, 1)])
def test_all_offsets_move_the_first_cell_to_every_other(grid):
    cells = grid[0] * grid[1]
    first = np.eye(cells)[0]
    assert sorted(shifted(first, all_offsets(grid), grid).argmax(axis=1)) == list(range(1, cells))


def test_every_measure_has_a_best_value():
    assert tuple(BEST) == Agreement._fields
