"""Where the decoder looked: what all the other methods are compared with."""

from collections.abc import Callable

import numpy as np
import torch

from explain.methods.base import Attributions, ExplainedCaption


def attention(caption: ExplainedCaption) -> Attributions:
    """Where the step that says the word looks."""
    return torch.from_numpy(caption.alphas), None


def lagged(lag: int) -> Callable[[ExplainedCaption], Attributions]:
    """Where a step before or after the word's own looks.

    Args:
        lag: steps after the word's own; negative for earlier ones.

    Returns:
        The method; a word without such a step has no map.
    """

    def compute(caption: ExplainedCaption) -> Attributions:
        maps = np.full_like(caption.alphas, np.nan)
        words = caption.words
        here = slice(max(0, -lag), max(0, words - max(0, lag)))
        maps[here] = caption.alphas[max(0, lag) : max(0, words + min(0, lag))]
        return torch.from_numpy(maps), None

    return compute
