"""Methods that are asked for by name, and that a soft-attention LSTM gives no right to believe.

They run on a copy of the encoder or captioner, because they want every nonlinearity to be a module that is called
once, and no hook or changed weight can stay behind in what is thrown away.
"""

import copy
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from captum.attr import LRP, DeepLift
from jaxtyping import Float
from torch import Tensor, nn

from explain.methods.base import (
    Attributions,
    ExplainedCaption,
    UnexplainableError,
    pool_to_grid,
    score_difference,
)
from explain.methods.gradients import grid_gradients
from explain.target import WordScore
from models.captioner import Captioner

NONLINEAR = (nn.ReLU, nn.MaxPool2d)
"""Modules of the known encoders that Captum's DeepLift has rules for."""
LINEAR = (nn.Conv2d, nn.BatchNorm2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Linear)
"""Modules that Captum's LRP changes, beside `NONLINEAR`."""
BATCH_PIXELS = 2**18
"""Pixels of one batch of DeepLift, which doubles it."""


def deep_lift(caption: ExplainedCaption) -> Attributions:
    """DeepLift with the rescale rule, from the mean picture, summed over the channels."""
    explained = WordScore(_with_modules_used_once(caption.captioner, caption.image))
    size = max(1, BATCH_PIXELS // caption.image[0].numel())
    maps = []
    with _captum("DeepLift"):
        for prefix, step in zip(*(torch.split(part, size) for part in caption.rows), strict=True):
            images = caption.image.detach().repeat(len(step), 1, 1, 1).requires_grad_()
            found = DeepLift(explained).attribute(images, additional_forward_args=(prefix, step))
            maps.append(found.detach().sum(dim=1))
    with torch.no_grad():
        baseline = caption.captioner.encode(torch.zeros_like(caption.image).unsqueeze(0)).squeeze(0)
    return _pool(caption, torch.cat(maps)), score_difference(caption, baseline)


def lrp(caption: ExplainedCaption) -> Attributions:
    """Layer-wise relevance propagation (epsilon rule) through the encoder, summed over the channels.

    Captum has no rule for an LSTM cell or an embedding, so that the decoder is replaced by its linear readout at this
    input: relevance enters the encoder as annotation vector times gradient.
    """
    gradients = caption.once(grid_gradients).full
    model = _LinearReadout(_with_modules_used_once(caption.captioner, caption.image), gradients)
    with _captum("LRP"):
        maps = [
            LRP(model).attribute(caption.image.detach().unsqueeze(0).requires_grad_(), target=word).detach()
            for word in range(caption.words)
        ]
    entered = (caption.annotations * gradients).sum(dim=(1, 2))
    return _pool(caption, torch.cat(maps).sum(dim=1)), entered


def deep_lift_modules(captioner: Captioner) -> int:
    """How many modules DeepLift hooks."""
    return sum(isinstance(module, NONLINEAR) for module in captioner.modules())


def lrp_modules(captioner: Captioner) -> int:
    """How many modules LRP hooks."""
    return sum(isinstance(module, NONLINEAR + LINEAR) for module in captioner.encoder.modules())


class _LinearReadout(nn.Module):
    """The encoder, then one linear layer per word."""

    def __init__(self, captioner: Captioner, gradients: Float[Tensor, "word cells dim"]) -> None:
        super().__init__()
        self.encoder = captioner.encoder
        words, cells, dim = gradients.shape
        self.readout = nn.Linear(cells * dim, words, bias=False)
        weight = (
            gradients.transpose(1, 2).flatten(1).detach()
        )  # in the encoder's order: (W, L, D) -> (W, D L)
        self.readout.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch word"]:
        """One number per word, of which the words' scores are the nonlinear original."""
        scores: Tensor = self.readout(self.encoder(images).flatten(1))
        return scores


class _InTurn(nn.Module):
    """Calls its modules one after the other, one at each call."""

    def __init__(self, modules: list[nn.Module]) -> None:
        super().__init__()
        self.turns = nn.ModuleList(modules)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        """What the module whose turn it is makes of `x`."""
        result: Tensor = self.turns[self.calls % len(self.turns)](x)
        self.calls += 1
        return result


def _with_modules_used_once(captioner: Captioner, image: Float[Tensor, "3 height width"]) -> Captioner:
    """A copy that computes the same, where each call of a nonlinear module is that of a module of its own."""
    copied = copy.deepcopy(captioner)
    calls: Counter[nn.Module] = Counter()
    nonlinear = [module for module in copied.modules() if isinstance(module, NONLINEAR)]
    counting = [
        module.register_forward_hook(lambda called, _, __: calls.update([called])) for module in nonlinear
    ]
    with torch.enable_grad():  # else a folded twin of the encoder would compute
        copied.encode(image.detach().unsqueeze(0))
    for handle in counting:
        handle.remove()
    instead: dict[nn.Module, nn.Module] = {}
    for module in nonlinear:
        if isinstance(module, nn.ReLU):
            module.inplace = False
        if calls[module] > 1:
            instead[module] = _InTurn([copy.deepcopy(module) for _ in range(calls[module])])
    for parent in list(copied.modules()):
        for name, child in parent._modules.items():
            if child in instead:
                parent._modules[name] = instead[child]
    return copied


@contextmanager
def _captum(method: str) -> Iterator[None]:
    """Silences Captum's remark that it sets hooks, and says what it can't explain."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Setting forward, backward hooks")
            yield
    except (TypeError, RuntimeError, AssertionError, AttributeError) as error:
        # What Captum raises for a module without a rule, or one it has no hold of.
        raise UnexplainableError(
            f"Captum's {method} refuses this encoder: {' '.join(str(error).split())}"
        ) from error


def _pool(caption: ExplainedCaption, maps: Float[Tensor, "word height width"]) -> Float[Tensor, "word cells"]:
    return pool_to_grid(maps, caption.captioner.grid).flatten(1)
