"""Planted answers: maps whose score is known before it is measured, for reference captions of real scenes.

A measure that fails here says nothing of a map that a method made. Random maps are drawn, means taken over words.
"""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import t as student

from bench.config import DEMO_CHECKPOINT
from bench.data.scenes import load_scenes
from explain.agreement import BEST, agreement, agreement_with_nulls
from explain.localisation import (
    Localisation,
    area_share,
    ceiling_localisation,
    localise,
    mask_on_grid,
    null_localisation,
)
from explain.nulls import toroidal_p_value
from models.formats import load_checkpoint

IMAGES = 30
GRID = (14, 14)
CELLS = GRID[0] * GRID[1]
NOISE = np.array([0.0, 0.3, 0.7, 1.0, 1.5, 2.5, 5.0, 20.0])
"""How much noise between 0 and 1 is added to a place of height 1; up to 1 the order of its pixels stands."""


class Caption(NamedTuple):
    words: list[str]
    classes: list[str]
    places: dict[int, np.ndarray]
    """Masks of the words that have one."""
    others: dict[int, np.ndarray]
    """Masks of the other named figure."""
    alphas: np.ndarray
    """Where the demo model looks when it says each word."""


@pytest.fixture(scope="module")
@torch.no_grad()
def captions():
    """Every template of the reference captions, the demo model told to say them."""
    data = load_scenes()
    captioner = load_checkpoint(DEMO_CHECKPOINT, word_map=None, encoder_weights=None).captioner.eval()
    assert captioner.grid == GRID
    found = []
    for index, scene in enumerate(data.select("test")[:IMAGES]):
        words = scene.references[index % 5].split()
        pixels = captioner.preprocessing(captioner.preprocessing.view(scene.picture()))
        ids = torch.tensor([captioner.vocabulary.encode(words)])[:, : len(words) + 1]
        alphas = captioner.decoder(captioner.encode(pixels[None]), ids, captioner.vocabulary.start).alphas
        regions = data.ground_truth.regions(scene, words)
        places = {
            word: region.union if region.unique is None else region.unique
            for word, region in enumerate(regions)
            if region is not None
        }
        others = {
            word: next(f.mask for f in scene.named if not np.array_equal(f.mask, region.unique))
            for word, region in enumerate(regions)
            if region is not None and region.unique is not None
        }
        classes = data.ground_truth.word_classes(words)
        found.append(Caption(words, classes, places, others, alphas[0, : len(words)].double().numpy()))
    return found


@pytest.fixture(scope="module")
def masks(captions):
    found = [mask for caption in captions for mask in caption.places.values()]
    assert len(found) >= 60
    return found


def ladder_of(pairs):
    """Means over the words of what each rung scores, from (maps of all rungs, mask); an undefined one would show."""
    scores = [localise(np.asarray(maps, dtype=np.float64), mask) for maps, mask in pairs]
    return Localisation(*(np.mean(values, axis=0) for values in zip(*scores, strict=True)))


def smooth_maps(count, *, seed):
    """Random maps that prefer no part of the picture."""
    noise = gaussian_filter(
        np.random.default_rng(seed).normal(size=(count, *GRID)), (0, 1.2, 1.2), mode="wrap"
    )
    return np.exp(2 * noise / noise.std())


# ---- localisation -------------------------------------------------------------------------------------


def test_the_oracle_reaches_the_top_of_every_measure(masks):
    for mask in masks:
        found = localise(mask[None].astype(np.float32), mask)
        assert found.lift[0] == 1.0 / area_share(mask)
        assert {name for name in found._fields if getattr(found, name)[0] == 1.0} == {*found._fields} - {
            "lift"
        }


def test_no_map_has_more_lift_than_the_oracle(captions, masks):
    for mask in masks:
        maps = np.concatenate([smooth_maps(5, seed=0), np.eye(CELLS).reshape(-1, *GRID)])
        assert localise(maps, mask).lift.max() <= (1 + 1e-12) / area_share(mask)


def test_the_inverse_scores_nothing_in_every_measure(masks):
    for mask in masks:
        assert [measure[0] for measure in localise(1.0 - mask[None], mask)] == [0.0] * 7


@pytest.mark.parametrize("grid", [GRID, (7, 7), (112, 112)])
def test_an_even_map_has_the_mass_of_the_area_and_an_auc_of_one_half_exactly(masks, grid):
    for mask in masks:
        found, null = localise(np.full((1, *grid), 1 / 196), mask), null_localisation(mask)
        assert (found.mass[0], found.lift[0], found.auc[0]) == (area_share(mask), 1.0, 0.5)
        assert found.inside_outside[0] == pytest.approx(0.5, abs=1e-15)
        np.testing.assert_allclose(np.stack(found), np.stack(null), rtol=1e-14)


def test_random_maps_score_the_null_on_average(masks):
    rng = np.random.default_rng(0)
    differences = np.array(
        [
            np.stack(localise(rng.random((40, *GRID)), mask)).mean(axis=1)
            - np.concatenate(null_localisation(mask))
            for mask in masks
        ]
    )
    error = differences.std(axis=0) / np.sqrt(len(masks))
    straight = [Localisation._fields.index(name) for name in ("mass", "rank", "auc", "pointing")]
    assert (np.abs(differences.mean(axis=0) / error)[straight] < 4).all()
    assert (np.abs(differences.mean(axis=0)) < 0.02).all()


@pytest.mark.parametrize("grid", [GRID, (112, 112)])
def test_scores_fall_step_by_step_as_noise_drowns_the_oracle(masks, grid):
    rng = np.random.default_rng(0)
    noise = NOISE[:, None, None]
    ladder = ladder_of((mask_on_grid(mask, grid) + noise * rng.random(grid), mask) for mask in masks)
    for name in ("rank", "auc", "topm_iou", "mass", "lift", "inside_outside"):
        steps = np.diff(getattr(ladder, name))
        assert (steps <= 0).all(), name
        assert (steps[3:] < 0).all(), name
    assert ladder.auc[-1] < 0.6


@pytest.mark.parametrize("direction", [1, -1])
def test_scores_fall_step_by_step_as_the_oracle_is_shifted(masks, direction):
    ladder = ladder_of(
        ([np.roll(mask, direction * shift, axis=1) for shift in range(0, 17, 2)], mask) for mask in masks
    )
    for name, values in zip(Localisation._fields, ladder, strict=True):
        assert (np.diff(values) < 0).all(), name


def test_the_place_of_the_other_object_is_worse_than_random(captions):
    pairs = [(caption.others[w], caption.places[w]) for caption in captions for w in caption.others]
    assert len(pairs) >= 60
    rng = np.random.default_rng(0)
    for grid in (GRID, (112, 112)):
        ladder = ladder_of(([rng.random(grid), mask_on_grid(other, grid)], mask) for other, mask in pairs)
        for name, (random, wrong) in zip(Localisation._fields, ladder, strict=True):
            assert wrong < random, name
    assert ladder.mass[1] == 0.0


def test_maps_stand_in_the_order_in_which_they_were_planted(captions):
    """The place at the grid's resolution, where the model looks, nothing, the wrong place."""
    rng = np.random.default_rng(0)
    ladder = ladder_of(
        (
            [
                mask_on_grid(caption.places[word], GRID),
                caption.alphas[word].reshape(GRID),
                rng.random(GRID),
                mask_on_grid(other, GRID),
            ],
            caption.places[word],
        )
        for caption in captions
        for word, other in caption.others.items()
    )
    for name in ("rank", "auc", "topm_iou"):
        assert (np.diff(getattr(ladder, name)) < 0).all(), name


def test_the_ceiling_is_what_the_oracle_scores_on_the_grid_and_falls_as_the_grid_gets_coarser(masks):
    means = []
    for side in (112, 28, 14, 7):
        ceilings = [ceiling_localisation(mask, (side, side)) for mask in masks]
        pooled = [localise(mask_on_grid(mask, (side, side))[None], mask) for mask in masks]
        np.testing.assert_array_equal(ceilings, pooled)
        means.append(np.array(ceilings).mean(axis=(0, 2)))
    for name, values in zip(Localisation._fields, np.array(means).T, strict=True):
        assert (np.diff(values) < 0).all() or name == "pointing", name


@pytest.mark.parametrize("factor", [1e-12, 3.0, 1e12])
def test_a_positive_factor_changes_no_score(captions, factor):
    for caption in captions[:10]:
        maps = caption.alphas.reshape(-1, *GRID)
        for mask in caption.places.values():
            np.testing.assert_allclose(localise(maps * factor, mask), localise(maps, mask), rtol=1e-12)


def test_exchanging_the_words_of_a_caption_lowers_every_score_of_attention(captions):
    rng = np.random.default_rng(0)
    pairs = []
    for caption in captions:
        maps = caption.alphas.reshape(-1, *GRID)
        order = rng.permutation(len(maps))
        pairs += [([maps[word], maps[order[word]]], mask) for word, mask in caption.places.items()]
    for name, (kept, exchanged) in zip(Localisation._fields, ladder_of(pairs), strict=True):
        assert exchanged < kept, name


@pytest.mark.parametrize("grid", [GRID, (112, 112)])
def test_exchanging_the_words_of_a_caption_lowers_every_score_of_oracles(captions, grid):
    rng = np.random.default_rng(0)
    pairs = []
    for caption in captions:
        masks = list(caption.places.values())
        for mask, other in zip(masks, rng.permutation(len(masks)), strict=True):
            pairs.append(([mask_on_grid(mask, grid), mask_on_grid(masks[other], grid)], mask))
    for name, (kept, exchanged) in zip(Localisation._fields, ladder_of(pairs), strict=True):
        assert exchanged < kept, name


# ---- agreement ----------------------------------------------------------------------------------------


def donors_of(captions, index):
    """Attention for words of the same class in the other images, 16 per word."""
    caption = captions[index]
    found = np.full((len(caption.words), 16, CELLS), np.nan)
    for word, name in enumerate(caption.classes):
        pool = [
            c.alphas[w]
            for c in captions[:index] + captions[index + 1 :]
            for w, other in enumerate(c.classes)
            if other == name
        ]
        found[word] = pool[:: len(pool) // 16][:16]
    return found


def compared(captions, index, maps, seed=0):
    alphas = captions[index].alphas
    donors = donors_of(captions, index)
    return agreement_with_nulls(maps, alphas, donors, grid=GRID, shifts=16, seed=seed)


def test_attention_agrees_wholly_with_itself_and_less_with_every_null(captions):
    for index, caption in enumerate(captions[:10]):
        found = compared(captions, index, caption.alphas[None])
        for name, best in BEST.items():
            np.testing.assert_allclose(getattr(found.observed, name), best, atol=1e-7)
            for null in found[1:]:
                values = getattr(null, name)
                assert (np.abs(values - best) > 0.005).all()


def test_corrected_agreement_of_independent_maps_has_an_interval_that_covers_zero(captions):
    observed, by_chance = [], []
    for index, caption in enumerate(captions):
        maps = smooth_maps(3 * len(caption.words), seed=index).reshape(3, len(caption.words), CELLS)
        found = compared(captions, index, maps, seed=index)
        by_chance.append(
            [
                [
                    np.mean((getattr(found.observed, name) - chance) / (best - chance))
                    for name, best in BEST.items()
                    for chance in [getattr(null, name)]
                ]
                for null in found[1:]
            ]
        )
        observed.append([values.mean() for values in found.observed])
    per_image = np.array(by_chance)  # (image, null, measure): words of one image are not independent
    half = student.ppf(0.995, IMAGES - 1) * per_image.std(axis=0, ddof=1) / np.sqrt(IMAGES)
    assert (np.abs(per_image.mean(axis=0)) < half).all()
    assert (half < 0.05).all()
    # Without correction, chance looks like agreement.
    cosine = np.array(observed)[:, list(BEST).index("cosine")]
    assert cosine.mean() > 10 * cosine.std() / np.sqrt(IMAGES)


def test_agreement_with_a_place_falls_step_by_step_as_noise_drowns_it_and_as_it_is_shifted(masks):
    noises = np.random.default_rng(0).random((len(masks), CELLS))
    places = np.stack([mask_on_grid(mask, GRID).ravel() for mask in masks])
    noisy = [agreement(places + amount * noises, places) for amount in NOISE]
    moved = [
        agreement(
            np.stack([mask_on_grid(np.roll(mask, shift, axis=1), GRID).ravel() for mask in masks]), places
        )
        for shift in range(0, 17, 2)
    ]
    for ladder in (noisy, moved):
        for name, best in BEST.items():
            far = np.abs(np.array([getattr(found, name).mean() for found in ladder]) - best)
            assert (np.diff(far) > 0).all(), name


@pytest.mark.parametrize("factor", [1e-12, 3.0, 1e12])
def test_a_positive_factor_changes_no_agreement(captions, factor):
    maps = smooth_maps(2 * len(captions[0].words), seed=0).reshape(2, -1, CELLS)
    for plain, scaled in zip(compared(captions, 0, maps), compared(captions, 0, maps * factor), strict=True):
        np.testing.assert_allclose(scaled, plain, rtol=1e-9)


def test_the_toroidal_test_calls_attention_and_its_words_place_alike_and_the_other_objects_place_not(
    captions,
):
    right, wrong = [], []
    for caption in captions:
        for word in caption.others:
            alpha = caption.alphas[word]
            for mask, into in ((caption.places[word], right), (caption.others[word], wrong)):
                into.append(toroidal_p_value(alpha, mask_on_grid(mask, GRID).ravel(), GRID))
    assert np.mean(np.array(right) <= 0.05) > 0.9
    assert np.mean(np.array(wrong) <= 0.05) < 0.1
