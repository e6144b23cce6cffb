"""Word scores, attribution methods and path shares, on tiny captioners and one whose maps are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from explain.methods import METHODS, ExplainedCaption, gradients, grid, pixels, pool_to_grid, unsound
from explain.methods.base import SMALLEST_DIFFERENCE
from explain.paths import path_shares
from explain.target import WordScore, WordScoreFromGrid, frozen
from models.captioner import Captioner
from models.decoder import DecoderConfig, Memory, State, Step
from models.encoder import EncoderConfig
from models.preprocessing import Preprocessing
from models.vocabulary import Vocabulary

VOCABULARY = Vocabulary(("<pad>", "<start>", "<end>", *"abcdefgh"), pad=0, start=1, end=2)
TOKENS = (5, 3, 9, 5, 2)
WORDS = 4
SOUND = [name for name, method in METHODS.items() if method.group != "unsound"]
COMPLETE = [name for name in SOUND if METHODS[name].complete]
MODEL_METHODS = [name for name, method in METHODS.items() if method.kind in ("grid", "pixels")]


def tiny_captioner(encoder="scenes", *, seed=0, grid=4, size=32, **switches):
    dim = {"scenes": 80, "resnet18": 512}[encoder]
    config = DecoderConfig(len(VOCABULARY), dim, embedding_dim=6, hidden_dim=8, attention_dim=5, **switches)
    captioner = Captioner(EncoderConfig(encoder, grid), config, VOCABULARY, Preprocessing(size=size))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in captioner.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            gain = 1.5 if name.startswith("encoder") else 3.5  # words shall depend on the picture
            parameter.copy_(
                0.3 + values / 10 if values.dim() == 1 else gain * values / values[0].numel() ** 0.5
            )
    return captioner.eval()


@torch.no_grad()
def caption_for(captioner, *, image=0, tokens=TOKENS, words=WORDS, **fields):
    size = captioner.preprocessing.size
    generator = torch.Generator().manual_seed(100 + image)
    picture, other = torch.randn(2, 3, size, size, generator=generator)
    annotations = captioner.encode(picture[None])
    alphas = (
        captioner.decoder(annotations, torch.tensor([tokens]), VOCABULARY.start).alphas[0, :words].numpy()
    )
    baseline = captioner.encode(other[None])[0]
    defaults = {"annotation_baseline": baseline, "seed": image, "donor_alphas": alphas[::-1].copy()}
    defaults["class_alphas"] = (alphas + alphas[::-1]) / 2
    return ExplainedCaption(captioner, picture, annotations[0], tokens, alphas, **(defaults | fields))


@pytest.fixture(scope="module")
def captioner():
    return tiny_captioner()


@pytest.fixture(scope="module")
def caption(captioner):
    return caption_for(captioner)


class PlantedDecoder(nn.Module):
    """The score of word v at step t is weight[t, v] . annotation vectors, times 1 + the previous word."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)  # (T, V, L, 3)

    def remember(self, annotations):
        return Memory(annotations, annotations)

    def initial_state(self, annotations):
        zeros = annotations.new_zeros(annotations.shape[0], 1)
        return State(zeros, zeros)

    def first_words(self, rows, start):
        return torch.full((rows,), start)

    def step(self, word_ids, state, memory):
        weight = self.weight[state.hidden[:, 0].long()]  # (B, V, L, 3)
        scores = torch.einsum("bvlc,blc->bv", weight, memory.annotations) * (1 + word_ids[:, None])
        cells = memory.annotations.shape[1]
        return Step(
            scores, State(state.hidden + 1, state.cell), scores.new_full((len(scores), cells), 1 / cells)
        )


class PlantedCaptioner(Captioner):
    """An annotation vector is the mean colour of its cell; word t rests on the cells of box t alone."""

    grid = (4, 4)
    vocabulary = VOCABULARY

    def __init__(self):
        nn.Module.__init__(self)
        generator = torch.Generator().manual_seed(7)
        colour = torch.randn(len(TOKENS), len(VOCABULARY), 1, 3, generator=generator)
        box = torch.zeros(len(TOKENS), 1, 4, 4, 1)
        for t in range(len(TOKENS)):
            box[t, :, t % 3 : t % 3 + 2, t % 2 : t % 2 + 2] = 1 / 4
        self.decoder = PlantedDecoder(colour * box.flatten(2, 3))
        self.encoder = nn.AdaptiveAvgPool2d(self.grid)
        self.encoder_dtype = torch.float32


@pytest.fixture(scope="module")
def planted():
    model = PlantedCaptioner().eval()
    image = torch.randn(3, 12, 16, generator=torch.Generator().manual_seed(3))
    annotations = model.encode(image[None])[0]
    baseline = torch.randn(16, 3, generator=torch.Generator().manual_seed(4))
    alphas = np.full((WORDS, 16), 1 / 16, np.float32)
    return ExplainedCaption(model, image, annotations, TOKENS, alphas, baseline, seed=0)


def planted_maps(caption):
    """For every word, by hand: the gradient at each annotation vector, (W, L, 3)."""
    weight = caption.captioner.decoder.weight.detach().double()
    previous = (VOCABULARY.start, *TOKENS)
    return torch.stack([weight[t, TOKENS[t]] * (1 + previous[t]) for t in range(WORDS)])


def test_planted_captioner_gets_the_maps_that_follow_from_its_formula(planted):
    gradient, a = planted_maps(planted), planted.annotations.double()
    lost = a - planted.annotation_baseline.double()
    nothing = torch.zeros(WORDS, 16)
    cam = (gradient.mean(dim=1, keepdim=True) * a).sum(dim=2).relu()
    expected = {
        "path_now": (gradient * a).sum(dim=2),
        "path_past": nothing,
        "path_init": nothing,
        "grid_gradient": gradient.norm(dim=2),
        "grid_input_x_gradient": (gradient * a).sum(dim=2),
        "grid_integrated_gradients": (gradient * lost).sum(dim=2),
        # The score is linear in the annotation vectors: every cell's worth is its own, in any company.
        "grid_ablation": (gradient * lost).sum(dim=2),
        "grid_kernel_shap": (gradient * lost).sum(dim=2),
        "grid_smoothgrad": gradient.norm(dim=2),
        # Each of a cell's pixels has the cell's gradient over the number of pixels; pooling sums them up
        # again.
        "pixel_saliency": gradient.abs().amax(dim=2),
        "pixel_guided_backprop": gradient.abs().amax(dim=2),
        "pixel_smoothgrad": gradient.abs().amax(dim=2),
        "pixel_input_x_gradient": (gradient * a).sum(dim=2),
        "pixel_integrated_gradients": (gradient * a).sum(dim=2),
        "pixel_deep_lift": (gradient * a).sum(dim=2),
        "pixel_lrp": (gradient * a).sum(dim=2),
        "pixel_grad_cam": cam,
        "pixel_guided_grad_cam": cam * gradient.abs().amax(dim=2),
    }
    elsewhere = {"grid_gradient_shap", "pixel_occlusion"}  # in tests of their own
    assert set(expected) | elsewhere == set(MODEL_METHODS)
    for name, maps in expected.items():
        found = METHODS[name](planted)
        np.testing.assert_allclose(
            found.maps.reshape(WORDS, 16), maps.numpy(), rtol=1e-4, atol=1e-4, err_msg=name
        )
        assert found.completeness_error is None or np.nanmax(found.completeness_error) < 1e-4


def test_planted_captioner_has_nothing_but_the_path_of_now(planted):
    shares = path_shares(planted)
    assert np.array_equal(shares.now, np.ones(WORDS))
    assert np.array_equal(shares.past, np.zeros(WORDS))
    assert np.array_equal(shares.init, np.zeros(WORDS))


SWITCHES = [
    {},
    {"initial_state": "zero", "first_input": "zeros", "gate": "none", "attention_activation": "relu"},
    {"initial_state": "linear", "gate": "vector", "output": "deep"},
]


@pytest.mark.parametrize("switches", SWITCHES)
def test_word_scores_are_the_log_probabilities_the_decoder_gives(switches):
    captioner = tiny_captioner(**switches)
    caption = caption_for(captioner)
    token_ids = torch.tensor([TOKENS])
    expected = captioner.word_log_probs(caption.annotations[None], token_ids)[0]
    step = torch.tensor([3, 0, 4, 1, 1, 2])
    rows = token_ids.repeat(len(step), 1), step
    with torch.no_grad():
        from_grid = WordScoreFromGrid(captioner)(caption.annotations.repeat(len(step), 1, 1), *rows)
        from_pixels = WordScore(captioner)(caption.image.repeat(len(step), 1, 1, 1), *rows)
    torch.testing.assert_close(from_grid, expected[step])
    torch.testing.assert_close(from_pixels, expected[step])


def test_a_word_alone_scores_and_explains_as_in_its_batch(captioner):
    captions = [caption_for(captioner, image=image) for image in range(2)]
    prefixes = torch.tensor([TOKENS, (4, 4, 7, 3, 8)])
    annotations = torch.stack([c.annotations for c in captions]).repeat_interleave(5, dim=0).requires_grad_()
    rows = prefixes.repeat_interleave(5, dim=0), torch.tensor([2, 0, 4, 3, 1] * 2)
    score = WordScoreFromGrid(captioner)
    together = score(annotations, *rows)
    (gradient,) = torch.autograd.grad(together.sum(), annotations)
    for row in range(10):
        alone = annotations[row : row + 1].detach().requires_grad_()
        value = score(alone, *(part[row : row + 1] for part in rows))
        torch.testing.assert_close(value, together[row : row + 1])
        torch.testing.assert_close(torch.autograd.grad(value.sum(), alone)[0][0], gradient[row])


@pytest.mark.parametrize("name", MODEL_METHODS)
def test_later_words_have_no_influence(captioner, caption, name):
    other = caption_for(captioner, tokens=(5, 3, 8, 8, 8))
    maps, changed = METHODS[name](caption).maps, METHODS[name](other).maps
    np.testing.assert_allclose(maps[:2], changed[:2], rtol=1e-4, atol=1e-6)
    assert not np.allclose(maps[2], changed[2], rtol=1e-2)


@pytest.mark.parametrize("switches", SWITCHES)
def test_gradients_of_the_three_paths_sum_to_the_full_gradient(switches):
    shares = path_shares(caption_for(tiny_captioner(**switches)))
    assert shares.path_sum_error.max() < 1e-5
    np.testing.assert_allclose(shares.now + shares.past + shares.init, 1.0, rtol=1e-6)
    assert shares.past[0] == 0.0
    assert (shares.past[1:] > 0.0).all()
    assert (shares.init > 0.0).all() != (switches.get("initial_state") == "zero")


def test_path_shares_are_undefined_for_a_word_that_ignores_the_image(caption):
    deaf = tiny_captioner()
    with torch.no_grad():
        deaf.decoder.output.weight.zero_()
    shares = path_shares(replace(caption, captioner=deaf))
    assert np.isnan(np.stack(shares)).all()


def state_of(captioner):
    return (
        {name: value.clone() for name, value in captioner.state_dict().items()},
        [(parameter.requires_grad, parameter.grad) for parameter in captioner.parameters()],
        [module.training for module in captioner.modules()],
        [
            len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
            for m in captioner.modules()
        ],
    )


def told_words(name):
    """Which words have a map: those whose lagged step exists."""
    lag = {
        "attention_minus_2": -2,
        "attention_minus_1": -1,
        "attention_plus_1": 1,
        "attention_plus_2": 2,
    }.get(name, 0)
    return slice(max(0, -lag), WORDS - max(0, lag))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_the_contract(captioner, caption, name):
    next(captioner.encoder.parameters()).requires_grad_(False)  # a flag that must survive as it is
    weights, *rest = state_of(captioner)
    inputs = caption.image.clone(), caption.annotations.clone(), caption.alphas.copy()
    result = METHODS[name](caption)
    assert result.maps.shape == (WORDS, 4, 4)
    assert result.maps.dtype == np.float32
    assert np.isfinite(result.maps[told_words(name)]).all()
    assert METHODS[name].signed or not (result.maps < 0.0).any()
    assert (result.completeness_error is None) != METHODS[name].complete
    weights_after, *rest_after = state_of(captioner)
    assert rest == rest_after
    assert all(torch.equal(weights[key], weights_after[key]) for key in weights)
    assert torch.equal(inputs[0], caption.image)
    assert torch.equal(inputs[1], caption.annotations)
    assert not caption.annotations.requires_grad
    again = METHODS[name](replace(caption))  # a copy, which has kept nothing
    assert np.array_equal(result.maps, again.maps, equal_nan=True)
    with torch.inference_mode():
        assert np.array_equal(result.maps, METHODS[name](replace(caption)).maps, equal_nan=True)


@pytest.mark.parametrize("name", METHODS)
def test_the_order_of_images_changes_nothing(captioner, name):
    captions = [caption_for(captioner, image=image) for image in range(3)]
    forwards = [METHODS[name](c).maps for c in captions]
    backwards = [METHODS[name](replace(c)).maps for c in captions[::-1]][::-1]
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(forwards, backwards, strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_a_caption_without_words_has_no_maps(captioner, name):
    result = METHODS[name](caption_for(captioner, tokens=(2,), words=0))
    assert result.maps.shape == (0, 4, 4)
    assert path_shares(caption_for(captioner, tokens=(2,), words=0)).now.shape == (0,)


@pytest.mark.parametrize("name", METHODS)
def test_a_residual_network_with_shared_in_place_relus_can_be_explained(name):
    captioner = tiny_captioner("resnet18", size=64)
    caption = caption_for(captioner)
    before = state_of(captioner)[1:]
    result = METHODS[name](caption)
    assert result.maps.shape == (WORDS, 4, 4)
    assert np.isfinite(result.maps[told_words(name)]).all()
    assert state_of(captioner)[1:] == before
    if name in COMPLETE:
        assert np.nanmedian(result.completeness_error) < 0.05


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_maps_on_a_gpu_are_those_of_the_cpu(caption, name):
    captioner = tiny_captioner().cuda()
    on_gpu = replace(
        caption,
        captioner=captioner,
        image=caption.image.cuda(),
        annotations=caption.annotations.cuda(),
        annotation_baseline=caption.annotation_baseline.cuda(),
    )
    expected = METHODS[name](caption).maps
    np.testing.assert_allclose(METHODS[name](on_gpu).maps, expected, atol=2e-2 * np.abs(expected).max())


@pytest.mark.parametrize("name", COMPLETE)
def test_integrated_gradients_sum_to_the_change_of_the_log_probability(captioner, caption, name):
    result = METHODS[name](caption)
    with torch.no_grad():
        zero = captioner.encode(torch.zeros(1, 3, 32, 32))[0]
        baseline = caption.annotation_baseline if name.startswith("grid") else zero
        token_ids = torch.tensor([TOKENS, TOKENS])
        here, there = captioner.word_log_probs(
            torch.stack([caption.annotations, baseline]), token_ids
        ).double()
    change = (here - there)[:WORDS].numpy()
    sums = result.maps.astype(np.float64).sum(axis=(1, 2))
    expected = [
        abs(total - delta) / abs(delta) if abs(delta) >= SMALLEST_DIFFERENCE else np.nan
        for total, delta in zip(sums, change, strict=True)
    ]
    np.testing.assert_allclose(result.completeness_error, expected, rtol=1e-2, atol=1e-4)
    assert np.nanmedian(result.completeness_error) < 0.02


def test_completeness_is_undefined_where_the_image_makes_no_difference(caption):
    result = METHODS["grid_integrated_gradients"](replace(caption, annotation_baseline=caption.annotations))
    assert np.isnan(result.completeness_error).all()


def test_guided_backprop_reaches_the_relus_of_the_encoder(captioner, caption):
    guided, plain = (METHODS[name](caption).maps for name in ("pixel_guided_backprop", "pixel_saliency"))
    assert np.abs(guided - plain).max() > 0.1 * plain.max()
    linear = tiny_captioner()
    linear.encoder.layers = nn.Sequential(*(m for m in linear.encoder.layers if not isinstance(m, nn.ReLU)))
    unhooked = caption_for(linear)
    guided, plain = (METHODS[name](unhooked).maps for name in ("pixel_guided_backprop", "pixel_saliency"))
    np.testing.assert_allclose(guided, plain, rtol=1e-6)


def test_guided_backprop_is_the_same_with_one_relu_used_often_as_with_many(caption):
    shared = tiny_captioner()
    relu = nn.ReLU(inplace=True)
    shared.encoder.layers = nn.Sequential(
        *(relu if isinstance(m, nn.ReLU) else m for m in shared.encoder.layers)
    )
    method = METHODS["pixel_guided_backprop"]
    np.testing.assert_allclose(method(caption_for(shared)).maps, method(caption).maps, rtol=1e-6)


@pytest.mark.parametrize("name", MODEL_METHODS)
def test_the_size_of_a_batch_changes_no_map(caption, name, monkeypatch):
    whole = METHODS[name](replace(caption))
    monkeypatch.setattr(gradients, "BATCH_PIXELS", 3 * 32 * 32)  # three pictures at once
    monkeypatch.setattr(unsound, "BATCH_PIXELS", 3 * 32 * 32)
    monkeypatch.setattr(pixels, "BATCH_PICTURES", 5)
    monkeypatch.setattr(grid, "BATCH_FLOATS", 3 * caption.annotations.numel())
    largest = np.abs(whole.maps).max()
    np.testing.assert_allclose(METHODS[name](replace(caption)).maps, whole.maps, atol=1e-4 * largest)


def test_a_captioner_in_training_mode_is_refused(caption):
    captioner = tiny_captioner().train()
    with pytest.raises(AssertionError, match="eval mode"):
        METHODS["grid_gradient"](replace(caption, captioner=captioner))


def test_weights_get_their_gradients_back_even_after_an_error(captioner):
    flags = [parameter.requires_grad for parameter in captioner.parameters()]
    inside = []

    def explain_and_fail():
        with frozen(captioner):
            inside.extend(parameter.requires_grad for parameter in captioner.parameters())
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        explain_and_fail()
    assert not any(inside)
    assert flags == [parameter.requires_grad for parameter in captioner.parameters()]


def test_attention_is_what_the_decoder_looked_at(caption):
    assert np.array_equal(METHODS["attention"](caption).maps.reshape(WORDS, -1), caption.alphas)


def test_random_maps_depend_on_the_image_and_the_place_of_the_word_alone(captioner, caption):
    maps = METHODS["random"](caption).maps
    shorter = METHODS["random"](caption_for(captioner, words=2)).maps
    assert np.array_equal(maps[:2], shorter)
    assert not np.array_equal(maps[0], maps[1])
    assert not np.array_equal(maps, METHODS["random"](replace(caption, seed=1)).maps)
    assert maps[0, 0, 0] == pytest.approx(np.random.Generator(np.random.PCG64([0, 0])).random(), rel=1e-6)


def test_edges_are_the_literal_sobel_magnitude(caption):
    grey = np.pad(caption.image.double().mean(dim=0).numpy(), 1, mode="edge")
    expected = np.zeros((4, 4))
    for y in range(32):
        for x in range(32):
            w = grey[y : y + 3, x : x + 3]
            dx = w[0, 2] + 2 * w[1, 2] + w[2, 2] - w[0, 0] - 2 * w[1, 0] - w[2, 0]
            dy = w[2, 0] + 2 * w[2, 1] + w[2, 2] - w[0, 0] - 2 * w[0, 1] - w[0, 2]
            expected[y // 8, x // 8] += np.hypot(dx, dy)
    maps = METHODS["edges"](caption).maps
    np.testing.assert_allclose(maps, np.broadcast_to(expected, maps.shape), rtol=1e-4)
    flat = replace(caption, image=torch.ones(3, 32, 32))
    assert (METHODS["edges"](flat).maps == 0.0).all()


def test_centre_falls_off_evenly_from_the_middle(caption):
    heights = METHODS["centre"](caption).maps[0]
    assert np.array_equal(heights, heights[::-1])
    assert np.array_equal(heights, heights.T)
    assert heights.sum() == pytest.approx(1.0)
    # Cell centres of a 4 x 4 grid lie 1/8 and 3/8 of the side from the middle: 1/2 and 3/2 deviations.
    assert heights[1, 0] / heights[1, 1] == pytest.approx(np.exp(-(1.5**2 - 0.5**2) / 2))


def test_a_word_without_a_donor_has_no_map_of_another_image(caption):
    assert np.isnan(METHODS["other_image"](replace(caption, donor_alphas=None)).maps).all()


@pytest.mark.parametrize(("size", "grid"), [((12, 16), (4, 4)), ((13, 10), (4, 3)), ((3, 2), (5, 4))])
def test_pooling_shares_each_pixel_by_area_and_keeps_the_sum(size, grid):
    maps = torch.randn(2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = np.zeros((2, *grid))
    for y in range(size[0] * grid[0]):  # split every pixel into grid[0] x grid[1] equal bits
        for x in range(size[1] * grid[1]):
            bit = maps[:, y // grid[0], x // grid[1]].numpy() / (grid[0] * grid[1])
            expected[:, y // size[0], x // size[1]] += bit
    pooled = pool_to_grid(maps, grid)
    np.testing.assert_allclose(pooled.numpy(), expected, atol=1e-12)
    torch.testing.assert_close(pooled.sum(dim=(1, 2)), maps.sum(dim=(1, 2)))
