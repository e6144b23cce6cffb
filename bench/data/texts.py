"""Texts of many pictures in little memory: a string in Python takes fifty bytes more than what it says."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import overload

import numpy as np
from jaxtyping import Int, UInt64

_ENCODING, _HALVES = "utf-8", "surrogatepass"  # a caption may hold half a character


class TextList(Sequence[str]):
    """Texts one after the other, as bytes; each costs what it says and eight bytes more."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._bytes, self._ends = bytearray(), array("Q")
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        """Adds one at the end."""
        self._bytes += text.encode(_ENCODING, _HALVES)
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        """How many there are."""
        return len(self._ends)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[str, ...]: ...
    def __getitem__(self, place: int | slice) -> str | tuple[str, ...]:
        """A text, or those of a slice."""
        if isinstance(place, slice):
            return tuple(self[each] for each in range(*place.indices(len(self))))
        at = range(len(self))[place]
        begin = self._ends[at - 1] if at else 0
        return self._bytes[begin : self._ends[at]].decode(_ENCODING, _HALVES)


class Places:
    """Where names stand among others, in 16 bytes a name.

    Args:
        names: all different; they are asked for again where two could be meant.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        digests = np.fromiter(map(_digest, names), np.uint64, len(names))
        self._order: Int[np.ndarray, " name"] = digests.argsort()
        self._digests: UInt64[np.ndarray, " name"] = digests[self._order]

    def find(self, name: str) -> int | None:
        """The place of a name; None if it is not there."""
        digest = np.uint64(_digest(name))
        first = int(np.searchsorted(self._digests, digest))
        while first < len(self._digests) and self._digests[first] == digest:
            place = int(self._order[first])
            if self._names[place] == name:
                return place
            first += 1
        return None


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(_ENCODING, _HALVES), digest_size=8).digest(), "big")


class TextsByName(Mapping[str, tuple[str, ...]]):
    """Several texts under each name, in the order given; made once and never changed.

    Args:
        items: names, all different, and their texts.
    """

    def __init__(self, items: Iterable[tuple[str, Iterable[str]]]) -> None:
        self._names, self._texts, self._ends = TextList(), TextList(), array("Q")
        for name, texts in items:
            self._names.append(name)
            for text in texts:
                self._texts.append(text)
            self._ends.append(len(self._texts))
        self._places = Places(self._names)

    def __len__(self) -> int:
        """How many names there are."""
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._names)

    def __getitem__(self, name: str) -> tuple[str, ...]:
        """The texts under a name."""
        place = self._places.find(name)
        if place is None:
            raise KeyError(name)
        return self.at(place)

    def place(self, name: str) -> int | None:
        """Where a name stands; None if it is not there."""
        return self._places.find(name)

    def name(self, place: int) -> str:
        """The name at a place."""
        return self._names[place]

    def at(self, place: int) -> tuple[str, ...]:
        """The texts under the name at a place."""
        begin = self._ends[place - 1] if place else 0
        return self._texts[begin : self._ends[place]]
