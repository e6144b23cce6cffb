"""CIDEr-D with everything that depends on the references alone computed once."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from bench.scoring.ngrams import ORDERS, Ngram, Ngrams

_SIGMA = 6.0


class Frequencies(NamedTuple):
    """Where CIDEr's document frequencies come from, if not from the images that are scored."""

    name: str
    """For the signature."""
    references: Mapping[str, Sequence[str]]
    """Captions by image id; an n-gram counts once for every image with a caption that holds it."""


class CiderD:
    """CIDEr-D (Vedantam et al. 2015), as pycocoevalcap computes it.

    Deviations of pycocoevalcap from the paper, kept: no stemming, and lengths are counted in bigrams. It weighs
    every reference again for every set of captions.

    Args:
        images: references of each image over which document frequencies are counted. At least two images, or
            every n-gram is in every one and every score is 0. An n-gram that none of them has counts as if one had.

    Attributes:
        images: how many they are.
    """

    images: int

    def __init__(self, images: Iterable[Sequence[Ngrams]]) -> None:
        self.images = 0
        frequencies: Counter[Ngram] = Counter()
        for references in images:
            self.images += 1
            frequencies.update(set().union(*(reference.counts for reference in references)))
        self._rarest = math.log(self.images)
        rarities = [self._rarest - math.log(max(1, number)) for number in range(self.images + 1)]
        self._rarity = {ngram: rarities[number] for ngram, number in frequencies.items()}
        self._norms: dict[Ngrams, list[float]] = {}

    def score(self, caption: Ngrams, references: Sequence[Ngrams]) -> float:
        """Score of one caption, 0 to 10; it does not depend on what else is scored."""
        weighed = []
        for ngram, count in caption.counts.items():
            rarity = self._rarity.get(ngram, self._rarest)
            weighed.append((ngram, len(ngram) - 1, count * rarity, rarity))
        squares = [0.0] * len(ORDERS)
        for _, order, weight, _ in weighed:
            squares[order] += weight**2
        total = 0.0
        for reference in references:
            overlap = [0.0] * len(ORDERS)
            for ngram, order, weight, rarity in weighed:
                if said := reference.counts.get(ngram):
                    overlap[order] += min(weight, said * rarity) * (said * rarity)
            if reference not in self._norms:
                self._norms[reference] = self._norms_of(reference)
            similarity = 0.0
            for common, square, norm in zip(overlap, squares, self._norms[reference], strict=True):
                if common:
                    similarity += common / (math.sqrt(square) * norm)
            difference = max(0, caption.length - 1) - max(0, reference.length - 1)
            total += similarity * math.exp(-(difference**2) / (2 * _SIGMA**2))
        return 10 * total / len(ORDERS) / len(references)

    def _norms_of(self, caption: Ngrams) -> list[float]:
        squares = [0.0] * len(ORDERS)
        for ngram, count in caption.counts.items():
            squares[len(ngram) - 1] += (count * self._rarity.get(ngram, self._rarest)) ** 2
        return [math.sqrt(square) for square in squares]
