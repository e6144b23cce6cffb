"""Every shared computation against the obvious loop: Captum's own class, one word at a time."""

import numpy as np
import pytest
import torch
from captum.attr import (
    FeatureAblation,
    GradientShap,
    GuidedBackprop,
    GuidedGradCam,
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    LayerGradCam,
    NoiseTunnel,
    Occlusion,
    Saliency,
)
from test_explain_methods import WORDS, caption_for, tiny_captioner
from torch import nn

from explain.methods import METHODS, grid, pixels, pool_to_grid
from explain.methods.base import noise
from explain.target import WordScore, WordScoreFromGrid

pytestmark = [
    pytest.mark.filterwarnings("ignore:Setting (backward|forward)"),
    pytest.mark.filterwarnings("ignore:Internal batch size"),
]
CASES = {
    "scenes": lambda: tiny_captioner(),
    "zero state, odd size": lambda: tiny_captioner(initial_state="zero", gate="none", size=40, grid=5),
    "resnet18": lambda: tiny_captioner("resnet18", size=64),
}


@pytest.fixture(scope="module", params=CASES)
def caption(request):
    return caption_for(CASES[request.param]())


def one_by_one(caption, explain, score=WordScoreFromGrid):
    """Asks `explain(function of one input, its additional arguments)` for every word."""
    function = score(caption.captioner)
    prefix, step = caption.rows
    return torch.cat([explain(function, (prefix[w : w + 1], step[w : w + 1])).detach() for w in range(WORDS)])


def annotations_of(caption):
    return caption.annotations[None].clone().requires_grad_()


def image_of(caption):
    return caption.image[None].clone().requires_grad_()


def assert_same(name, caption, expected, tolerance=1e-5):
    """Within a share of the largest value of each word's map."""
    found = METHODS[name](caption).maps.reshape(WORDS, -1)
    expected = expected.double().reshape(WORDS, -1).numpy()
    largest = np.abs(expected).max(axis=1, keepdims=True)
    assert (largest > 0.0).any()
    assert (np.abs(found - expected) <= tolerance * largest).all()


def pooled(caption, maps):
    return pool_to_grid(maps, caption.captioner.grid)


def test_gradients_on_the_grid(caption):
    found = one_by_one(
        caption,
        lambda f, rows: Saliency(f).attribute(
            annotations_of(caption), abs=False, additional_forward_args=rows
        ),
    )
    assert_same("grid_gradient", caption, found.norm(dim=2))
    found = one_by_one(
        caption,
        lambda f, rows: InputXGradient(f).attribute(annotations_of(caption), additional_forward_args=rows),
    )
    assert_same("grid_input_x_gradient", caption, found.sum(dim=2))


def test_integrated_gradients_on_the_grid(caption):
    found = one_by_one(
        caption,
        lambda f, rows: IntegratedGradients(f).attribute(
            annotations_of(caption),
            baselines=caption.annotation_baseline[None],
            additional_forward_args=rows,
            n_steps=grid.STEPS,
        ),
    )
    assert_same("grid_integrated_gradients", caption, found.sum(dim=2))


@torch.no_grad()
def test_cell_ablation(caption):
    cells = len(caption.annotations)
    found = one_by_one(
        caption,
        lambda f, rows: FeatureAblation(f).attribute(
            caption.annotations[None],
            baselines=caption.annotation_baseline[None],
            additional_forward_args=rows,
            feature_mask=torch.arange(cells)[None, :, None],
        ),
    )
    # Captum gives the change to each of a cell's numbers. Differences of log-probabilities round at 1e-7 nats.
    largest = float(found.abs().amax(dim=(1, 2)).min())
    assert_same("grid_ablation", caption, found[:, :, 0], tolerance=max(1e-5, 2e-6 / largest))


def with_draws(monkeypatch, deviations, uniform=None):
    """Makes Captum take our draws: `deviations` as its noise, `uniform` as its places on the path."""
    monkeypatch.setattr(torch, "normal", lambda mean, std: deviations.reshape(std.shape))
    if uniform is not None:
        monkeypatch.setattr(np.random, "uniform", lambda low, high, size: uniform)


def test_smoothgrad_on_the_grid(caption, monkeypatch):
    draws = noise(caption, "grid").standard_normal((grid.SAMPLES, *caption.annotations.shape), np.float32)
    with_draws(
        monkeypatch, torch.from_numpy(draws) * (grid.SMOOTHGRAD_NOISE * float(caption.annotations.std()))
    )
    found = one_by_one(
        caption,
        lambda f, rows: NoiseTunnel(Saliency(f)).attribute(
            annotations_of(caption),
            nt_type="smoothgrad",
            nt_samples=grid.SAMPLES,
            abs=False,
            additional_forward_args=rows,
        ),
    )
    assert_same("grid_smoothgrad", caption, found.norm(dim=2))


def test_gradient_shap(caption, monkeypatch):
    draws = noise(caption, "grid").standard_normal((grid.SAMPLES, *caption.annotations.shape), np.float32)
    uniform = noise(caption, "shap").random(grid.SAMPLES)
    with_draws(
        monkeypatch, torch.from_numpy(draws) * (grid.SHAP_NOISE * float(caption.annotations.std())), uniform
    )
    found = one_by_one(
        caption,
        lambda f, rows: GradientShap(f).attribute(
            annotations_of(caption),
            baselines=caption.annotation_baseline[None],
            n_samples=grid.SAMPLES,
            stdevs=0.1,  # not read: the draws are scaled already
            additional_forward_args=rows,
        ),
    )
    assert_same("grid_gradient_shap", caption, found.sum(dim=2))


def kernel_shap_by_captum(caption):
    coalitions = torch.from_numpy(grid.shap_coalitions(caption)).long()

    def draws(original, **kwargs):
        yield from coalitions.unsqueeze(1)

    def explain(function, rows):
        method = KernelShap(function)
        method.perturb_func = draws
        return method.attribute(
            caption.annotations[None],
            baselines=caption.annotation_baseline[None],
            additional_forward_args=rows,
            feature_mask=torch.arange(len(caption.annotations))[None, :, None],
            n_samples=grid.COALITIONS,
            return_input_shape=False,
        )

    return one_by_one(caption, explain)


@pytest.mark.slow
@torch.no_grad()
def test_kernel_shap(monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(grid, "COALITIONS", 64)
    caption = caption_for(tiny_captioner())
    # Captum fits in float32, with weights from 1 to 1e6.
    assert_same("grid_kernel_shap", caption, kernel_shap_by_captum(caption), tolerance=2e-4)


@torch.no_grad()
def test_kernel_shap_is_the_weighted_fit_in_float64():
    linear_model = pytest.importorskip("sklearn.linear_model")
    caption = caption_for(tiny_captioner())
    coalitions = grid.shap_coalitions(caption)
    score, (prefix, step) = WordScoreFromGrid(caption.captioner), caption.rows
    expected = []
    for w in range(WORDS):
        mixed = torch.where(
            torch.from_numpy(coalitions)[:, :, None], caption.annotations, caption.annotation_baseline
        )
        scores = score(mixed, prefix[w].repeat(len(mixed), 1), step[w].repeat(len(mixed)))
        weights = np.where(coalitions.all(axis=1) | ~coalitions.any(axis=1), 1e6, 1.0)
        fit = linear_model.LinearRegression().fit(
            coalitions.astype(np.float64), scores.double().numpy(), sample_weight=weights
        )
        expected.append(torch.from_numpy(fit.coef_))
    assert_same("grid_kernel_shap", caption, torch.stack(expected))


def gradients_by_captum(caption):
    return one_by_one(
        caption,
        lambda f, rows: Saliency(f).attribute(image_of(caption), abs=False, additional_forward_args=rows),
        WordScore,
    )


def test_saliency_and_input_x_gradient_of_pixels(caption):
    found = gradients_by_captum(caption)
    assert_same("pixel_saliency", caption, pooled(caption, found.abs().amax(dim=1)))
    assert_same("pixel_input_x_gradient", caption, pooled(caption, (found * caption.image).sum(dim=1)))


def test_integrated_gradients_of_pixels(caption):
    found = one_by_one(
        caption,
        lambda f, rows: IntegratedGradients(f).attribute(
            image_of(caption), additional_forward_args=rows, n_steps=pixels.STEPS
        ),
        WordScore,
    )
    assert_same("pixel_integrated_gradients", caption, pooled(caption, found.sum(dim=1)))


def test_guided_backprop(caption):
    found = one_by_one(
        caption,
        lambda f, rows: GuidedBackprop(f).attribute(image_of(caption), additional_forward_args=rows),
        WordScore,
    )
    assert_same("pixel_guided_backprop", caption, pooled(caption, found.abs().amax(dim=1)))


def test_smoothgrad_of_pixels(caption, monkeypatch):
    draws = noise(caption, "pixels").standard_normal((pixels.SAMPLES, *caption.image.shape), np.float32)
    image = caption.image
    with_draws(monkeypatch, torch.from_numpy(draws) * (pixels.NOISE * float(image.max() - image.min())))
    found = one_by_one(
        caption,
        lambda f, rows: NoiseTunnel(Saliency(f)).attribute(
            image_of(caption),
            nt_type="smoothgrad",
            nt_samples=pixels.SAMPLES,
            abs=False,
            additional_forward_args=rows,
        ),
        WordScore,
    )
    assert_same("pixel_smoothgrad", caption, pooled(caption, found.abs().amax(dim=1)))


@torch.no_grad()
def test_occlusion(caption):
    size, cells = caption.image.shape[1], caption.captioner.grid[0]
    side = size // cells
    found = one_by_one(
        caption,
        lambda f, rows: Occlusion(f).attribute(
            caption.image[None],
            sliding_window_shapes=(3, 2 * side, 2 * side),
            strides=(3, side, side),
            additional_forward_args=rows,
        ),
        WordScore,
    )
    largest = float(found.abs().amax(dim=(1, 2, 3)).min())
    expected = pooled(caption, found[:, 0])
    assert_same("pixel_occlusion", caption, expected, tolerance=max(1e-5, 2e-6 / largest))


def test_grad_cam_and_guided_grad_cam(caption):
    layer = pixels.last_map(caption.captioner)
    found = one_by_one(
        caption,
        lambda f, rows: LayerGradCam(f, layer).attribute(
            image_of(caption), additional_forward_args=rows, relu_attributions=True
        ),
        WordScore,
    )
    # Channels cancel: what is left of a sum over 512 rounds a little more than the rest.
    assert_same("pixel_grad_cam", caption, pooled(caption, found[:, 0]), tolerance=5e-5)
    found = one_by_one(
        caption,
        lambda f, rows: GuidedGradCam(f, layer).attribute(image_of(caption), additional_forward_args=rows),
        WordScore,
    )
    assert_same("pixel_guided_grad_cam", caption, pooled(caption, found.abs().amax(dim=1)), tolerance=5e-5)


def test_windows_of_a_side_that_the_grid_does_not_divide_cover_it():
    windows = pixels.occlusion_windows(33, 4)
    assert windows.any(dim=0).all()
    assert windows.sum(dim=1).tolist() == [16, 16, 16, 9]


@pytest.mark.parametrize("make", [{"padding": 3}, {"padding": 3, "padding_mode": "reflect"}, {"dilation": 2}])
def test_the_first_convolution_may_be_of_any_make(make):
    captioner = tiny_captioner()
    first = nn.Conv2d(3, 32, kernel_size=7, stride=4, **make)
    first.load_state_dict(captioner.encoder.layers[0].state_dict())
    captioner.encoder.layers[0] = first
    caption = caption_for(captioner)
    expected = pooled(caption, gradients_by_captum(caption).abs().amax(dim=1))
    assert_same("pixel_saliency", caption, expected)


class TwoWays(nn.Module):
    """Pictures reach the annotation vectors through a convolution and past it."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 77, kernel_size=8, stride=8)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, images):
        past = nn.functional.adaptive_avg_pool2d(images, 4).tanh()
        return torch.cat([self.relu(self.convolution(images)), past], dim=1)


def test_pictures_may_reach_the_grid_past_the_first_convolution():
    captioner = tiny_captioner()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        captioner.encoder = TwoWays().eval()
    caption = caption_for(captioner)
    expected = pooled(caption, gradients_by_captum(caption).abs().amax(dim=1))
    assert_same("pixel_saliency", caption, expected)
