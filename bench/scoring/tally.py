"""What must be said of a set of captions besides their scores."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd

from bench.scoring.captions import MAX_CHARACTERS
from bench.scoring.meteor import MAX_WORDS


class Measured(NamedTuple):
    """What was found of some captions, one of everything per caption."""

    columns: pd.DataFrame
    """Index image_id; columns as of `Scores.per_image`."""
    captions: Sequence[str]
    """As they were given."""
    words: Sequence[int]
    """Of the longest among the caption and its references."""
    references: Sequence[int]
    """How many there are."""
    failed: dict[str, str]
    """Metrics whose program failed, with the reason."""


@dataclass
class Cut:
    """Texts that are too long to be scored whole."""

    number: int = 0
    first: str = ""
    """Image id."""

    def note(self, image_id: str, text: str) -> None:
        """Counts a text, if it is one of them."""
        if len(text) > MAX_CHARACTERS:
            self.first = self.first if self.number else image_id
            self.number += 1

    def warning(self, what: str) -> list[str]:
        """One sentence, or none."""
        if not self.number:
            return []
        return [
            f"{self.number} {what} cut to {MAX_CHARACTERS:,} characters; the first is of image {self.first!r}"
        ]


@dataclass
class Tally:
    """Of one set of captions, piece by piece."""

    failed: dict[str, str] = field(default_factory=dict)
    """Metrics whose program failed, with the reason."""
    cut: Cut = field(default_factory=Cut)
    fewest: int = 0
    """References of an image."""
    most: int = 0
    _long: int = 0
    _first_long: tuple[str, int] = ("", 0)

    def add(self, measured: Measured, rows: Iterable[int]) -> None:
        """Adds captions.

        Args:
            measured: these, and maybe others.
            rows: which of them belong to this set.
        """
        self.failed |= measured.failed
        image_ids = measured.columns.index
        for row in rows:
            number = measured.references[row]
            self.fewest, self.most = min(self.fewest or number, number), max(self.most, number)
            self.cut.note(image_ids[row], measured.captions[row])
            if measured.words[row] > MAX_WORDS:
                self._first_long = self._first_long if self._long else (image_ids[row], measured.words[row])
                self._long += 1

    @property
    def reasons(self) -> dict[str, str]:
        """By metric that can't be computed."""
        if not self._long:
            return self.failed
        image_id, words = self._first_long
        others = f", and {self._long - 1} more are as long" if self._long > 1 else ""
        reason = (
            f"image {image_id!r} has a caption or reference of {words:,} words{others}; "
            f"METEOR is asked for at most {MAX_WORDS}"
        )
        return {"METEOR": reason} | self.failed
