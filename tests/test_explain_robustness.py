"""Infidelity and max-sensitivity: Captum's own, given the same perturbations; laws; planted maps."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from captum.attr import Saliency
from captum.metrics import infidelity as captum_infidelity
from captum.metrics import infidelity_perturb_func_decorator, sensitivity_max
from demo_captions import demo_captions

from explain.methods import METHODS
from explain.robustness import draw_noise, draw_swaps, infidelity, max_sensitivity
from explain.target import WordScoreFromGrid

DRAWS = 12
WORDS = [2, 3, 7]


@pytest.fixture(scope="module")
def caption():
    return demo_captions(8)[0][0]


@pytest.fixture(scope="module")
def precise(caption):
    """The same in float64, where Captum's sum of squares loses nothing."""
    return replace(
        caption,
        captioner=copy.deepcopy(caption.captioner).double(),
        annotations=caption.annotations.double(),
        annotation_baseline=caption.annotation_baseline.double(),
    )


def rows(caption, words):
    prefix, step = caption.rows
    return prefix[words], step[words]


def random_maps(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def maps_of(name, caption, words):
    return METHODS[name](caption).maps.reshape(caption.words, -1)[words].astype(np.float64)


@pytest.mark.parametrize("name", ["attention", "grid_gradient", "grid_integrated_gradients"])
@pytest.mark.parametrize("multiply_by_inputs", [True, False])
@torch.no_grad()
def test_infidelity_is_that_of_captum_given_the_same_swaps(caption, precise, name, multiply_by_inputs):
    # Captum sees one number per cell: how far it has come from the baseline's annotation vector to its own.
    maps = maps_of(name, caption, WORDS)
    swapped = torch.from_numpy(draw_swaps(precise, WORDS, draws=DRAWS, seed=4).swapped)
    way = precise.annotations - precise.annotation_baseline
    length = way.norm(dim=1)
    score = WordScoreFromGrid(precise.captioner)

    def forward(travelled, token_ids, step):
        share = (travelled / length).unsqueeze(2)
        return score(precise.annotation_baseline + share * way, token_ids, step)

    @infidelity_perturb_func_decorator(multiply_by_inputs)
    def swap(travelled, baselines):
        return travelled * ~swapped.repeat(len(WORDS), 1)

    expected = captum_infidelity(
        forward,
        swap,
        length.repeat(len(WORDS), 1),
        torch.from_numpy(maps),
        baselines=torch.zeros(len(WORDS), len(length), dtype=torch.float64),
        additional_forward_args=rows(precise, WORDS),
        n_perturb_samples=DRAWS,
        normalize=True,
    )
    found = infidelity(precise, maps, WORDS, multiply_by_inputs=multiply_by_inputs, draws=DRAWS, seed=4)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-12)


@torch.no_grad()
def test_infidelity_of_contributions_is_that_of_captum_however_a_vectors_entries_share_them(precise):
    maps = random_maps(len(WORDS), len(precise.annotations))
    shares = np.random.default_rng(1).dirichlet(np.ones(precise.annotations.shape[1]), size=len(maps[0]))
    swapped = torch.from_numpy(draw_swaps(precise, WORDS, draws=DRAWS, seed=0).swapped)
    baseline = precise.annotation_baseline
    shares *= (precise.annotations != baseline).numpy()  # Captum's I is 0 where replacing changes nothing
    shares /= shares.sum(axis=1, keepdims=True)

    @infidelity_perturb_func_decorator(True)
    def swap(annotations, baselines):
        return torch.where(swapped.repeat(len(WORDS), 1).unsqueeze(2), baselines, annotations)

    expected = captum_infidelity(
        WordScoreFromGrid(precise.captioner),
        swap,
        precise.annotations.repeat(len(WORDS), 1, 1),
        torch.from_numpy(maps[:, :, None] * shares),
        baselines=baseline.repeat(len(WORDS), 1, 1),
        additional_forward_args=rows(precise, WORDS),
        n_perturb_samples=DRAWS,
        normalize=True,
    )
    found = infidelity(precise, maps, WORDS, multiply_by_inputs=True, draws=DRAWS, seed=0)
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_swaps_replace_a_tenth_of_the_cells_and_are_decoded_as_the_captioner_does(precise):
    swaps = draw_swaps(precise, WORDS, draws=3, seed=0)
    assert (swaps.swapped.sum(axis=1) == 20).all()
    assert len(np.unique(swaps.swapped, axis=0)) == 3
    said = torch.tensor([precise.token_ids])
    with torch.no_grad():
        whole = precise.captioner.word_log_probs(precise.annotations[None], said)[0, WORDS]
        for draw, change in zip(swaps.swapped, swaps.change, strict=True):
            annotations = precise.annotations.clone()
            annotations[draw] = precise.annotation_baseline[draw]
            without = precise.captioner.word_log_probs(annotations[None], said)[0, WORDS]
            np.testing.assert_allclose(change, whole - without, rtol=0, atol=1e-12)


@pytest.mark.parametrize("multiply_by_inputs", [True, False])
def test_infidelity_does_not_depend_on_scale_or_sign_and_takes_many_methods_at_once(
    caption, multiply_by_inputs
):
    options = {"multiply_by_inputs": multiply_by_inputs, "draws": DRAWS, "seed": 0}
    maps = random_maps(2, len(WORDS), 196)
    together = infidelity(caption, maps, WORDS, **options)
    for one, alone in zip(together, maps, strict=True):
        np.testing.assert_allclose(one, infidelity(caption, alone, WORDS, **options), rtol=1e-9)
        np.testing.assert_allclose(one, infidelity(caption, -3.5 * alone, WORDS, **options), rtol=1e-9)


def test_infidelity_of_a_map_that_foretells_every_change_is_zero_and_of_zeros_the_mean_square(caption):
    swaps = draw_swaps(caption, WORDS, draws=DRAWS, seed=0)
    knowing = np.linalg.lstsq(swaps.swapped.astype(float), swaps.change, rcond=None)[0].T
    maps = np.stack([knowing, random_maps(*knowing.shape), np.zeros_like(knowing)])
    best, chance, none = infidelity(caption, maps, WORDS, multiply_by_inputs=True, draws=DRAWS, seed=0)
    np.testing.assert_allclose(none, (swaps.change**2).mean(axis=0), rtol=1e-9)
    assert (best < 1e-12 * none).all()
    assert (chance > 0.01 * none).all()
    assert (chance <= none).all()


def test_infidelity_finds_the_planted_place_better_than_the_other_figures():
    better = []
    for caption, places in demo_captions(8):
        if places:
            maps = np.stack(list(places.values()), axis=1)
            place, other = infidelity(caption, maps, list(places), multiply_by_inputs=True, draws=100, seed=0)
            better.extend(place < other)
    assert np.mean(better) > 0.7


@pytest.mark.parametrize("measure", ["infidelity", "max_sensitivity"])
def test_a_map_with_nan_is_undefined_and_leaves_the_others_alone(caption, measure):
    maps = random_maps(caption.words, 196)
    holed = maps.copy()
    holed[1, 5] = np.nan

    def run(values):
        if measure == "infidelity":
            words = range(caption.words)
            return infidelity(caption, values, words, multiply_by_inputs=True, draws=3, seed=0)
        factor = iter((1.0, 1.1, 1.2))
        return max_sensitivity(caption, lambda _: values * next(factor), radius=0.1, draws=2, seed=0)

    before, after = run(maps), run(holed)
    assert np.isnan(after).tolist() == [word == 1 for word in range(caption.words)]
    np.testing.assert_allclose(np.delete(after, 1), np.delete(before, 1))


def test_max_sensitivity_is_that_of_captum_given_the_same_noise(caption):
    options = {"radius": 0.1, "draws": 5, "seed": 3}
    noise = draw_noise(caption, **options)
    saliency = Saliency(WordScoreFromGrid(caption.captioner))

    def explain(inputs, **arguments):
        inputs = inputs[0] if isinstance(inputs, tuple) else inputs
        return (saliency.attribute(inputs.requires_grad_(), abs=False, **arguments).norm(dim=2),)

    expected = sensitivity_max(
        explain,
        caption.annotations.repeat(caption.words, 1, 1),
        lambda repeated: repeated.detach() + noise.repeat(caption.words, 1, 1),
        n_perturb_samples=len(noise),
        additional_forward_args=caption.rows,
    )
    found = max_sensitivity(
        caption, lambda c: METHODS["grid_gradient"](c).maps.reshape(c.words, -1), **options
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_max_sensitivity_of_attention_looks_again_at_what_has_moved(precise):
    options = {"radius": 0.3, "draws": 4, "seed": 0}
    said = torch.tensor([precise.token_ids[: precise.words]])
    furthest = np.zeros(precise.words)
    looked = []
    with torch.no_grad():
        for noise in [torch.zeros_like(precise.annotations), *draw_noise(precise, **options)]:
            seen = precise.captioner.decoder(
                (precise.annotations + noise)[None], said, precise.captioner.vocabulary.start
            )
            looked.append(seen.alphas[0].numpy())
    for moved in looked[1:]:
        for word in range(precise.words):
            change = np.sqrt(((moved[word] - looked[0][word]) ** 2).sum() / (looked[0][word] ** 2).sum())
            furthest[word] = max(furthest[word], change)
    found = max_sensitivity(replace(precise, alphas=looked[0]), lambda c: c.alphas, **options)
    assert (found > 0).all()
    np.testing.assert_allclose(found, furthest, rtol=1e-12)


def test_noise_is_uniform_within_the_radius_in_standard_deviations(caption):
    noise = draw_noise(caption, radius=0.2, draws=3, seed=0) / caption.annotations.std()
    assert noise.abs().max() <= 0.2
    assert noise.std().item() == pytest.approx(0.2 / 3**0.5, rel=0.02)
    again, other = (draw_noise(caption, radius=0.2, draws=3, seed=seed) for seed in (0, 1))
    assert torch.equal(again / caption.annotations.std(), noise)
    assert not torch.equal(again, other)


def test_more_draws_and_wider_moves_never_make_a_map_steadier(caption):
    def found(**options):
        return max_sensitivity(
            caption, lambda c: c.alphas, **({"radius": 0.1, "draws": 6, "seed": 0} | options)
        )

    assert (found() >= found(draws=3)).all()
    assert found(radius=0.5).mean() > found().mean() > found(radius=0.01).mean()


def test_a_map_that_ignores_the_annotations_never_moves_and_zeros_have_no_length(caption):
    options = {"radius": 0.5, "draws": 2, "seed": 0}
    still = random_maps(caption.words, 196)
    assert (max_sensitivity(caption, lambda _: still, **options) == 0).all()
    assert np.isnan(max_sensitivity(caption, lambda c: np.zeros_like(c.alphas), **options)).all()


def test_a_caption_without_words_has_no_measures(caption):
    silent = replace(caption, token_ids=caption.token_ids[-1:], alphas=np.zeros((0, 196)))
    none = np.zeros((0, 196))
    assert infidelity(silent, none, [], multiply_by_inputs=True, draws=2, seed=0).shape == (0,)
    assert max_sensitivity(silent, lambda c: none, radius=0.1, draws=2, seed=0).shape == (0,)


def test_a_positive_factor_changes_no_sensitivity(caption):
    options = {"radius": 0.2, "draws": 3, "seed": 0}
    plain, scaled = (max_sensitivity(caption, lambda c, f=f: f * c.alphas, **options) for f in (1.0, 250.0))
    np.testing.assert_allclose(scaled, plain, rtol=1e-9)
