"""Decoding with attention that looks elsewhere: what do captions lose?"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch

from bench.config import SearchConfig
from bench.data.base import CaptionedImage, GroundTruth
from bench.progress import track
from bench.scoring import Scorer
from bench.stages.observe import Observed, observe
from explain.interventions import ADVERSARIAL, INTERVENTIONS, OTHER_OBJECT, intervened
from explain.localisation import mask_on_grid
from models.beam import beam_search
from models.captioner import Captioner
from reports.records import CaptionRow

ADVERSARIAL_IMAGES = 8
"""Images that are decoded against an adversary, which searches anew in every step; all in a thorough run."""


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
    thorough: bool = False,
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
        seed: of what is drawn by lot.
        thorough: whether all images are decoded against an adversary.

    Returns:
        One row per image and intervention that applies to it, "none" among them: image_id, intervention, caption,
        cider (NaN where it can't be computed), words_true (share of the words that can be checked; NaN where there are
        none).
    """
    first = captions[images[0].image_id]
    decode = partial(beam_search, beam_size=first.beam_size, rules=search.rules, max_steps=search.max_steps)
    against = {image.image_id for image in images if thorough} | {
        image.image_id for image in images[:ADVERSARIAL_IMAGES]
    }
    words: defaultdict[str, _Captions] = defaultdict(dict)
    words["none"] = {image.image_id: captions[image.image_id].words for image in images}
    others = {kind: intervened(captioner, kind, seed=seed) for kind in INTERVENTIONS}
    batches = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
    for batch in track(batches, total=len(batches), label="decoding with other attention", unit="batches"):
        seen = [observe(captioner, image, captions[image.image_id], ground_truth) for image in batch]
        annotations = torch.stack([each.annotations for each in seen])
        for kind, other in others.items():
            for each, (best, *_) in zip(seen, decode(other, annotations), strict=True):
                words[kind][each.image.image_id] = tuple(captioner.vocabulary.decode(best.token_ids))
        for each in seen:
            image_id = each.image.image_id
            for kind, other in _misled(captioner, each, seed, adversarially=image_id in against).items():
                ((best, *_),) = decode(other, each.annotations[None])
                words[kind][image_id] = tuple(captioner.vocabulary.decode(best.token_ids))
    by_id = {image.image_id: image for image in images}
    return pd.DataFrame(row for kind in words for row in _scored(kind, words, scorer, by_id, ground_truth))


_Captions = dict[str, tuple[str, ...]]
"""By image id."""


def _misled(captioner: Captioner, seen: Observed, seed: int, *, adversarially: bool) -> dict[str, Captioner]:
    """Captioners for this image alone."""
    misled = {}
    places = [place for place in seen.places if place is not None and place.other is not None]
    if places:
        masks = [mask_on_grid(mask, captioner.grid).ravel() for mask in places[0][:2] if mask is not None]
        things = torch.from_numpy(np.stack(masks)).to(seen.annotations)
        misled[OTHER_OBJECT] = intervened(captioner, OTHER_OBJECT, seed=seed, things=things)
    if adversarially:
        misled[ADVERSARIAL] = intervened(captioner, ADVERSARIAL, seed=seed)
    return misled


def _scored(
    kind: str,
    words: Mapping[str, _Captions],
    scorer: Scorer,
    images: Mapping[str, CaptionedImage],
    ground_truth: GroundTruth | None,
) -> Iterator[dict[str, object]]:
    # All images are scored each time, so that CIDEr's document frequencies are the same for every intervention.
    captions = {image_id: " ".join(each) for image_id, each in (words["none"] | words[kind]).items()}
    cider = scorer.score(captions).per_image["CIDEr"]
    for image_id, each in words[kind].items():
        yield {
            "image_id": image_id,
            "intervention": kind,
            "caption": captions[image_id],
            "cider": float(cider[image_id]),
            "words_true": _true(ground_truth, images[image_id], each),
        }


def _true(ground_truth: GroundTruth | None, image: CaptionedImage, words: Sequence[str]) -> float:
    counts = ground_truth.truth(image, words).values() if ground_truth else ()
    said = sum(count.said for count in counts)
    return sum(count.true for count in counts) / said if said else np.nan
