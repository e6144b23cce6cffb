"""Long things, a piece at a time."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

_T = TypeVar("_T")


def pieces(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Lists of `size` items; the last one may be shorter. No more than one is in memory."""
    rest = iter(items)
    while piece := list(islice(rest, size)):
        yield piece
