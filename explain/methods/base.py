"""What an attribution method is given, and what it gives back."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from explain.methods.decoding import word_scores
from explain.target import frozen
from models.captioner import Captioner

T = TypeVar("T")
SMALLEST_DIFFERENCE = 0.01
"""Nats. Where a word's log-probability at the input and at the baseline differ by less, the relative
completeness error says nothing and is undefined: the attributions share out less than one percent of a
probability."""


class Place(NamedTuple):
    """Where in the picture a word is true, at the resolution of what the model sees."""

    mask: Bool[np.ndarray, "height width"]
    """Not empty."""
    other: Bool[np.ndarray, "height width"] | None = None
    """The other thing that the caption could speak of."""
    distractors: Bool[np.ndarray, "height width"] | None = None
    """Things that no caption speaks of."""


@dataclass(frozen=True)
class ExplainedCaption:
    """One caption of one image, ready to be explained. Tensors lie on the captioner's device."""

    captioner: Captioner
    """In eval mode."""
    image: Float[Tensor, "3 height width"]
    """Preprocessed."""
    annotations: Float[Tensor, "cells dim"]
    """What the captioner's encoder makes of `image`."""
    token_ids: tuple[int, ...]
    """The whole caption, with `<end>` if it was said."""
    alphas: Float[np.ndarray, "word cells"]
    """Where the decoder looked when it said each word, W words without `<end>`; only these are explained."""
    annotation_baseline: Float[Tensor, "cells dim"]
    """Where integrated gradients start on the grid: the data set's mean annotation vector of each cell."""
    seed: int
    """Not negative; of the random control. One per image, so that no order of images matters."""
    donor_alphas: Float[np.ndarray, "word cells"] | None = None
    """For each word, where the model looked for a word of the same class in another image; NaN, or None for
    all words, where there is no such image: its map is then undefined."""
    class_alphas: Float[np.ndarray, "word cells"] | None = None
    """For each word, the mean of where the model looked for words of the same class in other images; NaN or None
    likewise."""
    places: tuple[Place | None, ...] | None = None
    """Where each word is true; None for words without a place, or for all words where the data set knows none."""

    @property
    def words(self) -> int:
        """W, the number of words that are explained."""
        return len(self.alphas)

    @property
    def rows(self) -> tuple[Int[Tensor, "word step"], Int[Tensor, " word"]]:
        """Prefix and step of each word, as the word scores take them."""
        device = self.annotations.device
        prefix = torch.tensor(self.token_ids[: self.words], dtype=torch.long, device=device)
        return prefix.repeat(self.words, 1), torch.arange(self.words, device=device)

    def once(self, compute: "Callable[[ExplainedCaption], T]") -> T:
        """What a function says of this caption; several methods need it, and it is computed for the first of them.

        Args:
            compute: a function of the caption alone. Its result must not be changed.

        Returns:
            Its result, kept as long as the caption is, and computed anew once the captioner's weights have changed.
        """
        tensors = itertools.chain(self.captioner.parameters(), self.captioner.buffers())
        weights = [(tensor, 0 if tensor.is_inference() else tensor._version) for tensor in tensors]
        kept = self._kept.get(compute)
        if kept is None or not _same(kept[0], weights):
            kept = self._kept[compute] = weights, compute(self)
        result: T = kept[1]
        return result

    @cached_property
    def _kept(self) -> dict[object, tuple[list[tuple[Tensor, int]], Any]]:
        return {}


def _same(a: list[tuple[Tensor, int]], b: list[tuple[Tensor, int]]) -> bool:
    """Whether these are the same tensors, changed as often; their numbers are not compared."""
    return len(a) == len(b) and all(x is y and m == n for (x, m), (y, n) in zip(a, b, strict=True))


class WordMaps(NamedTuple):
    """What a method says of the words of one caption."""

    maps: Float[np.ndarray, "word rows cols"]
    """float32, on the annotation grid."""
    completeness_error: Float[np.ndarray, " word"] | None
    """|sum of the attributions - (f(x) - f(x'))| / |f(x) - f(x')| in nats, x' being the baseline; NaN where
    the denominator is under `SMALLEST_DIFFERENCE`; None for methods that promise no completeness."""
    reason: str | None = None
    """Why a method can't explain this captioner, as half a sentence; all its maps are then NaN."""


Attributions = tuple[Float[Tensor, "word cells"], Float[Tensor, " word"] | None]
"""Maps by cell, and for complete methods the change f(x) - f(x') that each is to sum to."""


class UnexplainableError(Exception):
    """A method can't explain this captioner; the message says why in half a sentence."""


def no_hooks(captioner: Captioner) -> int:  # noqa: ARG001
    """Of a method that changes no module while it runs."""
    return 0


@dataclass(frozen=True)
class Method:
    """One way of saying where in an image a word comes from. Call it with a caption."""

    name: str
    """As it is stored."""
    label: str
    """As it is shown."""
    kind: Literal["attention", "grid", "pixels", "control"]
    """What it is taken from: the decoder's attention, gradients at the annotation vectors, gradients at the
    pixels, or nothing of the model."""
    source: str
    """Where it was published, and what it is here."""
    compute: Callable[[ExplainedCaption], Attributions]
    """Attributions for a caption with at least one word. May raise `UnexplainableError`."""
    signed: bool = False
    """Whether negative values mean evidence against the word."""
    complete: bool = False
    """Whether a map sums to the difference between the word's score and its score at the baseline."""
    resolution: Literal["grid", "pixels"] = "grid"
    """What it is computed on, before it is pooled to the grid."""
    baseline: str | None = None
    """What it compares with, in words; None if it compares with nothing."""
    steps: int | None = None
    """Samples, steps of a path, or, on a grid of 14 x 14, perturbations."""
    forward: int = 0
    """Forward passes a word through the decoder ("grid") or through the whole model ("pixels"), shared ones counted
    whole."""
    backward: int = 0
    """Backward passes a word."""
    group: Literal["default", "thorough", "comparison", "unsound"] = "default"
    """When it runs: always, when asked for, for comparison with papers, or only where the reader insists."""
    note: str | None = None
    """What a reader must know before believing it."""
    hooks: Callable[[Captioner], int] = no_hooks
    """How many modules of a captioner the method changes while it runs."""

    @property
    def is_part(self) -> bool:
        """Whether it shows a part of what another method shows: one path, or attention of another word's step."""
        return self.name.startswith("path_") or (self.kind == "attention" and self.name != "attention")

    def __call__(self, caption: ExplainedCaption) -> WordMaps:
        """Explains every word of a caption.

        Args:
            caption: with any number of words.

        Returns:
            One map per word. The captioner is left as it was found.
        """
        grid = caption.captioner.grid
        if caption.words == 0:
            return WordMaps(np.zeros((0, *grid), np.float32), np.zeros(0) if self.complete else None)
        try:
            with frozen(caption.captioner):
                attributions, difference = self.compute(caption)
        except UnexplainableError as refusal:
            undefined = np.full(caption.words, np.nan) if self.complete else None
            return WordMaps(np.full((caption.words, *grid), np.nan, np.float32), undefined, str(refusal))
        values = attributions.detach().cpu().numpy()
        error = None
        if difference is not None:
            change = difference.double().cpu().numpy()
            miss = np.abs(values.sum(axis=1, dtype=np.float64) - change)
            error = np.full(caption.words, np.nan)
            np.divide(miss, np.abs(change), out=error, where=np.abs(change) >= SMALLEST_DIFFERENCE)
        return WordMaps(values.astype(np.float32).reshape(-1, *grid), error)


def noise(caption: ExplainedCaption, use: str) -> np.random.Generator:
    """Draws that depend on the caption's seed and on what they are for, and on nothing else.

    Args:
        caption: all its words share the draws, so that a word alone gets the map that it gets in its batch.
        use: draws for different uses are independent.

    Returns:
        A generator at its beginning.
    """
    return np.random.Generator(np.random.PCG64([caption.seed, *use.encode()]))


@torch.no_grad()
def score_difference(
    caption: ExplainedCaption, baseline: Float[Tensor, "cells dim"]
) -> Float[Tensor, " word"]:
    """f(x) - f(x') of each word in nats: how much likelier the image makes it than the baseline does."""
    memory = caption.captioner.decoder.remember(torch.stack([caption.annotations, baseline]))
    scores = word_scores(caption.captioner, memory, caption.token_ids[: caption.words])
    return scores[0] - scores[1]


def pool_to_grid(
    maps: Float[Tensor, "*maps height width"], grid: tuple[int, int]
) -> Float[Tensor, "*maps rows cols"]:
    """Sums pixel maps over the cells of a grid; a pixel astride a border is shared by area. Keeps sums."""
    rows, cols = (_overlap(maps.shape[axis], cells, maps) for axis, cells in zip((-2, -1), grid, strict=True))
    return rows @ maps @ cols.T


def _overlap(pixels: int, cells: int, like: Tensor) -> Float[Tensor, "cells pixels"]:
    """Which share of each pixel lies in each cell, along one axis."""
    # In units of 1 / (pixels * cells) of the side, so that all borders are whole numbers.
    left = torch.arange(pixels, device=like.device) * cells
    top = torch.arange(cells, device=like.device).unsqueeze(1) * pixels
    shared = torch.minimum(left + cells, top + pixels) - torch.maximum(left, top)
    return shared.clamp(min=0).to(like.dtype) / cells
