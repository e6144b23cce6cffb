"""The obvious way to explain a caption with Captum: method by method, word by word, each call as Captum documents it.

It is what the attribution benchmarks are timed beside, and what their maps must equal. One module maps an input to the
log-probabilities of all words of a caption; Captum is told which word it is asked about. Numbers of steps are ours,
everything else is Captum's default.
"""

import warnings
from collections.abc import Callable

import torch
from captum.attr import FeatureAblation, GuidedBackprop, InputXGradient, IntegratedGradients, Saliency
from jaxtyping import Float
from torch import Tensor, nn

from explain.methods import METHODS, ExplainedCaption, pool_to_grid
from models.captioner import Captioner


class _OfGrid(nn.Module):
    """Annotation vectors to the log-probabilities of a caption's words."""

    def __init__(self, captioner: Captioner, token_ids: Tensor) -> None:
        super().__init__()
        self.captioner, self.token_ids = captioner, token_ids

    def forward(self, annotations: Float[Tensor, "row cells dim"]) -> Float[Tensor, "row word"]:
        return self.captioner.word_log_probs(annotations, self.token_ids.expand(len(annotations), -1))


class _OfPixels(_OfGrid):
    """Pixels to the log-probabilities of a caption's words."""

    def forward(self, images: Float[Tensor, "row 3 height width"]) -> Float[Tensor, "row word"]:
        log_probs: Float[Tensor, "row word"] = super().forward(self.captioner.encode(images))
        return log_probs


def captum_maps(caption: ExplainedCaption, method: str) -> Float[Tensor, "word cells"]:
    """One map per word.

    Args:
        caption: whose captioner's weights ask for gradients, as a loaded model's do.
        method: a key of `LOOPS`.

    Returns:
        Attributions on the grid, reduced as ours are.
    """
    token_ids = torch.tensor([caption.token_ids[: caption.words]], device=caption.image.device)
    on_grid = METHODS[method].resolution == "grid"
    score = (_OfGrid if on_grid else _OfPixels)(caption.captioner, token_ids)
    given = (caption.annotations if on_grid else caption.image).unsqueeze(0)
    explain = LOOPS[method](score, caption)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Captum's of what it is about to do
        return torch.cat([explain(given, word).detach() for word in range(caption.words)])


_Explain = Callable[[Tensor, int], Tensor]


def _grid_gradient(score: nn.Module, caption: ExplainedCaption) -> _Explain:  # noqa: ARG001
    method = Saliency(score)
    return lambda given, word: method.attribute(given.requires_grad_(), target=word, abs=False).norm(dim=2)


def _grid_input_x_gradient(score: nn.Module, caption: ExplainedCaption) -> _Explain:  # noqa: ARG001
    method = InputXGradient(score)
    return lambda given, word: method.attribute(given.requires_grad_(), target=word).sum(dim=2)


def _grid_integrated_gradients(score: nn.Module, caption: ExplainedCaption) -> _Explain:
    method, steps = IntegratedGradients(score), METHODS["grid_integrated_gradients"].steps
    baseline = caption.annotation_baseline.unsqueeze(0)
    return lambda given, word: method.attribute(given, baselines=baseline, target=word, n_steps=steps).sum(
        dim=2
    )


def _grid_ablation(score: nn.Module, caption: ExplainedCaption) -> _Explain:
    method, cells = FeatureAblation(score), len(caption.annotations)
    one_by_one = torch.arange(cells, device=caption.annotations.device)[None, :, None]
    baseline = caption.annotation_baseline.unsqueeze(0)
    return lambda given, word: method.attribute(
        given, baselines=baseline, target=word, feature_mask=one_by_one
    )[:, :, 0]


def _pixel_saliency(score: nn.Module, caption: ExplainedCaption) -> _Explain:
    method = Saliency(score)
    return lambda given, word: _pooled(
        caption, method.attribute(given.requires_grad_(), target=word).amax(dim=1)
    )


def _pixel_guided_backprop(score: nn.Module, caption: ExplainedCaption) -> _Explain:
    method = GuidedBackprop(score)
    return lambda given, word: _pooled(
        caption, method.attribute(given.requires_grad_(), target=word).abs().amax(dim=1)
    )


def _pixel_integrated_gradients(score: nn.Module, caption: ExplainedCaption) -> _Explain:
    method, steps = IntegratedGradients(score), METHODS["pixel_integrated_gradients"].steps
    return lambda given, word: _pooled(
        caption, method.attribute(given, target=word, n_steps=steps).sum(dim=1)
    )


def _pooled(caption: ExplainedCaption, maps: Float[Tensor, "row height width"]) -> Float[Tensor, "row cells"]:
    return pool_to_grid(maps, caption.captioner.grid).flatten(1)


LOOPS: dict[str, Callable[[nn.Module, ExplainedCaption], _Explain]] = {
    "grid_gradient": _grid_gradient,
    "grid_input_x_gradient": _grid_input_x_gradient,
    "grid_integrated_gradients": _grid_integrated_gradients,
    "grid_ablation": _grid_ablation,
    "pixel_saliency": _pixel_saliency,
    "pixel_integrated_gradients": _pixel_integrated_gradients,
    "pixel_guided_backprop": _pixel_guided_backprop,
}
"""The default methods that are Captum's."""
