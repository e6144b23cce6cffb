"""N-grams of captions, and what BLEU counts in them. CIDEr is made of the same n-grams."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain

ORDERS = (1, 2, 3, 4)
Ngram = tuple[str, ...]


class Ngrams:
    """A tokenised caption, taken apart.

    Args:
        caption: words joined by spaces.

    Attributes:
        text: as it was given.
        length: in words.
        counts: how often each n-gram occurs, the shorter ones first.
    """

    text: str
    length: int
    counts: Counter[Ngram]

    def __init__(self, caption: str) -> None:
        words = caption.split()
        self.text = caption
        self.length = len(words)
        self.counts = Counter(
            chain.from_iterable(zip(*(words[k:] for k in range(n)), strict=False) for n in ORDERS)
        )


def bleu_statistics(caption: Ngrams, references: Sequence[Ngrams]) -> list[int]:
    """What BLEU (Papineni et al. 2002) adds up, as pycocoevalcap counts it.

    Args:
        caption: of an image.
        references: of the same image; at least one.

    Returns:
        Numbers in the order of `reports.stats.BLEU_STATISTICS`. Of two references that are equally close in
        length the shorter one counts.
    """
    _, closest = min((abs(reference.length - caption.length), reference.length) for reference in references)
    known = [reference.counts for reference in references]
    matches = [0] * len(ORDERS)
    for ngram, count in caption.counts.items():
        matches[len(ngram) - 1] += min(count, max([counts.get(ngram, 0) for counts in known]))
    return [caption.length, closest, *matches, *(max(0, caption.length - n + 1) for n in ORDERS)]
