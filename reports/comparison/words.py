"""Two captions word by word: which words both have, and which came or went."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

MOST_WORDS = 100
"""Words of a caption that are aligned; what follows counts as replaced."""


class Change(NamedTuple):
    """Neighbouring words that were kept, or replaced; either side may be empty if they were."""

    kind: Literal["same", "changed"]
    before: tuple[str, ...]
    after: tuple[str, ...]


def aligned(before: Sequence[str], after: Sequence[str]) -> list[tuple[int, int]]:
    """A longest common subsequence of two captions: pairs of places of the same word, in order.

    Of several the one that keeps words as early as possible in both.
    """
    before, after = before[:MOST_WORDS], after[:MOST_WORDS]
    # lengths[i][j]: the longest common subsequence of before[i:] and after[j:].
    lengths = [[0] * (len(after) + 1) for _ in range(len(before) + 1)]
    for i in range(len(before) - 1, -1, -1):
        row, below = lengths[i], lengths[i + 1]
        for j in range(len(after) - 1, -1, -1):
            row[j] = below[j + 1] + 1 if before[i] == after[j] else max(below[j], row[j + 1])
    pairs, i, j = [], 0, 0
    while i < len(before) and j < len(after):
        if before[i] == after[j]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif lengths[i + 1][j] >= lengths[i][j + 1]:
            i += 1
        else:
            j += 1
    return pairs


def changes(before: Sequence[str], after: Sequence[str]) -> tuple[Change, ...]:
    """How one caption became the other; read in order, the sides give both captions."""
    return tuple(_joined(before, after))


def _joined(before: Sequence[str], after: Sequence[str]) -> Iterator[Change]:
    kept: list[str] = []
    i = j = 0
    for next_i, next_j in [*aligned(before, after), (len(before), len(after))]:
        if next_i > i or next_j > j:
            if kept:
                yield Change("same", tuple(kept), tuple(kept))
                kept = []
            yield Change("changed", tuple(before[i:next_i]), tuple(after[j:next_j]))
        if next_i < len(before):
            kept.append(before[next_i])
        i, j = next_i + 1, next_j + 1
    if kept:
        yield Change("same", tuple(kept), tuple(kept))
