"""Whether attention tells words apart at all: how far it spreads, what it takes in, whether it moves between words.

A map that is the same for every word explains none of them, however well the captions read. Users of the family
report it again and again (DeepRNN/image_captioning, issues 3, 32 and 77); scores of captions don't show it.
"""

import math

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import pdist

COLLAPSED_BELOW = 0.01
"""Attention that moves less than this within a whole caption has collapsed."""


def attention_entropy(alphas: Float[np.ndarray, "word cells"]) -> float | None:
    """Mean over the words of the entropy of each map, as a share of the largest possible: -sum alpha ln alpha / ln L.

    Args:
        alphas: one map per word, each summing to 1.

    Returns:
        From 0, all weight on one cell, to 1, evenly spread; None without words, or on a grid of one cell.
    """
    words, cells = alphas.shape
    if words == 0 or cells == 1:
        return None
    alphas = alphas.astype(np.float64)
    logs = np.log(alphas, out=np.zeros_like(alphas), where=alphas > 0)  # 0 ln 0 = 0
    return float(-(alphas * logs).sum(axis=1).mean() / math.log(cells))


def attention_movement(alphas: Float[np.ndarray, "word cells"]) -> float | None:
    """Largest total variation distance, sum |alpha - alpha'| / 2, between the maps of two words of a caption.

    Args:
        alphas: one map per word, each summing to 1.

    Returns:
        From 0, all maps are the same, to 1, two maps share no cell; None with fewer than two words.
    """
    return float(pdist(alphas.astype(np.float64), "cityblock").max() / 2) if len(alphas) > 1 else None


def attention_coverage(alphas: Float[np.ndarray, "word cells"]) -> float | None:
    """How much of the picture a caption's attention takes in: exp(entropy of the mean map) / L.

    The perplexity of the mean map is the number of cells that would share its weight evenly.

    Args:
        alphas: one map per word, each summing to 1.

    Returns:
        From 1 / L, all words look at one cell, to 1, all cells get the same in the end; None without words.
    """
    if len(alphas) == 0:
        return None
    mean = alphas.astype(np.float64).mean(axis=0)
    seen = mean[mean > 0]
    return float(np.exp(-(seen * np.log(seen)).sum()) / len(mean))
