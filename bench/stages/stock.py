"""What a run has captions of: found in one pass over them, and kept in a byte or so for each image."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from bench.data.texts import TextsByName
from reports.records import CaptionRow


class Stock(NamedTuple):
    """What a run has captions of. Images go by their places among the references."""

    captioned: Mapping[int, Bool[np.ndarray, " image"]]
    """By beam size, smallest first: which images have a caption."""
    failed: Bool[np.ndarray, " image"]
    """Which images could not be captioned."""
    said: Mapping[int, tuple[int, ...]]
    """Token ids of the first captions at the largest beam size that have any."""
    captions: int
    """Rows in all."""

    @property
    def sizes(self) -> list[int]:
        """Beam sizes."""
        return list(self.captioned)

    @property
    def done(self) -> Bool[np.ndarray, " image"]:
        """Which images have a caption at any beam size and did not fail."""
        found: Bool[np.ndarray, " image"] = np.any([*self.captioned.values()], axis=0) & ~self.failed
        return found

    def places(self, size: int) -> Int[np.ndarray, " image"]:
        """The images that have a caption at a beam size."""
        return np.flatnonzero(self.captioned[size])


def take_stock(captions: Iterable[CaptionRow], references: TextsByName, *, said: int = 0) -> Stock:
    """Reads the captions of a run.

    Args:
        captions: of images that have references.
        references: by image id.
        said: of how many images token ids are wanted, the first of the references.

    Returns:
        What there is.
    """
    captioned: dict[int, Bool[np.ndarray, " image"]] = {}
    failed = np.zeros(len(references), bool)
    tokens: dict[int, dict[int, tuple[int, ...]]] = {}
    rows = 0
    for row in captions:
        rows += 1
        place = references.place(row.image_id)
        assert place is not None, row.image_id
        failed[place] |= row.error is not None
        if row.beam_size not in captioned:
            captioned[row.beam_size] = np.zeros(len(references), bool)
        captioned[row.beam_size][place] |= row.caption is not None
        if row.token_ids and said:
            ours = tokens.setdefault(row.beam_size, {})
            ours[place] = row.token_ids
            if len(ours) > 2 * said:
                tokens[row.beam_size] = _first(ours, said)
    largest = tokens.get(max(captioned, default=0), {})
    return Stock({size: captioned[size] for size in sorted(captioned)}, failed, _first(largest, said), rows)


def _first(tokens: Mapping[int, tuple[int, ...]], number: int) -> dict[int, tuple[int, ...]]:
    return dict(sorted(tokens.items())[:number])
