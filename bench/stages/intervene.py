"""Decoding with attention that looks elsewhere: what do captions lose?"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from bench.config import SearchConfig
from bench.data.base import CaptionedImage, GroundTruth
from bench.progress import track
from bench.scoring import Scorer
from explain.interventions import INTERVENTIONS, intervened
from models.beam import beam_search
from models.captioner import Captioner
from reports.records import CaptionRow


@torch.no_grad()
def intervene(
    captioner: Captioner,
    images: Sequence[CaptionedImage],
    captions: Mapping[str, CaptionRow],
    scorer: Scorer,
    *,
    ground_truth: GroundTruth | None,
    search: SearchConfig,
    batch_size: int,
    seed: int,
) -> pd.DataFrame:
    """Decodes images again, with attention that is changed at every step.

    Args:
        captioner: in eval mode.
        images: at least one.
        captions: what was said of each with its own attention, by image id; all of one beam size.
        scorer: of references that hold the images'.
        ground_truth: where the data set knows what is true of its pictures.
        search: how captions are searched for.
        batch_size: images decoded at once.
        seed: of the permutations.

    Returns:
        One row per image and intervention, "none" among them: image_id, intervention, caption, cider (NaN where it
        can't be computed), words_true (share of the words that can be checked; NaN where there are none).
    """
    words = {"none": {image.image_id: captions[image.image_id].words for image in images}}
    words |= {kind: {} for kind in INTERVENTIONS}
    others = {kind: intervened(captioner, kind, seed=seed) for kind in INTERVENTIONS}
    beam_size = captions[images[0].image_id].beam_size
    batches = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
    for batch in track(batches, total=len(batches), label="decoding with other attention", unit="batches"):
        pixels = torch.stack([captioner.preprocessing(image.picture()) for image in batch])
        annotations = captioner.encode(pixels.to(captioner.device))
        for kind, other in others.items():
            found = beam_search(other, annotations, beam_size, rules=search.rules, max_steps=search.max_steps)
            for image, (best, *_) in zip(batch, found, strict=True):
                words[kind][image.image_id] = tuple(captioner.vocabulary.decode(best.token_ids))
    rows = []
    for kind, said in words.items():
        cider = scorer.score({image_id: " ".join(each) for image_id, each in said.items()}).per_image["CIDEr"]
        rows += [
            {
                "image_id": image.image_id,
                "intervention": kind,
                "caption": " ".join(said[image.image_id]),
                "cider": float(cider[image.image_id]),
                "words_true": _true(ground_truth, image, said[image.image_id]),
            }
            for image in images
        ]
    return pd.DataFrame(rows)


def _true(ground_truth: GroundTruth | None, image: CaptionedImage, words: Sequence[str]) -> float:
    counts = ground_truth.truth(image, words).values() if ground_truth else ()
    said = sum(count.said for count in counts)
    return sum(count.true for count in counts) / said if said else np.nan
