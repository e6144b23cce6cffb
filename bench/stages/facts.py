"""What only the data set can say of captions: columns of scores.parquet that scoring again can't compute but keeps."""

from collections.abc import Collection, Mapping, Sequence

import pandas as pd

from bench.data.base import CaptionData, CaptionedImage, GroundTruth
from models.vocabulary import split_words
from reports.records import CaptionRow

KEPT = ("true_", "said_", "objects_", "copied", "retrieval_")
"""How the names of these columns begin; those of `bench.stages.retrieve` are among them."""


def training_captions(data: CaptionData, split: str) -> frozenset[str] | None:
    """The words of every training caption, joined by spaces; None where the set has none, or they are evaluated."""
    if split in ("train", "all"):
        return None
    captions = (ref for image in data.images if image.split == "train" for ref in image.references)
    return frozenset(" ".join(split_words(caption)) for caption in captions) or None


def caption_facts(
    captions: Sequence[CaptionRow],
    images: Mapping[str, CaptionedImage],
    *,
    ground_truth: GroundTruth | None,
    training: Collection[str] | None,
) -> pd.DataFrame:
    """Judges captions by what the data set knows.

    Args:
        captions: failed ones are left out.
        images: by id.
        ground_truth: where the data set knows what is true of its pictures.
        training: what `training_captions` returned.

    Returns:
        One row per caption: image_id, beam_size; per word class how many words were said_ and are true_; how many
        objects_said and objects_absent; whether the caption was copied.
    """
    return pd.DataFrame([
        {"image_id": row.image_id, "beam_size": row.beam_size}
        | (_truth(row, images[row.image_id], ground_truth) if ground_truth else {})
        | ({} if training is None else {"copied": float(" ".join(split_words(row.caption)) in training)})
        for row in captions
        if row.caption is not None
    ])  # fmt: skip


def _truth(row: CaptionRow, image: CaptionedImage, ground_truth: GroundTruth) -> dict[str, float]:
    facts: dict[str, float] = {}
    for name, truth in ground_truth.truth(image, row.words).items():
        facts |= {f"true_{name}": truth.true, f"said_{name}": truth.said}
    objects = ground_truth.objects(image, row.words)
    return facts | {"objects_said": objects.said, "objects_absent": objects.said - objects.true}
