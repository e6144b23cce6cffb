"""What only the data set can say of captions: columns of scores.parquet that scoring again can't compute but keeps."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from bench.data.base import CaptionData, CaptionedImage, GroundTruth
from models.vocabulary import split_words
from reports.records import CaptionRow

KEPT = ("true_", "said_", "objects_", "copied", "retrieval_")
"""How the names of these columns begin; those of `bench.stages.retrieve` are among them."""


Facts = Callable[[Sequence[CaptionRow]], pd.DataFrame]
"""Given captions, what is known of them: one row for each in their order, always the same columns."""


def NO_FACTS(rows: Sequence[CaptionRow]) -> pd.DataFrame:  # noqa: N802 - a constant of the type `Facts`
    """Nothing is known."""
    return pd.DataFrame(index=range(len(rows)))


class Heard(Collection[str]):
    """Captions that were heard somewhere: whether a text is among them can be asked, and takes eight bytes a caption.

    They are told apart by 64 bits of their BLAKE2 digest. Of a million different captions, one that is not among ten
    million is taken for one that is with probability 5e-7.

    Args:
        captions: one or more.
    """

    def __init__(self, captions: Iterable[str]) -> None:
        self._digests = np.unique(np.fromiter(map(_digest, captions), np.uint64))

    def __contains__(self, caption: object) -> bool:
        """Whether a caption is among them."""
        digest = np.uint64(_digest(str(caption)))
        place = int(np.searchsorted(self._digests, digest))
        return place < len(self._digests) and bool(self._digests[place] == digest)

    def __len__(self) -> int:
        """How many different ones there are."""
        return len(self._digests)

    def __iter__(self) -> Iterator[str]:
        """They are not kept."""
        raise TypeError("captions that were heard can't be listed, only asked for")


def _digest(text: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
    )


def training_captions(data: CaptionData, split: str) -> Collection[str] | None:
    """The words of every training caption, joined by spaces; None where the set has none, or they are evaluated."""
    if split in ("train", "all"):
        return None
    captions = (ref for image in data.images if image.split == "train" for ref in image.references)
    heard = Heard(" ".join(split_words(caption)) for caption in captions)
    return heard if len(heard) else None


def caption_facts(
    captions: Sequence[CaptionRow],
    images: Mapping[str, CaptionedImage],
    *,
    ground_truth: GroundTruth | None,
    training: Collection[str] | None,
) -> pd.DataFrame:
    """Judges captions by what the data set knows.

    Args:
        captions: some.
        images: by id.
        ground_truth: where the data set knows what is true of its pictures.
        training: what `training_captions` returned.

    Returns:
        One row per caption: per word class how many words were said_ and are true_; how many objects_said and
        objects_absent; whether the caption was copied.
    """
    return pd.DataFrame(
        [
            (_truth(row, images[row.image_id], ground_truth) if ground_truth else {})
            | (
                {}
                if training is None
                else {"copied": float(" ".join(split_words(row.caption or "")) in training)}
            )
            for row in captions
        ],
        index=range(len(captions)),
    )


def with_table(facts: Facts, table: pd.DataFrame | None) -> Facts:
    """What is known, and what a table knows besides.

    Args:
        facts: the former.
        table: one row per (image_id, beam_size); of its columns those count whose names begin as `KEPT` says and that
            are not empty. None if there is none.

    Returns:
        Both together.
    """
    if table is None:
        return facts
    table = table.set_index(["image_id", "beam_size"]).sort_index()
    table = table[[c for c in table if str(c).startswith(KEPT)]].dropna(axis=1, how="all")

    def both(rows: Sequence[CaptionRow]) -> pd.DataFrame:
        keys = pd.MultiIndex.from_tuples([(row.image_id, row.beam_size) for row in rows])
        return pd.concat([facts(rows), table.reindex(keys).set_axis(range(len(rows)))], axis=1)

    return both


def _truth(row: CaptionRow, image: CaptionedImage, ground_truth: GroundTruth) -> dict[str, float]:
    facts: dict[str, float] = {}
    for name, truth in ground_truth.truth(image, row.words).items():
        facts |= {f"true_{name}": truth.true, f"said_{name}": truth.said}
    objects = ground_truth.objects(image, row.words)
    return facts | {"objects_said": objects.said, "objects_absent": objects.said - objects.true}
