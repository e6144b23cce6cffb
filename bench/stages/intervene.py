"""Decoding with attention that looks elsewhere: what do captions lose?"""

from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial

import numpy as np
import pandas as pd
import torch

from bench.batches import AtOnce
from bench.config import SearchConfig
from bench.data.base import CaptionedImage, GroundTruth
from bench.progress import track
from bench.scoring import Scorer
from bench.stages.observe import Observed, observe
from explain.interventions import ADVERSARIAL, INTERVENTIONS, OTHER_OBJECT, intervened
from explain.localisation import mask_on_grid
from models.beam import Hypothesis, beam_search
from models.captioner import Captioner
from models.errors import PictureError
from reports.explained import Parts
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
    parts: Parts | None = None,
) -> pd.DataFrame:
    """Decodes images again, with attention that is changed at every step.

    Args:
        captioner: in eval mode.
        images: at least one; those that can't be read are left out.
        captions: what was said of each with its own attention, by image id; all of one beam size.
        scorer: of references that hold the images'.
        ground_truth: where the data set knows what is true of its pictures.
        search: how captions are searched for.
        batch_size: images decoded at once, fewer where memory is short.
        seed: of what is drawn by lot.
        thorough: whether all images are decoded against an adversary.
        parts: where each batch is stored as soon as it is decoded, and not decoded again if it is there.

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
    others = {kind: intervened(captioner, kind, seed=seed) for kind in INTERVENTIONS}
    at_once = AtOnce(batch_size)
    batches = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
    for number, batch in enumerate(
        track(batches, total=len(batches), label="decoding with other attention", unit="batches")
    ):
        name = f"interventions-{batch_size}-{number:04d}"
        noted = parts.noted(Mapping[str, Mapping[str, tuple[str, ...]]], name) if parts else None  # type: ignore[type-abstract]
        said: dict[str, _Captions] = {
            "none": {},
            **{kind: dict(each) for kind, each in (noted or {}).items()},
        }
        for _ in _decoded(
            captioner, batch, captions, others, decode, ground_truth, seed, against, said, at_once
        ):
            if parts:
                parts.note(name, said)
        for kind, each in said.items():
            words[kind].update(each)
    by_id = {image.image_id: image for image in images}
    return pd.DataFrame(row for kind in words for row in _scored(kind, words, scorer, by_id, ground_truth))


_Captions = dict[str, Sequence[str]]
"""Words, by image id."""


def _decoded(
    captioner: Captioner,
    batch: Sequence[CaptionedImage],
    captions: Mapping[str, CaptionRow],
    others: Mapping[str, Captioner],
    decode: Callable[..., list[list[Hypothesis]]],
    ground_truth: GroundTruth | None,
    seed: int,
    against: Container[str],
    said: dict[str, _Captions],
    at_once: AtOnce,
) -> Iterator[None]:
    """Adds to `said`, by intervention, what is lacking of the images of a batch that can be read; yields as it goes."""
    if all(image.image_id in said["none"] for image in batch):
        return
    look, one = partial(_seen, captioner, captions=captions, ground_truth=ground_truth), AtOnce(1)
    seen = [each for found in one.compute(batch, look) for each in found]
    if not seen:
        return
    for kind, other in others.items():
        if kind not in said:
            found = at_once.compute(seen, partial(_words, other, decode=decode))
            said[kind] = {image_id: words for some in found for image_id, words in some.items()}
            yield
    for each in seen:
        image_id = each.image.image_id
        if image_id in said["none"]:
            continue
        for kind, other in _misled(captioner, each, seed, adversarially=image_id in against).items():
            (found_here,) = one.compute([each], partial(_words, other, decode=decode))
            said.setdefault(kind, {}).update(found_here)
        said["none"][image_id] = each.row.words  # the last of each image
        yield


def _seen(
    captioner: Captioner,
    images: Sequence[CaptionedImage],
    *,
    captions: Mapping[str, CaptionRow],
    ground_truth: GroundTruth | None,
) -> list[Observed]:
    """Images as the captioner sees them, without those that can't be read."""
    seen = []
    for image in images:
        with suppress(PictureError):  # it could be read when it was captioned
            seen.append(observe(captioner, image, captions[image.image_id], ground_truth))
    return seen


def _words(
    captioner: Captioner,
    seen: Sequence[Observed],
    *,
    decode: Callable[..., list[list[Hypothesis]]],
) -> _Captions:
    """The best captions of images."""
    found = decode(captioner, torch.stack([each.annotations for each in seen]))
    return {
        each.image.image_id: captioner.vocabulary.decode(best.token_ids)
        for each, (best, *_) in zip(seen, found, strict=True)
    }


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
