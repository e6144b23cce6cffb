"""Learning rates, as functions of how far a stage has come: nothing to store, nothing to restore."""

import math
from collections.abc import Sequence
from typing import NamedTuple

_RISE = 0.2
"""Share of the steps in which a one-cycle schedule rises."""
_START, _END = 25, 1e4
"""It begins with its peak divided by the first, and ends with that divided by the second (torch's OneCycleLR)."""
_MOMENTUM = (0.85, 0.95)
"""Adam's first decay rate at the peak and at either end."""
_PLATEAU = 8
"""Epochs without a better score after which the tutorial lowers its rate, again and again."""
_LOWER = 0.8


class Rate(NamedTuple):
    """What the optimizer is told for a step."""

    factor: float
    """Of the stage's learning rates, 0 to 1."""
    momentum: float
    """Adam's first decay rate."""


def one_cycle(step: int, steps: int) -> Rate:
    """A cosine up to the peak and down again (Smith & Topin 2017, arXiv:1708.07120, in torch's two-phase form).

    Args:
        step: from 0.
        steps: of the whole stage, at least `step` + 1.

    Returns:
        The rate; Adam's momentum falls while it rises.
    """
    peak = max(_RISE * steps - 1, 1e-9)
    low, high = _MOMENTUM
    if step <= peak:
        done = step / peak
        return Rate(_cosine(1 / _START, 1.0, done), _cosine(high, low, done))
    done = (step - peak) / max(steps - 1 - peak, 1e-9)
    return Rate(_cosine(1.0, 1 / (_START * _END), done), _cosine(low, high, done))


def plateau(scores: Sequence[float | None]) -> Rate:
    """0.8 for every eight epochs in a row without a better validation score (sgrvinod's tutorial).

    Args:
        scores: of the stage's finished epochs, higher is better; None where there was none.

    Returns:
        The rate of the epoch that follows.
    """
    drops = waited = 0
    best = -math.inf
    for score in scores:
        if score is not None and score > best:
            best, waited = score, 0
        else:
            waited += 1
            drops += waited % _PLATEAU == 0
    return Rate(_LOWER**drops, 0.9)


def constant() -> Rate:
    """The stage's learning rates as they are."""
    return Rate(1.0, 0.9)


def _cosine(first: float, last: float, done: float) -> float:
    return last + (first - last) / 2 * (1 + math.cos(math.pi * done))
