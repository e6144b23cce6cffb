"""CIDEr-D with the references' side computed once for all captions that are scored against it."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.sparse import csr_array

_ORDERS = (1, 2, 3, 4)
_SIGMA = 6.0
_Ngram = tuple[str, ...]


class CiderD:
    """CIDEr-D (Vedantam et al. 2015) against fixed references, as pycocoevalcap computes it.

    Deviations of pycocoevalcap from the paper, kept: no stemming, and lengths are counted in bigrams. Its own
    class weighs every reference again for every set of captions, which takes ten times as long.

    Args:
        references: tokenised references of each image. Document frequencies are counted over these images;
            there must be at least two, or every frequency says "everywhere" and every score is 0.
    """

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        self._owners = np.repeat(np.arange(len(references)), [len(captions) for captions in references])
        words = [caption.split() for captions in references for caption in captions]
        self._lengths = _bigrams(words)
        self._rarest = np.log(len(references))
        self._orders = []
        for n in _ORDERS:
            columns: dict[_Ngram, int] = {}
            counts = _count(words, n, columns)
            images = np.repeat(self._owners, np.diff(counts.indptr))
            _, said_of = np.unique(np.stack([images, counts.indices]), axis=1)
            rarity = self._rarest - np.log(np.bincount(said_of, minlength=len(columns)))
            counts.data *= rarity[counts.indices]
            self._orders.append((columns, rarity, counts, _norms(counts)))

    def score(self, captions: Sequence[str]) -> Float[np.ndarray, " image"]:
        """Scores of one tokenised caption per image, from 0 to 10, in the order of the references."""
        words = [caption.split() for caption in captions]
        similarity = np.zeros(len(self._owners))
        for n, (columns, known_rarity, references, norms) in zip(_ORDERS, self._orders, strict=True):
            seen = columns.copy()  # N-grams of the captions alone go to the right of the references' columns.
            vectors = _count(words, n, seen)
            rarity = np.pad(known_rarity, (0, len(seen) - len(columns)), constant_values=self._rarest)
            vectors.data *= rarity[vectors.indices]
            said = vectors[:, : len(columns)][self._owners]
            overlap = said.minimum(references).multiply(references).sum(axis=1)
            scale = _norms(vectors)[self._owners] * norms
            similarity += np.divide(overlap, scale, out=np.zeros_like(scale), where=scale > 0)
        difference = _bigrams(words)[self._owners] - self._lengths
        similarity *= np.exp(-(difference**2) / (2 * _SIGMA**2)) / len(_ORDERS)
        return 10 * np.bincount(self._owners, similarity) / np.bincount(self._owners)


def _count(captions: Sequence[Sequence[str]], n: int, columns: dict[_Ngram, int]) -> csr_array:
    """Counts of n-grams, (caption, n-gram); new n-grams are appended to `columns`."""
    found = [
        [
            columns.setdefault(ngram, len(columns))
            for ngram in zip(*(words[k:] for k in range(n)), strict=False)
        ]
        for words in captions
    ]
    starts = np.cumsum([0, *map(len, found)])
    indices = np.fromiter((column for row in found for column in row), dtype=np.int64, count=starts[-1])
    counts = csr_array((np.ones(len(indices)), indices, starts), shape=(len(captions), len(columns)))
    counts.sum_duplicates()
    return counts


def _bigrams(captions: Sequence[Sequence[str]]) -> Float[np.ndarray, " caption"]:
    return np.array([max(0, len(words) - 1) for words in captions], dtype=np.float64)


def _norms(vectors: csr_array) -> Float[np.ndarray, " row"]:
    norms: Float[np.ndarray, " row"] = np.sqrt(vectors.multiply(vectors).sum(axis=1))
    return norms
