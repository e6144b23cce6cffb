"""What pages must know of all captions of a run: taken from one row after the other, keeping a few bytes of each."""

from array import array
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from reports.records import CaptionRow
from reports.words import WordCounts

_CANDIDATES = 8


class Common(NamedTuple):
    """The caption that is said most often at one beam size, if it may be said of an eighth of the images."""

    caption: str
    times: int
    captions: int
    """In all."""


class _Size:
    """The captions of one beam size: twelve bytes for each, and the few that come again and again."""

    def __init__(self) -> None:
        self.images, self.digests = array("l"), array("q")
        self._candidates: dict[str, int] = {}

    def add(self, image: int, caption: str) -> None:
        # Misra & Gries 1982: what more than one in nine say is among eight candidates in the end.
        self.images.append(image)
        self.digests.append(hash(caption))
        if caption in self._candidates or len(self._candidates) < _CANDIDATES:
            self._candidates[caption] = self._candidates.get(caption, 0) + 1
        else:
            self._candidates = {text: times - 1 for text, times in self._candidates.items() if times > 1}

    def common(self) -> Common | None:
        """The most frequent caption; of equals the one that came first."""
        digests, first, times = np.unique(np.array(self.digests), return_index=True, return_counts=True)
        most = min(np.flatnonzero(times == times.max()), key=lambda place: first[place])
        told = {hash(text): text for text in self._candidates}
        if (caption := told.get(int(digests[most]))) is None:
            return None
        return Common(caption, int(times[most]), len(self.digests))


class Overview:
    """What there is of captions.

    Args:
        captions: of a run.
        judged: the beam size whose words are counted; None for none.

    Attributes:
        image_ids: all, in the order in which they come first.
        sizes: beam sizes, smallest first, those of failed images included.
        words: of the captions of the beam size that is judged.
    """

    image_ids: list[str]
    sizes: list[int]
    words: WordCounts

    def __init__(self, captions: Iterable[CaptionRow], *, judged: int | None = None) -> None:
        places: dict[str, int] = {}
        self._said: dict[int, _Size] = {}
        sizes = set()
        self.words = WordCounts()
        for row in captions:
            place = places.setdefault(row.image_id, len(places))
            sizes.add(row.beam_size)
            if row.caption is not None:
                self._said.setdefault(row.beam_size, _Size()).add(place, row.caption)
            if row.beam_size == judged:
                self.words.add(row)
        self.image_ids, self.sizes = list(places), sorted(sizes)

    @property
    def common(self) -> Mapping[int, Common]:
        """By beam size the most frequent caption, where it may be said of an eighth of the images."""
        found = {size: said.common() for size, said in self._said.items()}
        return {size: common for size, common in found.items() if common}

    def is_captioned(self) -> bool:
        """Whether there is a caption."""
        return bool(self._said)

    def changed(self, first: int, second: int) -> tuple[int, int]:
        """How many images have captions of two beam sizes that differ, and how many have both."""
        (ours, has_ours), (theirs, has_theirs) = self._digests(first), self._digests(second)
        both = has_ours & has_theirs
        return int((ours != theirs)[both].sum()), int(both.sum())

    def _digests(self, size: int) -> tuple[Int[np.ndarray, " image"], Bool[np.ndarray, " image"]]:
        """Numbers that are equal where captions are, and which images have a caption."""
        digests, has = np.zeros(len(self.image_ids), np.int64), np.zeros(len(self.image_ids), bool)
        if size in self._said:
            images = np.array(self._said[size].images)
            digests[images], has[images] = np.array(self._said[size].digests), True
        return digests, has
