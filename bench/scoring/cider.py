"""CIDEr-D with everything that depends on the references alone computed once."""

import hashlib
import json
import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Int

from bench.scoring.ngrams import ORDERS, Ngram, Ngrams

_SIGMA = 6.0
_WAITING = 2**19  # n-grams that are counted at a time: 4 MB
_PARTS = 16
_KNOWN = 200_000  # n-grams whose rarity is remembered: those of some hundred images


class Frequencies(NamedTuple):
    """Where CIDEr's document frequencies come from, if not from the images that are scored."""

    name: str
    """For the signature."""
    references: Mapping[str, Sequence[str]]
    """Captions by image id; an n-gram counts once for every image with a caption that holds it."""


class DocumentFrequencies:
    """In how many images each n-gram occurs, in twelve bytes for each n-gram.

    N-grams are told apart by Python's hash of their words, 64 bits of a keyed hash function that is drawn anew in each
    process: of a million different ones two are alike with probability 3e-8, of a hundred million with 3e-4, and then
    the frequency of one n-gram is too high. Which n-grams occur once need not be known in the end: CIDEr gives them the
    weight of those that occur nowhere.
    """

    def __init__(self) -> None:
        self._waiting = array("q")
        self._hashes = [np.empty(0, np.int64) for _ in range(_PARTS)]
        self._numbers = [np.empty(0, np.uint32) for _ in range(_PARTS)]

    def add(self, ngrams: Iterable[Ngram]) -> None:
        """Counts the n-grams of one image, each given once."""
        self._waiting.extend(map(hash, ngrams))
        if len(self._waiting) >= _WAITING:
            self._count()

    def finish(self) -> None:
        """Forgets the n-grams that occur once; nothing more can be added."""
        self._count()
        for part, numbers in enumerate(self._numbers):
            kept = numbers > 1
            self._hashes[part], self._numbers[part] = self._hashes[part][kept], numbers[kept]
        # Parts follow each other by size of the hash, so that together they are sorted.
        self._hashes, self._numbers = [np.concatenate(self._hashes)], [np.concatenate(self._numbers)]

    def of(self, ngrams: Sequence[Ngram]) -> Int[np.ndarray, " ngram"]:
        """In how many images each occurs; 1 where it occurs in one or none."""
        hashes = np.fromiter(map(hash, ngrams), np.int64, len(ngrams))
        if not self._hashes[0].size:
            return np.ones(len(ngrams), np.int64)
        places = np.searchsorted(self._hashes[0], hashes).clip(max=self._hashes[0].size - 1)
        return np.where(self._hashes[0][places] == hashes, self._numbers[0][places], 1).astype(np.int64)

    def _count(self) -> None:
        """Takes in what waits, part by part, so that no second copy of everything is made."""
        hashes, numbers = np.unique(np.frombuffer(self._waiting, np.int64), return_counts=True)
        self._waiting = array("q")
        ends = np.searchsorted(hashes, [2**60 * (part - _PARTS // 2) for part in range(1, _PARTS)])
        pieces = zip(np.split(hashes, ends), np.split(numbers.astype(np.uint32), ends), strict=True)
        for part, (ours, new) in enumerate(pieces):
            both = np.concatenate([self._hashes[part], ours])
            self._hashes[part], places = np.unique(both, return_inverse=True)
            summed = np.zeros(len(self._hashes[part]), np.uint32)
            np.add.at(summed, places, np.concatenate([self._numbers[part], new]))
            self._numbers[part] = summed


class CiderD:
    """CIDEr-D (Vedantam et al. 2015), as pycocoevalcap computes it.

    Deviations of pycocoevalcap from the paper, kept: no stemming, and lengths are counted in bigrams. It weighs
    every reference again for every set of captions.

    Args:
        images: references of each image over which document frequencies are counted. At least two images, or
            every n-gram is in every one and every score is 0. An n-gram that none of them has counts as if one had.

    Attributes:
        images: how many they are.
        sha256: in hexadecimal, of the references that were counted: of the same ones frequencies are the same.
    """

    images: int
    sha256: str

    def __init__(self, images: Iterable[Sequence[Ngrams]]) -> None:
        self.images, self._frequencies = 0, DocumentFrequencies()
        counted = hashlib.sha256()
        for references in images:
            self.images += 1
            counted.update(json.dumps([reference.text for reference in references]).encode())
            self._frequencies.add(set().union(*(reference.counts for reference in references)))
        self._frequencies.finish()
        self.sha256 = counted.hexdigest()
        self._rarest = math.log(self.images)
        self._rarity: dict[Ngram, float] = {}
        self._norms: WeakKeyDictionary[Ngrams, list[float]] = WeakKeyDictionary()

    def score(self, caption: Ngrams, references: Sequence[Ngrams]) -> float:
        """Score of one caption, 0 to 10; it does not depend on what else is scored."""
        self._look_up((caption, *references))
        weighed = []
        for ngram, count in caption.counts.items():
            rarity = self._rarity[ngram]
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
            squares[len(ngram) - 1] += (count * self._rarity[ngram]) ** 2
        return [math.sqrt(square) for square in squares]

    def _look_up(self, texts: Sequence[Ngrams]) -> None:
        """Finds the rarity of every n-gram of these."""
        if len(self._rarity) > _KNOWN:
            self._rarity.clear()
        new = [ngram for text in texts for ngram in text.counts if ngram not in self._rarity]
        if new:
            numbers = self._frequencies.of(new).tolist()
            self._rarity.update(
                (ngram, self._rarest - math.log(number)) for ngram, number in zip(new, numbers, strict=True)
            )
