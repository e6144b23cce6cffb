"""What the attribution methods promise beside their maps: independence, honesty about gaps, and leaving no trace."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from test_explain_methods import WORDS, caption_for, state_of, tiny_captioner
from torch import nn

from bench.config import DEMO_CHECKPOINT
from bench.data.scenes import make_scene
from explain.localisation import localise, mask_on_grid
from explain.methods import (
    ANSWERS,
    METHODS,
    ExplainedCaption,
    Place,
    answer_maps,
    answer_masks,
    gradients,
    unsound,
)
from explain.paths import path_shares
from models.formats import load_checkpoint


@pytest.fixture(scope="module")
def caption():
    return caption_for(tiny_captioner())


@pytest.fixture(scope="module")
def demo():
    captioner = load_checkpoint(DEMO_CHECKPOINT, word_map=None, encoder_weights=None).captioner.eval()
    vocabulary = captioner.vocabulary
    scene = make_scene("test", 0)
    picture = captioner.preprocessing(captioner.preprocessing.view(scene.picture()))
    token_ids = tuple(vocabulary.words.index(word) for word in scene.references[0].split()[:3])
    with torch.no_grad():
        annotations = captioner.encode(picture[None])[0]
        alphas = captioner.decoder(annotations[None], torch.tensor([token_ids]), vocabulary.start)
    looked = alphas.alphas[0].double().numpy()
    blank = torch.zeros_like(annotations)
    return ExplainedCaption(captioner, picture, annotations, token_ids, looked, blank, seed=3)


def alone(caption, words):
    """The same caption as far as its first words."""
    return replace(
        caption,
        alphas=caption.alphas[:words],
        donor_alphas=caption.donor_alphas[:words],
        class_alphas=caption.class_alphas[:words],
    )


@pytest.mark.parametrize("name", [name for name in METHODS if not name.startswith("attention_plus")])
def test_a_word_alone_has_the_map_that_it_has_among_others(caption, name):
    together = METHODS[name](caption).maps
    for words in (1, 3):
        last = METHODS[name](alone(caption, words)).maps[-1]
        largest = np.abs(together[words - 1]).max()
        np.testing.assert_allclose(last, together[words - 1], atol=1e-4 * largest)


def test_lagged_attention_is_that_of_another_step_and_undefined_beyond_the_caption(caption):
    looked = caption.alphas.reshape(WORDS, 4, 4)
    for name, lag in (("minus_2", -2), ("minus_1", -1), ("plus_1", 1), ("plus_2", 2)):
        maps = METHODS[f"attention_{name}"](caption).maps
        for word in range(WORDS):
            if 0 <= word + lag < WORDS:
                assert np.array_equal(maps[word], looked[word + lag])
            else:
                assert np.isnan(maps[word]).all()
        assert np.isnan(METHODS[f"attention_{name}"](alone(caption, 1)).maps).all()


def test_path_maps_sum_to_input_times_gradient_and_give_the_shares(caption):
    maps = [METHODS[f"path_{path}"](caption).maps for path in ("now", "past", "init")]
    whole = METHODS["grid_input_x_gradient"](caption).maps
    np.testing.assert_allclose(np.sum(maps, axis=0), whole, atol=1e-6 * np.abs(whole).max())
    strengths = np.abs(maps).sum(axis=(2, 3))
    shares = path_shares(caption)
    for share, strength in zip(shares[:3], strengths, strict=True):
        np.testing.assert_allclose(share, strength / strengths.sum(axis=0), rtol=1e-5)


def test_what_methods_share_is_computed_once_and_again_when_weights_have_changed(caption):
    captioner = tiny_captioner()
    caption = replace(caption, captioner=captioner)
    calls = []

    def count(asked):
        calls.append(asked)
        return len(calls)

    assert [caption.once(count), caption.once(count)] == [1, 1]
    with torch.no_grad():
        captioner.decoder.output.weight.mul_(2.0)
    assert caption.once(count) == 2
    captioner.decoder.output.weight = nn.Parameter(captioner.decoder.output.weight.detach().clone())
    assert caption.once(count) == 3
    assert replace(caption).once(count) == 4
    assert calls[0] is caption


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.kind == "pixels"])
def test_no_hook_stays_behind_after_an_error(name):
    captioner = tiny_captioner()
    caption = caption_for(captioner)

    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    handle = captioner.encoder.layers[-1].register_forward_hook(stop)
    before = state_of(captioner)[1:]
    with pytest.raises(Stop):
        METHODS[name](caption)
    assert state_of(captioner)[1:] == before
    handle.remove()


def test_a_method_that_captum_refuses_has_no_map_and_one_reason(caption):
    captioner = tiny_captioner()
    captioner.encoder.layers.append(nn.Identity())  # a leaf that LRP has no rule for
    result = METHODS["pixel_lrp"](replace(caption, captioner=captioner))
    assert np.isnan(result.maps).all()
    assert np.isnan(result.completeness_error).all()
    assert result.reason.startswith("Captum's LRP refuses this encoder: Module of type")
    assert "\n" not in result.reason


@pytest.mark.parametrize("encoder", ["scenes", "resnet18"])
def test_the_copy_that_unsound_methods_hook_computes_the_same(encoder):
    captioner = tiny_captioner(encoder, size=64)
    caption = caption_for(captioner)
    copied = unsound._with_modules_used_once(captioner, caption.image)
    for _ in range(2):
        np.testing.assert_array_equal(
            copied.encode(caption.image[None]).detach(), captioner.encode(caption.image[None]).detach()
        )
    calls = []
    for module in copied.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda module, *_: calls.append(module))
    copied.encode(caption.image[None])
    assert len(set(calls)) == len(calls) > 0
    assert not any(module.inplace for module in calls)


def test_completeness_finds_out_the_methods_that_are_not_sound():
    caption = caption_for(tiny_captioner("resnet18", size=64))
    assert np.nanmedian(METHODS["pixel_integrated_gradients"](caption).completeness_error) < 0.05
    assert np.nanmedian(METHODS["pixel_deep_lift"](caption).completeness_error) > 0.05
    assert np.nanmedian(METHODS["pixel_lrp"](caption).completeness_error) > 1e6


@pytest.mark.parametrize("name", METHODS)
def test_every_method_explains_the_demo(demo, name):
    if METHODS[name].group == "thorough" and name.startswith("grid"):
        demo = replace(demo, alphas=demo.alphas[:1])
    weights, *rest = state_of(demo.captioner)
    result = METHODS[name](demo)
    assert result.maps.shape == (demo.words, 14, 14)
    assert result.reason is None
    weights_after, *rest_after = state_of(demo.captioner)
    assert rest == rest_after
    assert all(torch.equal(weights[key], weights_after[key]) for key in weights)


def test_hooks_are_counted_in_the_model_at_hand():
    scenes, resnet = tiny_captioner(), tiny_captioner("resnet18", size=64)
    hooked = {name for name, method in METHODS.items() if method.hooks(scenes)}
    assert hooked == {"pixel_guided_backprop", "pixel_guided_grad_cam", "pixel_deep_lift", "pixel_lrp"}
    assert METHODS["pixel_guided_backprop"].hooks(scenes) == 3
    assert METHODS["pixel_guided_backprop"].hooks(resnet) == 9  # one shared by each of 8 blocks
    assert len(gradients.relu_modules(resnet)) == 9


def test_metadata_is_of_one_piece():
    for method in METHODS.values():
        assert (method.note is not None) or method.group not in ("comparison", "unsound")
        assert (method.forward > 0) == (method.kind in ("grid", "pixels"))
        assert method.backward == 0 or method.forward == method.backward
        assert not method.complete or method.signed
        assert method.resolution == "grid" or method.kind == "pixels"
    names = {
        group: {m.name for m in METHODS.values() if m.group == group} for group in ("comparison", "unsound")
    }
    assert names["comparison"] == {"pixel_grad_cam", "pixel_guided_grad_cam"}
    assert names["unsound"] == {"pixel_deep_lift", "pixel_lrp"}


def test_smooth_random_is_blurred_noise_of_the_seed_and_the_word(caption):
    maps = METHODS["smooth_random"](caption).maps
    rough = np.random.Generator(np.random.PCG64([caption.seed, 1, 1])).standard_normal((4, 4))
    smooth = gaussian_filter(rough, 0.4, mode="wrap")
    np.testing.assert_allclose(maps[1], smooth - smooth.min(), rtol=1e-5, atol=1e-6)
    assert not np.array_equal(maps, METHODS["smooth_random"](replace(caption, seed=1)).maps)


def test_the_mean_of_a_class_is_what_the_caption_was_given(caption):
    assert np.array_equal(METHODS["class_mean"](caption).maps.reshape(WORDS, -1), caption.class_alphas)
    assert np.isnan(METHODS["class_mean"](replace(caption, class_alphas=None)).maps).all()


def test_answers_score_what_they_must():
    mask, other = np.zeros((2, 16, 16), bool)
    mask[2:7, 3:9], other[9:14, 8:15] = True, True
    place = Place(mask, other)
    masks, maps = answer_masks(place), answer_maps(place, (4, 4))
    assert [*masks, *maps] == [name for name, _, _ in ANSWERS]
    oracle, inverse, elsewhere = (
        localise(masks[name][None], mask) for name in ("oracle", "inverse", "other_object")
    )
    for measure in ("mass", "rank", "auc", "pointing"):
        assert getattr(oracle, measure)[0] == 1.0
        assert getattr(inverse, measure)[0] == 0.0
    assert elsewhere.mass[0] == 0.0
    assert np.isnan(masks["distractors"]).all()
    assert maps["distractors_grid"].shape == (4, 4)
    assert np.array_equal(maps["oracle_grid"], mask_on_grid(mask, (4, 4)))
    assert np.array_equal(maps["oracle_grid"] + maps["inverse_grid"], np.ones((4, 4)))
