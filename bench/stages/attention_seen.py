"""Whether attention spreads, and whether it moves: numbers about all captions of one beam size."""

from array import array
from collections.abc import Iterator

import numpy as np

from bench.scoring.variety import Described
from explain.collapse import COLLAPSED_BELOW
from reports.records import CaptionRow
from reports.stats import ratio_interval, share_interval


class AttentionSeen:
    """What captions say of the attention behind them, 32 bytes a caption."""

    def __init__(self) -> None:
        self._is_ours = False
        self._entropies, self._words = array("d"), array("d")
        self._movements, self._coverages = array("d"), array("d")

    def add(self, row: CaptionRow) -> None:
        """Adds a caption."""
        self._is_ours |= row.log_prob_nats is not None
        if row.attention_entropy is not None:
            self._entropies.append(row.attention_entropy)
            self._words.append(len(row.words))
        if row.attention_movement is not None:
            self._movements.append(row.attention_movement)
        if row.attention_coverage is not None:
            self._coverages.append(row.attention_coverage)

    def described(self) -> Iterator[Described]:
        """The numbers, each of the captions that can say it; nothing if no model of ours said them."""
        if not self._is_ours:
            return
        words = np.array(self._words)
        entropy = ratio_interval(np.array(self._entropies) * words, words)
        value = entropy.value if entropy else None
        yield Described("Attention entropy", "share", None, value, entropy, len(words), "no words were said")
        covered = np.array(self._coverages)
        if covered.size:  # the first runs did not store it
            coverage = ratio_interval(covered, np.ones(covered.size))
            value = coverage.value if coverage else None
            yield Described("Attention coverage", "share", None, value, coverage, covered.size)
        still, n = np.array(self._movements) < COLLAPSED_BELOW, len(self._movements)
        share = share_interval(int(still.sum()), n) if n else None
        value = share.value if share else None
        yield Described("Collapsed attention", "share", False, value, share, n, "no caption has two words")
