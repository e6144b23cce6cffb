"""Localisation of maps, against literal loops over pixels, and planted maps with known scores."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from explain.localisation import (
    Localisation,
    area_share,
    ceiling_localisation,
    cell_counts,
    localise,
    mask_on_grid,
    null_localisation,
)

SIZE = 12


def disc(row=4, col=7, radius=3.2):
    y, x = np.mgrid[:SIZE, :SIZE]
    return (y - row) ** 2 + (x - col) ** 2 <= radius**2


def upsample(values, shape):
    """Nearest neighbour: every pixel takes the value of the cell that holds its centre."""
    rows, cols = values.shape
    picture = np.zeros(shape)
    for y in range(shape[0]):
        for x in range(shape[1]):
            picture[y, x] = values[int((y + 0.5) * rows / shape[0]), int((x + 0.5) * cols / shape[1])]
    return picture


def literal_localisation(values, mask):
    """Every measure from its words, pixel by pixel, in float64."""
    picture = np.maximum(upsample(values, mask.shape), 0.0)
    inside, outside = picture[mask].tolist(), picture[~mask].tolist()
    everything = inside + outside
    mass = sum(inside) / sum(everything)
    hits = 0.0
    n = len(inside)
    for value in inside:  # the chance of each inside pixel to be among the n highest
        higher = sum(v > value for v in everything)
        equal = sum(v == value for v in everything)
        hits += min(1.0, max(0.0, (n - higher) / equal))
    wins = sum((a > b) + (a == b) / 2 for a in inside for b in outside)
    peak = max(everything)
    mean_inside, mean_outside = sum(inside) / n, sum(outside) / len(outside)
    return (
        mass,
        mass / (n / mask.size),
        hits / n,
        wins / (n * len(outside)),
        inside.count(peak) / everything.count(peak),
        literal_topm_iou(picture, mask),
        mean_inside / (mean_inside + mean_outside),
    )


def literal_topm_iou(picture, mask):
    """sum(min) / sum(max) of two memberships: of the top n pixels, and of the mask."""
    members = []
    for value in picture.ravel():
        higher, equal = (picture > value).sum(), (picture == value).sum()
        members.append(min(1.0, max(0.0, (mask.sum() - higher) / equal)))
    pairs = list(zip(members, mask.ravel().tolist(), strict=True))
    return sum(min(pair) for pair in pairs) / sum(max(pair) for pair in pairs)


@pytest.mark.parametrize("grid", [(4, 4), (3, 6), (5, 7), (12, 12)])
@pytest.mark.parametrize("seed", range(3))
def test_every_measure_is_its_literal_formula(grid, seed):
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(4, *grid))
    maps[:2] = np.round(maps[:2])
    maps[:, 0, 0] = 1.0
    mask = disc(row=rng.integers(SIZE), col=rng.integers(SIZE))
    expected = np.array([literal_localisation(values, mask) for values in maps]).T
    np.testing.assert_allclose(np.stack(localise(maps, mask)), expected, rtol=1e-12, atol=1e-12)


def test_mass_on_the_grid_is_the_sum_of_shares_times_coverage():
    values = np.random.default_rng(0).random((4, 4))
    coverage = np.zeros((4, 4))
    for y, x in np.argwhere(disc()):
        coverage[y // 3, x // 3] += 1 / 9
    expected = (values / values.sum() * coverage).sum()
    np.testing.assert_allclose(localise(values[None], disc()).mass, expected)
    np.testing.assert_allclose(mask_on_grid(disc(), (4, 4)), coverage)


def test_oracle_reaches_the_top_of_every_measure():
    found = localise(disc()[None].astype(np.float32), disc())
    assert [float(value[0]) for value in found._replace(lift=found.lift * area_share(disc()))] == [1.0] * 7
    assert found.lift[0] == 1.0 / area_share(disc())


def test_inverse_of_the_oracle_scores_nothing():
    assert [float(value[0]) for value in localise(1.0 - disc()[None], disc())] == [0.0] * 7


@pytest.mark.parametrize("grid", [(4, 4), (5, 7), (12, 12)])
def test_a_uniform_map_scores_exactly_what_knowing_nothing_scores(grid):
    found = localise(np.full((1, *grid), 1 / 196, dtype=np.float32), disc())
    null = null_localisation(disc())
    np.testing.assert_allclose(np.stack(found), np.stack(null), rtol=1e-15)
    assert (found.mass[0], found.auc[0], found.lift[0]) == (area_share(disc()), 0.5, 1.0)


def test_random_maps_score_the_null_on_average():
    maps = np.random.default_rng(0).random((9000, 4, 4))
    found, null = np.stack(localise(maps, disc())), np.stack(null_localisation(disc()))
    error = found.std(axis=1, keepdims=True) / np.sqrt(9000)
    off = (found.mean(axis=1, keepdims=True) - null) / error
    straight = [name not in ("topm_iou", "inside_outside") for name in Localisation._fields]
    assert (np.abs(off[straight]) < 4).all()
    # A convex function of `rank`: the mean over random maps lies above the value of an even one.
    assert off[Localisation._fields.index("topm_iou")] > 4
    np.testing.assert_allclose(found.mean(axis=1)[-2:], null[-2:, 0], rtol=0.05)


def test_ceiling_is_the_score_of_the_mask_pooled_to_the_grid():
    ceiling = ceiling_localisation(disc(), (4, 4))
    expected = literal_localisation(mask_on_grid(disc(), (4, 4)), disc())
    np.testing.assert_allclose(np.concatenate(ceiling), expected)
    assert ceiling.mass[0] < 1.0
    at_pixels = ceiling_localisation(disc(), (SIZE, SIZE))
    assert at_pixels.mass[0] == 1.0


@given(st.floats(1e-30, 1e30), st.integers(0, 1000))
def test_a_constant_factor_and_negative_values_change_nothing(factor, seed):
    maps = np.random.default_rng(seed).normal(size=(3, 4, 4))
    maps[:, 0, 0] = 1.0
    mask = disc(row=seed % SIZE)
    np.testing.assert_allclose(np.stack(localise(maps * factor, mask)), np.stack(localise(maps, mask)))
    np.testing.assert_array_equal(localise(np.maximum(maps, 0.0), mask), localise(maps, mask))


def test_scores_fall_step_by_step_as_noise_drowns_the_oracle():
    rng = np.random.default_rng(0)
    noise = rng.random((50, SIZE, SIZE))
    ladder = [localise((1 - share) * disc() + share * noise, disc()) for share in (0.0, 0.25, 0.6, 0.8, 1.0)]
    for name in ("mass", "lift", "rank", "auc"):
        means = [getattr(step, name).mean() for step in ladder]
        assert means == sorted(means, reverse=True)
        assert means[0] > means[-1]


def test_scores_fall_step_by_step_as_the_oracle_is_shifted_away():
    shifted = np.stack([disc(row=4 + shift) for shift in range(7)]).astype(float)
    found = localise(shifted, disc())
    for measure in found:
        assert (np.diff(measure) <= 0.0).all()
        assert measure[0] > measure[-1]


def test_topm_iou_is_that_of_sets_where_no_pixels_tie():
    picture = np.random.default_rng(0).random((SIZE, SIZE))
    top = picture >= np.sort(picture, axis=None)[-disc().sum()]
    expected = (top & disc()).sum() / (top | disc()).sum()
    np.testing.assert_allclose(localise(picture[None], disc()).topm_iou, expected)


def test_topm_iou_orders_maps_as_rank_does_and_inside_outside_as_mass_does():
    found = localise(np.random.default_rng(1).random((40, 4, 4)) ** 3, disc())
    np.testing.assert_allclose(found.topm_iou, found.rank / (2 - found.rank))
    ratio = found.mass / (1 - found.mass) * (1 - area_share(disc())) / area_share(disc())
    np.testing.assert_allclose(found.inside_outside, ratio / (1 + ratio))


@pytest.mark.parametrize(
    ("shape", "grid"), [((640, 427), (14, 14)), ((640, 640), (8, 8)), ((333, 500), (7, 5))]
)
def test_a_large_mask_is_scored_as_its_upsampled_map_is(shape, grid):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: shape[0], : shape[1]]
    mask = (y - 0.4 * shape[0]) ** 2 + (x - 0.6 * shape[1]) ** 2 < (0.2 * shape[1]) ** 2
    values = rng.normal(size=grid)
    found, at_pixels = localise(values[None], mask), localise(upsample(values, shape)[None], mask)
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(at_pixels), rtol=1e-10)


@pytest.mark.parametrize(("shape", "grid"), [((640, 427), (14, 14)), ((12, 12), (12, 12)), ((3, 5), (4, 9))])
def test_a_pixel_is_counted_where_its_centre_lies(shape, grid):
    mask = np.random.default_rng(0).random(shape) < 0.4
    inside, total = np.zeros(grid, int), np.zeros(grid, int)
    for y, x in itertools.product(*map(range, shape)):
        cell = (2 * y + 1) * grid[0] // (2 * shape[0]), (2 * x + 1) * grid[1] // (2 * shape[1])
        total[cell] += 1
        inside[cell] += mask[y, x]
    found = cell_counts(mask, grid)
    np.testing.assert_array_equal(found, [inside.ravel(), total.ravel()])


def test_no_map_gives_no_score():
    assert [len(measure) for measure in localise(np.zeros((0, 4, 4)), disc())] == [0] * 7


def test_pointing_counts_ties_by_their_share():
    corners = np.zeros((1, 4, 4))
    corners[0, [0, 0, 3, 3], [0, 3, 0, 3]] = 1.0
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[:3, :3] = True
    assert localise(corners, mask).pointing[0] == 0.25


@pytest.mark.parametrize("empty", [np.zeros((1, 4, 4)), -np.ones((1, 4, 4)), np.full((1, 4, 4), np.nan)])
def test_a_map_without_positive_values_is_undefined_in_every_measure(empty):
    assert np.isnan(np.stack(localise(empty, disc()))).all()


def test_an_empty_mask_leaves_everything_undefined():
    nothing = np.zeros((SIZE, SIZE), dtype=bool)
    assert np.isnan(np.stack(localise(np.ones((2, 4, 4)), nothing))).all()
    assert np.isnan(np.stack(null_localisation(nothing))).all()
    assert np.isnan(np.stack(ceiling_localisation(nothing, (4, 4)))).all()


def test_a_mask_of_the_whole_picture_leaves_what_compares_with_outside_undefined():
    everything = np.ones((SIZE, SIZE), dtype=bool)
    for found in (localise(np.ones((1, 4, 4)), everything), null_localisation(everything)):
        undefined = [name for name in Localisation._fields if np.isnan(getattr(found, name)).all()]
        assert undefined == ["auc", "inside_outside"]
        assert np.concatenate(found)[~np.isnan(np.concatenate(found))].tolist() == [1.0] * 5


def test_cells_without_a_pixel_are_left_out():
    values = np.random.default_rng(0).random((1, 5, 5))
    values[0, 0, 0] = 9.0
    mask = np.array([[True, False, False], [False, True, False], [False, False, False]])
    expected = literal_localisation(values[0], mask)
    np.testing.assert_allclose(np.concatenate(localise(values, mask)), expected)


def test_maps_are_scored_independently():
    maps = np.random.default_rng(1).random((5, 4, 4))
    together = localise(maps, disc())
    for index in range(5):
        alone = localise(maps[index : index + 1], disc())
        assert alone == Localisation(*(measure[index : index + 1] for measure in together))
