"""What captions are like: how long, how various, and whether they tell images apart.

How many different words, n-grams or captions there are depends on how many captions there are, and images drawn twice
bring nothing new: the bootstrap doesn't fit such counts. Their intervals come from the jackknife, which leaves out each
image once: value ± 1.96 standard errors, where the standard error is too large rather than too small (Efron & Stein
1981, Ann. Statist. 9:586). They say what as many captions of other images of the same kind would have given.
"""

from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.stats import beta, binom

from models.vocabulary import split_words
from reports.stats import LEVEL, Interval, ratio_interval

RECALLS = (1, 5, 10)
"""k of recall@k, as image retrieval is usually reported."""
_WIDTH = 1.959964  # standard errors to each side, of a normal distribution's 95 %


class Described(NamedTuple):
    """One number about a set of captions."""

    name: str
    unit: str
    higher_is_better: bool | None
    """None if the number only describes."""
    value: float | None
    interval: Interval | None
    n: int
    """Images that contributed."""
    reason: str | None = None
    """Why there is no value."""
    chance: float | None = None
    """What guessing would give, where that is known."""
    signature: str | None = None
    """What else decides the number."""


class Said:
    """The words of many captions, one caption per image: four bytes a word, and eight more a caption."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._words, self._ends, self._captions = array("i"), array("q"), array("q")
        self._heard, self._texts = array("d"), array("d")

    def add(self, words: Sequence[str], references: Sequence[str]) -> None:
        """Adds a caption, with the references of its image as text."""
        for word in words:
            self._words.append(self._numbers.setdefault(word, len(self._numbers)))
        self._ends.append(len(self._words))
        # Whole captions are told apart by 64 bits: two of a million are taken for one with probability 3e-8.
        self._captions.append(hash(tuple(words)))
        self._heard.append(sum(len(split_words(each)) for each in references))
        self._texts.append(len(references))

    def __len__(self) -> int:
        """How many captions."""
        return len(self._ends)

    @property
    def lengths(self) -> Float[np.ndarray, " image"]:
        """Words of each caption."""
        return np.diff(np.array(self._ends), prepend=0).astype(np.float64)

    @property
    def heard(self) -> tuple[Float[np.ndarray, " image"], Float[np.ndarray, " image"]]:
        """Words of all references of each image, and how many references these are."""
        return np.array(self._heard), np.array(self._texts)

    def things(self, size: int) -> "Things":
        """Single words, pairs of words, or whole captions (0)."""
        captions = np.arange(len(self))
        if size == 0:
            return Things(np.array(self._captions), captions, len(self))
        words, owners = np.array(self._words, np.int64), np.repeat(captions, self.lengths.astype(np.int64))
        if size == 1:
            return Things(words, owners, len(self))
        within = owners[1:] == owners[:-1]
        return Things((words[:-1] << 32 | words[1:])[within], owners[1:][within], len(self))


class Things(NamedTuple):
    """What was said, and by which caption: numbers that are equal where the same was said."""

    said: Int[np.ndarray, " thing"]
    caption: Int[np.ndarray, " thing"]
    captions: int


def variety(said: Said) -> Iterator[Described]:
    """Lengths and variety of captions.

    Distinct-n is the share of different n-grams among all n-grams (Li et al. 2016, arXiv:1510.03055).

    Args:
        said: the captions.

    Yields:
        The numbers.
    """
    n, nothing_said, lengths = len(said), "no words were said", said.lengths
    yield _described("Mean length", "words", ratio_interval(lengths, np.ones(n)), n, "there are no captions")
    yield _described("Spread of lengths", "words", _spread(lengths), n, "there are fewer than two captions")
    heard = ratio_interval(*said.heard)
    yield _described("Mean reference length", "words", heard, n, "there are no references")
    yield _described("Words used", "words", _different(said.things(1)), n, nothing_said)
    for size, name in ((1, "words"), (2, "word pairs")):
        reason = f"no {name} were said"
        yield _described(f"Distinct-{size}", "share", _different(said.things(size), share=True), n, reason)
    whole = _different(said.things(0), share=True)
    yield _described("Distinct captions", "share", whole, n, "there are no captions")


def retrieval(frame: pd.DataFrame) -> Iterator[Described]:
    """How well captions pick out their images, from the columns of `bench.stages.retrieve`.

    Images as likely as the caption's own stand in an order that nobody knows, so ranks and recalls are expectations
    over all orders. Intervals are over images, among the same candidates.

    Args:
        frame: one row per image; rows with NaN could not be ranked.

    Yields:
        Recall@k and the median rank; nothing if the frame has no such columns.
    """
    if "retrieval_above" not in frame:
        return
    columns = ["retrieval_above", "retrieval_ties", "retrieval_images"]
    above, ties, images = frame[columns].dropna().to_numpy(np.float64).T
    n, reason = len(above), "no caption could be ranked"
    most = images.max(initial=1)
    signature = f"among:{most:.0f}"
    for k in RECALLS:
        found = np.clip(k - above, 0, ties + 1) / (ties + 1)
        described = _described(
            f"Retrieval recall@{k}", "share", _expected_share(found), n, reason, higher_is_better=True
        )
        yield described._replace(chance=min(k / most, 1.0), signature=signature)
    median = _median(above + 1 + ties / 2)
    described = _described("Retrieval median rank", "rank", median, n, reason, higher_is_better=False)
    yield described._replace(chance=(most + 1) / 2, signature=signature)


def _described(
    name: str,
    unit: str,
    interval: Interval | None,
    n: int,
    reason: str,
    *,
    higher_is_better: bool | None = None,
) -> Described:
    if interval is None:
        return Described(name, unit, higher_is_better, None, None, n, reason)
    return Described(name, unit, higher_is_better, interval.value, interval, interval.n)


def _different(things: Things, *, share: bool = False) -> Interval | None:
    """How many different things were said, or their share among all things said."""
    if not things.said.size:
        return None
    order = np.lexsort((things.caption, things.said))
    said, caption = things.said[order], things.caption[order]
    begins = np.flatnonzero(np.append(True, said[1:] != said[:-1]))  # of each different thing
    first, last = caption[begins], caption[np.append(begins[1:], said.size) - 1]
    own = np.bincount(first[first == last], minlength=things.captions).astype(np.float64)
    total = np.bincount(caption, minlength=things.captions).astype(np.float64)
    kept = total > 0
    different, all_said = len(begins), total.sum()
    if not share:
        return _jackknife(different, different - own[kept], most=np.inf)
    others = all_said - total[kept]  # 0 only where a single image is left
    return _jackknife(different / all_said, (different - own[kept]) / np.maximum(others, 1), most=1.0)


def _spread(lengths: Float[np.ndarray, " image"]) -> Interval | None:
    """The standard deviation."""
    n = len(lengths)
    if n < 2:
        return None
    centred = lengths - lengths.mean()
    # Leaving out an image takes it from both sums; the mean of the others lies -centred / (n - 1) from that of all.
    without = ((centred**2).sum() - centred**2) / (n - 1) - (centred / (n - 1)) ** 2
    return _jackknife(lengths.std(), np.sqrt(np.maximum(without, 0)), most=np.inf)


def _jackknife(value: float, without: Float[np.ndarray, " image"], *, most: float) -> Interval:
    """Efron & Tibshirani 1993, eq. 11.5, from the values without each image.

    Args:
        value: of all images; not negative.
        without: the values without each of them.
        most: the largest possible value.

    Returns:
        The interval, within the possible values.
    """
    n = len(without)
    if n < 2:
        return Interval(float(value), None, None, n)
    error = _WIDTH * np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())
    return Interval(float(value), float(max(value - error, 0)), float(min(value + error, most)), n)


def _expected_share(found: Float[np.ndarray, " image"]) -> Interval | None:
    # Clopper & Pearson 1934. Of as many captions as images one is expected to be right by chance, where other
    # intervals hold less than they promise; and expectations need not be whole numbers.
    n, hits = len(found), found.sum()
    if n == 0:
        return None
    tail = (1 - LEVEL) / 2
    low = beta.ppf(tail, hits, n - hits + 1) if hits > 0 else 0.0
    high = beta.ppf(1 - tail, hits + 1, n - hits) if hits < n else 1.0
    return Interval(float(hits / n), float(low), float(high), n)


def _median(ranks: Float[np.ndarray, " image"]) -> Interval | None:
    # Between two order statistics: of n ranks, those below the true median are binomially many, with probability 1/2
    # each (Conover 1999, Practical Nonparametric Statistics, §3.2).
    n, ordered = len(ranks), np.sort(ranks)
    if n == 0:
        return None
    place = int(binom.ppf((1 - LEVEL) / 2, n, 0.5))  # at most this many below: 2.5 %
    if place == 0:  # fewer than six ranks can't say it with such confidence
        return Interval(float(np.median(ordered)), None, None, n)
    return Interval(float(np.median(ordered)), float(ordered[place - 1]), float(ordered[n - place]), n)
