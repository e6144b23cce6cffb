"""By which path the image reaches a word: the three partial gradients, and how much each carries.

An attention map shows only the first of them, `now`. It can point at the right object and still not be what
the word rests on, which the other two shares tell.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from explain.methods.base import ExplainedCaption
from explain.target import WordScoreFromGrid, frozen


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
    cell, without letting cells cancel. A share is a strength over the sum of the three.

    Args:
        caption: with any number of words.

    Returns:
        Shares and the check that they are shares of the whole.
    """
    if caption.words == 0:
        return PathShares(*(np.zeros(0) for _ in PathShares._fields))
    score = WordScoreFromGrid(caption.captioner)
    with frozen(caption.captioner):
        full, now, past, init = (
            caption.annotations.detach().repeat(caption.words, 1, 1).requires_grad_() for _ in range(4)
        )
        (whole,) = torch.autograd.grad(score(full, *caption.rows).sum(), full)
        split = score(now, *caption.rows, past, init).sum()
        parts = torch.autograd.grad(split, (now, past, init), allow_unused=True, materialize_grads=True)
    strengths = torch.stack([(full.detach() * part).sum(dim=2).abs().sum(dim=1) for part in parts])
    shares = strengths / strengths.sum(dim=0)
    error = (sum(parts) - whole).flatten(1).norm(dim=1) / whole.flatten(1).norm(dim=1)
    return PathShares(*(values.double().cpu().numpy() for values in (*shares, error)))
