"""By which path the image reaches a word: the three partial gradients, and how much each carries.

An attention map shows only the first of them, `now`. It can point at the right object and still not be what
the word rests on, which the other two shares tell.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from explain.methods.base import ExplainedCaption
from explain.methods.gradients import grid_gradients
from explain.target import frozen


class PathShares(NamedTuple):
    """One number per word. The shares sum to 1; NaN where the word doesn't depend on the image at all."""

    now: Float[np.ndarray, " word"]
    """By the attention and context of the step that says the word."""
    past: Float[np.ndarray, " word"]
    """By earlier steps, through the LSTM's state."""
    init: Float[np.ndarray, " word"]
    """By the state before the first word."""
    path_sum_error: Float[np.ndarray, " word"]
    """|sum of the three gradients - full gradient| / |full gradient|: zero but for rounding, or the model
    computes something else than its three paths. NaN where the full gradient is zero."""


def path_shares(caption: ExplainedCaption) -> PathShares:
    """Splits each word's dependence on the annotation vectors.

    The strength of a path is the sum over cells of |annotation vector . gradient|: input times gradient per
    cell, without letting cells cancel. A share is a strength over the sum of the three. The gradients are those
    of the methods `path_now`, `path_past` and `path_init`, computed once for all.

    Args:
        caption: with any number of words.

    Returns:
        Shares and the check that they are shares of the whole.
    """
    if caption.words == 0:
        return PathShares(*(np.zeros(0) for _ in PathShares._fields))
    with frozen(caption.captioner):
        found = caption.once(grid_gradients)
    strengths = torch.stack([part.abs().sum(dim=1) for part in (found.now, found.past, found.init)])
    shares = strengths / strengths.sum(dim=0)
    return PathShares(*(values.double().cpu().numpy() for values in (*shares, found.path_sum_error)))
