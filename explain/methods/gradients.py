"""Gradients that several methods share: at the annotation vectors, path by path, and at the pixels."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from explain.methods.base import ExplainedCaption
from explain.methods.decoding import word_gradients
from explain.target import WordScoreFromGrid
from models.captioner import Captioner

BATCH_PIXELS = 2**18
"""Pixels that the encoder keeps activations of at a time: 20 pictures of 112 x 112, 4 of 256 x 256. Bounds memory,
changes no map."""


def gauss_legendre(steps: int, like: Tensor) -> tuple[Float[Tensor, " steps"], Float[Tensor, " steps"]]:
    """Nodes in (0, 1) and weights of an integral over a straight path, in the type and on the device of `like`."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return like.new_tensor((1.0 + nodes) / 2.0), like.new_tensor(weights / 2.0)


class GridGradients(NamedTuple):
    """What the annotation vectors are to each word."""

    full: Float[Tensor, "word cells dim"]
    """Gradient of the word's score, nats per unit."""
    now: Float[Tensor, "word cells"]
    """Annotation vector times partial gradient, by the attention and context of the step that says the word."""
    past: Float[Tensor, "word cells"]
    """The same by earlier steps, through the LSTM's state."""
    init: Float[Tensor, "word cells"]
    """The same by the state before the first word."""
    path_sum_error: Float[Tensor, " word"]
    """|sum of the three partial gradients - full gradient| / |full gradient|."""


def grid_gradients(caption: ExplainedCaption) -> GridGradients:
    """The full gradient and the three partial ones, in one backward pass.

    Args:
        caption: frozen, with at least one word.

    Returns:
        All that the methods on the grid and the path shares need of them.
    """
    score = WordScoreFromGrid(caption.captioner)
    inputs = full, now, past, init = tuple(
        caption.annotations.detach().repeat(caption.words, 1, 1).requires_grad_() for _ in range(4)
    )
    scores = score(full, *caption.rows).sum() + score(now, *caption.rows, past, init).sum()
    whole, *parts = torch.autograd.grad(scores, inputs, allow_unused=True, materialize_grads=True)
    error = (sum(parts) - whole).flatten(1).norm(dim=1) / whole.flatten(1).norm(dim=1)
    by_now, by_past, by_init = ((caption.annotations * part).sum(dim=2) for part in parts)
    return GridGradients(whole, by_now, by_past, by_init, error)


def pixel_gradients(caption: ExplainedCaption) -> Float[Tensor, "word 3 height width"]:
    """Gradients of the words' scores at the pixels."""
    tracked = _track(caption.captioner, caption.image.unsqueeze(0))
    return _pull_back(tracked, caption.once(grid_gradients).full.unsqueeze(0))


def guided_pixel_gradients(caption: ExplainedCaption) -> Float[Tensor, "word 3 height width"]:
    """`pixel_gradients` where each ReLU module of the encoder lets no negative gradient pass."""
    with _guided(caption.captioner):
        tracked = _track(caption.captioner, caption.image.unsqueeze(0))
    return _pull_back(tracked, caption.once(grid_gradients).full.unsqueeze(0))


def mean_pixel_gradients(
    caption: ExplainedCaption,
    pictures: Float[Tensor, "picture 3 height width"],
    weights: Float[Tensor, " picture"],
) -> Float[Tensor, "word 3 height width"]:
    """Weighted sum, over pictures, of the gradients of the caption's words at each.

    Args:
        caption: frozen; says the words.
        pictures: to take gradients at; the words don't choose them, so that the encoder sees each once.
        weights: of the pictures.

    Returns:
        Nats per unit of the pixels.
    """
    at_a_time = max(1, BATCH_PIXELS // caption.image[0].numel())
    captioner, words = caption.captioner, caption.token_ids[: caption.words]
    total = pictures.new_zeros(len(words), *pictures.shape[1:])
    for part, weight in zip(torch.split(pictures, at_a_time), torch.split(weights, at_a_time), strict=True):
        tracked = _track(captioner, part)
        at_grid = word_gradients(captioner, tracked.annotations, words)
        total += _pull_back(tracked, at_grid * weight[:, None, None, None])
    return total


class _Tracked(NamedTuple):
    """Pictures on their way through the encoder."""

    images: Float[Tensor, "picture 3 height width"]
    annotations: Float[Tensor, "picture cells dim"]
    stem: nn.Conv2d | None
    """The convolution that reads the pictures themselves; None if no convolution does."""
    stem_output: Tensor | None
    """What it makes of them, as a leaf of its own: gradients reach it, and not the pictures through it."""


def _track(captioner: Captioner, pictures: Float[Tensor, "picture 3 height width"]) -> _Tracked:
    """Encodes pictures so that `_pull_back` can follow.

    The gradient of a convolution with three input channels takes oneDNN on a CPU as long as three of the other
    layers. It is linear and the same for every picture, so that `_pull_back` calls it once per word, not once per
    word and picture. For that the graph is cut behind it.
    """
    images = pictures.detach().requires_grad_()
    outputs: list[Tensor] = []

    def cut(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if inputs[0] is not images or outputs:
            return None
        outputs.append(output.detach().requires_grad_())
        return outputs[0].clone()  # the next layer may work in place, which a leaf forbids

    stem = next((module for module in captioner.modules() if isinstance(module, nn.Conv2d)), None)
    if stem is None:
        return _Tracked(images, captioner.encode(images), None, None)
    handle = stem.register_forward_hook(cut)
    try:
        annotations = captioner.encode(images)
    finally:
        handle.remove()
    return _Tracked(images, annotations, *((stem, outputs[0]) if outputs else (None, None)))


def _pull_back(
    tracked: _Tracked, at_grid: Float[Tensor, "picture word cells dim"]
) -> Float[Tensor, "word 3 height width"]:
    """Sums, over pictures, what gradients at the annotation vectors become at the pixels."""
    images, annotations, stem, stem_output = tracked
    leaves = [images] if stem_output is None else [images, stem_output]
    by_word = []
    for gradient in at_grid.unbind(dim=1):
        at_leaves = torch.autograd.grad(
            annotations, leaves, gradient, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        by_word.append([leaf.sum(dim=0) for leaf in at_leaves])
    at_pixels, *at_stem = (torch.stack(leaf) for leaf in zip(*by_word, strict=True))
    if stem is None:
        return at_pixels
    return at_pixels + _transposed(stem, at_stem[0], at_pixels)


def _transposed(
    stem: nn.Conv2d, at_output: Float[Tensor, "word channels rows cols"], like: Tensor
) -> Float[Tensor, "word 3 height width"]:
    """Gradients at a convolution's input, of the shape of `like`, from those at its output."""
    if stem.groups == 1 and stem.padding_mode == "zeros" and not isinstance(stem.padding, str):
        # For three input channels, a third of the time of the library's way.
        columns = stem.weight.flatten(1).T @ at_output.flatten(2)
        return nn.functional.fold(
            columns, like.shape[2:], stem.kernel_size, stem.dilation, stem.padding, stem.stride
        )
    anywhere = torch.zeros_like(like).requires_grad_()
    return torch.autograd.grad(stem(anywhere), anywhere, at_output)[0]


@contextmanager
def _guided(captioner: Captioner) -> Iterator[None]:
    """While it lasts, ReLU modules let only positive gradients of what they compute pass."""

    def guide(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        output.register_hook(torch.relu)  # type: ignore[no-untyped-call]

    handles = [module.register_forward_hook(guide) for module in relu_modules(captioner)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def relu_modules(captioner: Captioner) -> list[nn.Module]:
    """The modules that guided backprop changes."""
    return [module for module in captioner.modules() if isinstance(module, nn.ReLU)]
