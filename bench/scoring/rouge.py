"""ROUGE-L with the references' side prepared once."""

from collections.abc import Sequence

_BETA = 1.2


class RougeL:
    """ROUGE-L (Lin 2004) against one image's references, as pycocoevalcap computes it.

    Deviation from the paper, kept: the best precision and the best recall may come from different references.
    An empty text is one empty word, so that it equals another empty text.

    Args:
        references: tokenised; at least one.
    """

    def __init__(self, references: Sequence[str]) -> None:
        self._references = [_Reference(caption.split(" ")) for caption in references]

    def __call__(self, caption: str) -> float:
        """Score of a tokenised caption, 0 to 1."""
        words = caption.split(" ")
        common = [reference.common(words) for reference in self._references]
        precision = max(common) / float(len(words))
        recall = max(
            found / float(reference.length) for found, reference in zip(common, self._references, strict=True)
        )
        if precision == 0 or recall == 0:
            return 0.0
        return ((1 + _BETA**2) * precision * recall) / float(recall + _BETA**2 * precision)


class _Reference:
    """Longest common subsequences with one text, 64 comparisons at a time (Crochemore et al. 2001, Hyyrö 2004)."""

    def __init__(self, words: Sequence[str]) -> None:
        self.length = len(words)
        self._all = (1 << self.length) - 1
        self._places: dict[str, int] = {}
        for place, word in enumerate(words):
            self._places[word] = self._places.get(word, 0) | 1 << place

    def common(self, words: Sequence[str]) -> int:
        """Length of the longest common subsequence."""
        # Bit i is 0 where the subsequence found so far grows if the reference is read to word i.
        row = self._all
        for word in words:
            if places := self._places.get(word):
                met = row & places
                row = ((row + met) | (row - met)) & self._all
        return self.length - row.bit_count()
