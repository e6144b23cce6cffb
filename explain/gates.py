"""What a method must get right before it is ranked: checks that need no truth about the picture.

Each catches a way in which a library has been seen to go wrong without an error: maps that mix the words of a batch,
hooks that reach no module, gradients of the wrong step. A method that fails is wrong, or does not fit this model.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from explain.methods import METHODS
from explain.methods.base import SMALLEST_DIFFERENCE, ExplainedCaption, Method, WordMaps, no_hooks
from explain.paths import path_shares
from explain.sanity import cut
from models.captioner import Captioner

COMPLETENESS_LIMIT = 0.05
"""Median over words of the relative error."""
ROW_LIMIT = 1e-4
"""Relative difference, the largest over words. Rounding, where batches of another size are added up in another order,
makes 1e-5 of it."""
CAUSALITY_LIMIT = 1e-5
"""The same, between batches of one size."""
HOOK_LIMIT = 1e-3
"""1 - cosine, median over words."""
PATH_LIMIT = 1e-4
"""Median over words of the relative error."""
PLAIN = {
    "pixels": ("pixel_saliency", "pixel_input_x_gradient"),
    "grid": ("grid_gradient", "grid_input_x_gradient"),
}
"""What the maps of a method turn into when its hooks reach nothing, by the method's kind."""
PATHS = ("path_now", "path_past", "path_init")
"""Methods that show one path each."""
FARTHEST = 2.0
"""The relative difference of opposite maps, and of a map from an undefined one."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


Check = Literal[
    "completeness", "row independence", "hook coverage", "causality", "path sum", "model unchanged"
]


class Gate(NamedTuple):
    """What one check says of one method."""

    method: str
    gate: Check
    passed: bool | None
    """None where the check does not apply; `reason` says why."""
    value: float | None
    """None where there is none, or it is not finite."""
    limit: float | None
    """The largest `value` that passes; for hook coverage the smallest."""
    n: int
    """Words that were checked."""
    reason: str | None
    """Why it failed or does not apply, as half a sentence."""


def gates(
    captions: Sequence[ExplainedCaption],
    methods: Sequence[Method],
    *,
    known: Mapping[str, Sequence[Gate]] | None = None,
    note: Callable[[str, Sequence[Gate]], None] | None = None,
) -> list[Gate]:
    """Checks methods on a few captions; a method explains each of them, two parts of it, and another one like it.

    Everything is computed in float32. What a method leaves changed in the model is put right before the next one runs.

    Args:
        captions: all of one captioner, in eval mode; those without words tell nothing.
        methods: of any kind; what shows nothing of the model need only leave it as it is.
        known: what `note` was told of some of the methods on the same captions; these are not checked again.
        note: is told the name and the checks of each method as soon as they are made.

    Returns:
        For each method the checks that concern it, then the path sum's, which belongs to those of `PATHS` or, without
        any of them, to "paths"; nothing without a word.
    """
    spoken = [caption for caption in captions if caption.words]
    if not spoken:
        return []
    captioner = spoken[0].captioner
    rows: list[Gate] = []
    with _in_float32(captioner):
        seen = [replace(caption, annotations=_annotations(caption)) for caption in spoken]
        before = _State.of(captioner)
        for method in methods:
            if known and method.name in known:
                rows += known[method.name]
                continue
            found = [*_check(method, seen)]
            changed = before.changes(captioner)
            before.put_right(captioner, changed)
            found.append(_model_unchanged(method, changed, sum(caption.words for caption in seen)))
            rows += found
            if note:
                note(method.name, found)
        errors = np.concatenate([path_shares(caption).path_sum_error for caption in seen])
    named = [method.name for method in methods if method.name in PATHS] or ["paths"]
    return rows + [_path_sum(name, errors) for name in named]


@contextmanager
def _in_float32(captioner: Captioner) -> Iterator[None]:
    dtype = captioner.encoder_dtype
    captioner.encoder_dtype = torch.float32
    try:
        yield
    finally:
        captioner.encoder_dtype = dtype


def _annotations(caption: ExplainedCaption) -> Float[Tensor, "cells dim"]:
    with (
        torch.inference_mode(False),
        torch.no_grad(),
    ):  # in this order: leaving inference mode turns gradients on
        return caption.captioner.encode(caption.image.unsqueeze(0)).squeeze(0)


def _check(method: Method, captions: Sequence[ExplainedCaption]) -> Iterator[Gate]:
    found = [method(caption) for caption in captions]
    reason = next((maps.reason for maps in found if maps.reason is not None), None)
    if method.complete:
        yield _completeness(method, found, reason)
    if method.kind in PLAIN:
        yield _row_independence(method, captions, found, reason)
        yield _causality(method, captions, found, reason)
    if method.hooks is not no_hooks:
        yield _hook_coverage(method, captions, found, reason)


def _completeness(method: Method, found: Sequence[WordMaps], reason: str | None) -> Gate:
    errors = np.concatenate(
        [maps.completeness_error for maps in found if maps.completeness_error is not None]
    )
    errors = errors[~np.isnan(errors)]
    gate = Gate(method.name, "completeness", None, None, COMPLETENESS_LIMIT, len(errors), reason)
    if not len(errors):
        nothing = f"the picture moves no word by {SMALLEST_DIFFERENCE} nats"
        return gate._replace(reason=reason or nothing)
    median = float(np.median(errors))
    return _judged(gate, median, f"its maps miss the sum that they promise by {_percent(median)}")


def _row_independence(
    method: Method, captions: Sequence[ExplainedCaption], found: Sequence[WordMaps], reason: str | None
) -> Gate:
    """A word's map is the same whichever words are beside it: the first word alone, the first half without the rest."""
    gate = Gate(method.name, "row independence", None, None, ROW_LIMIT, 0, reason)
    differences = [
        _differences(maps.maps[:words], method(cut(caption, words)).maps)
        for caption, maps in zip(captions, found, strict=True)
        for words in sorted({1, _half(caption)})
        if reason is None and caption.words > 1
    ]
    if not differences:
        return gate._replace(reason=reason or "no caption has two words")
    worst = float(np.concatenate(differences).max())
    gate = gate._replace(n=sum(_half(caption) for caption in captions if caption.words > 1))
    return _judged(gate, worst, f"its maps change with the words beside them by {_percent(worst)}")


def _causality(
    method: Method, captions: Sequence[ExplainedCaption], found: Sequence[WordMaps], reason: str | None
) -> Gate:
    """Other words in the second half leave the maps of the first half as they are."""
    gate = Gate(method.name, "causality", None, None, CAUSALITY_LIMIT, 0, reason)
    differences = []
    for caption, maps in zip(captions, found, strict=True):
        half, vocabulary = _half(caption), len(caption.captioner.vocabulary)
        others = tuple((token + 1) % vocabulary for token in caption.token_ids[half:])
        if others and reason is None:
            changed = method(replace(caption, token_ids=(*caption.token_ids[:half], *others)))
            differences.append(_differences(maps.maps[:half], changed.maps[:half]))
    if not differences:
        return gate._replace(reason=reason or "no word has a later one")
    each = np.concatenate(differences)
    worst = float(each.max())
    return _judged(
        gate._replace(n=len(each)), worst, f"its maps change with later words by {_percent(worst)}"
    )


def _hook_coverage(
    method: Method, captions: Sequence[ExplainedCaption], found: Sequence[WordMaps], reason: str | None
) -> Gate:
    """The method changes modules while it runs, and its maps show that it does."""
    gate = Gate(method.name, "hook coverage", None, None, HOOK_LIMIT, 0, reason)
    if reason is not None:
        return gate
    if not method.hooks(captions[0].captioner):
        return gate._replace(passed=False, reason="the model has no module that it could change")
    plain = [METHODS[name] for name in PLAIN[method.kind] if name in METHODS]
    distances = np.concatenate(
        [
            np.min([_angles(maps.maps, other(caption).maps) for other in plain], axis=0)
            for caption, maps in zip(captions, found, strict=True)
        ]
    )
    distances = distances[~np.isnan(distances)]
    if not len(distances):
        return gate._replace(reason="every map is zero")
    median = float(np.median(distances))
    passed = median >= HOOK_LIMIT
    failed = "its maps are those of plain gradients: what it changes in the model has no effect"
    return gate._replace(passed=passed, value=median, n=len(distances), reason=None if passed else failed)


def _model_unchanged(method: Method, changed: Sequence[str], words: int) -> Gate:
    gate = Gate(method.name, "model unchanged", None, None, 0.0, words, None)
    return _judged(gate, float(len(changed)), f"it changed {', '.join(changed[:2])}")


def _path_sum(method: str, errors: Float[np.ndarray, " word"]) -> Gate:
    errors = errors[~np.isnan(errors)]
    gate = Gate(method, "path sum", None, None, PATH_LIMIT, len(errors), None)
    if not len(errors):
        return gate._replace(reason="no word depends on the picture")
    median = float(np.median(errors))
    return _judged(gate, median, f"the paths' gradients miss the full gradient by {_percent(median)}")


def _judged(gate: Gate, value: float, failed: str) -> Gate:
    assert gate.limit is not None
    passed = value <= gate.limit
    finite = value if np.isfinite(value) else None
    return gate._replace(passed=passed, value=finite, reason=None if passed else failed)


def _half(caption: ExplainedCaption) -> int:
    return (caption.words + 1) // 2


def _percent(share: float) -> str:
    return f"{100 * share:.{2 if share < 0.995 else 3}g} %"


def _differences(
    maps: Float[np.ndarray, "word rows cols"], others: Float[np.ndarray, "word rows cols"]
) -> Float[np.ndarray, " word"]:
    """Largest difference of each map from the other, over the largest value of both: 0 to `FARTHEST`."""
    a, b = (np.reshape(part, (len(part), -1)).astype(np.float64) for part in (maps, others))
    with np.errstate(invalid="ignore"):  # of infinite values, which are undefined, too
        apart = np.where(np.isnan(a) & np.isnan(b), 0.0, np.abs(a - b)).max(axis=1)
        largest = np.fmax(np.abs(a), np.abs(b)).max(axis=1)
        relative = np.divide(apart, largest, out=np.zeros(len(a)), where=apart != 0)
    return np.where(np.isnan(relative), FARTHEST, relative)


def _angles(
    maps: Float[np.ndarray, "word rows cols"], others: Float[np.ndarray, "word rows cols"]
) -> Float[np.ndarray, " word"]:
    """1 - cosine of each pair; NaN where a map is zero."""
    a, b = (np.reshape(part, (len(part), -1)).astype(np.float64) for part in (maps, others))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = np.divide((a * b).sum(axis=1), norms, out=np.full(len(a), np.nan), where=norms > 0)
    return np.asarray(1.0 - cosine)


class _State(NamedTuple):
    """All of a captioner that a method could leave changed."""

    tensors: Mapping[str, Tensor]
    """Copies of weights and buffers."""
    marks: Mapping[str, bool]
    """Flags of parameters and modules, by a name for each."""
    hooks: Mapping[str, tuple[tuple[int, ...], ...]]
    """Keys of each kind in `_HOOKS`, by a name for the module's."""

    @classmethod
    def of(cls, captioner: Captioner) -> "_State":
        tensors = {name: tensor.detach().clone() for name, tensor in _tensors(captioner)}
        return cls(tensors, _marks(captioner), _hooks(captioner))

    def changes(self, captioner: Captioner) -> list[str]:
        """Names of what is not as it was."""
        now = dict(_tensors(captioner)), _marks(captioner), _hooks(captioner)
        tensors = [name for name, old in self.tensors.items() if not torch.equal(old, now[0][name])]
        marks = [name for name, old in self.marks.items() if old != now[1][name]]
        return tensors + marks + [name for name, old in self.hooks.items() if old != now[2][name]]

    @torch.no_grad()
    def put_right(self, captioner: Captioner, changed: Sequence[str]) -> None:
        """Brings back what has changed. Other tensors are not touched, so that what captions keep stays valid."""
        for name, tensor in _tensors(captioner):
            if name in changed:
                tensor.copy_(self.tensors[name])
        for name, parameter in captioner.named_parameters():
            parameter.requires_grad_(self.marks[f"requires_grad of {name}"])
            if not self.marks[f"the gradient of {name}"]:
                parameter.grad = None
        for name, module in captioner.named_modules():
            module.training = self.marks[f"the mode of {name}"]
            for kind, kept in zip(_HOOKS, self.hooks[f"the hooks on {name}"], strict=True):
                hooks = getattr(module, kind)
                for key in set(hooks).difference(kept):
                    del hooks[key]


def _tensors(captioner: Captioner) -> Iterator[tuple[str, Tensor]]:
    return itertools.chain(captioner.named_parameters(), captioner.named_buffers())


def _marks(captioner: Captioner) -> dict[str, bool]:
    parameters = list(captioner.named_parameters())
    return (
        {f"requires_grad of {name}": parameter.requires_grad for name, parameter in parameters}
        | {f"the gradient of {name}": parameter.grad is not None for name, parameter in parameters}
        | {f"the mode of {name}": module.training for name, module in captioner.named_modules()}
    )


def _hooks(captioner: Captioner) -> dict[str, tuple[tuple[int, ...], ...]]:
    return {
        f"the hooks on {name}": tuple(tuple(getattr(module, kind)) for kind in _HOOKS)
        for name, module in captioner.named_modules()
    }
