"""What a captioner saw when it said its captions, and what its maps are compared with.

All images are looked at once before any is explained: for the mean annotation vectors, which stand for "nothing there",
and for attention maps of other images. What is kept of them does not grow with their number.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from bench.data.base import CaptionedImage, GroundTruth, WordRegion
from bench.data.word_classes import word_class
from bench.progress import track
from explain.methods.base import ExplainedCaption, Place
from models.captioner import Captioner
from models.errors import PictureError
from reports.records import CaptionRow

DONORS = 16
"""Words of the same class in other images whose attention gives the agreement's null."""
KEPT = 64
"""Words of each class, each of another image, whose attention is kept as a donor's."""
BASELINE_IMAGES = 256
"""At most so many images are averaged for the annotation vectors that stand for "nothing there"."""
FEWEST_BASELINE_IMAGES = 32
"""If fewer are explained, others of the data set are averaged as well, as far as there are any: else what stands for
"nothing there" would be, in a good part, the image itself."""
STORED_EVERY = 1.0
"""Seconds after which it is stored how far the survey has come."""
State = Mapping[str, np.ndarray]
"""How far a survey has come, as arrays."""


@dataclass(frozen=True)
class Observed:
    """One image with what was said of it, before any method runs."""

    image: CaptionedImage
    row: CaptionRow
    pixels: Float[Tensor, "3 height width"]
    annotations: Float[Tensor, "cells dim"]
    alphas: Float[np.ndarray, "word cells"]
    classes: tuple[str, ...]
    regions: tuple[WordRegion | None, ...]
    """At the resolution of what the model sees."""

    @property
    def places(self) -> tuple[Place | None, ...]:
        """Where each word is true, the one thing that it speaks of if there is one."""
        return tuple(
            None if r is None else Place(r.union if r.unique is None else r.unique, r.other, r.distractors)
            for r in self.regions
        )


def observe(
    captioner: Captioner, image: CaptionedImage, row: CaptionRow, ground_truth: GroundTruth | None
) -> Observed:
    """Encodes an image again and looks where its stored caption looked.

    Args:
        captioner: in eval mode.
        image: a picture that can be read.
        row: what was said of it.
        ground_truth: where the data set knows the places of words.

    Returns:
        What the methods and measures need.
    """
    view = captioner.preprocessing.view(image.picture())
    regions: tuple[WordRegion | None, ...] = (None,) * len(row.words)
    if ground_truth is not None:
        found = ground_truth.regions(image, row.words)
        regions = tuple(None if region is None else _seen(captioner, region) for region in found)
    looked = _look(captioner, view, row)
    return Observed(image, row, *looked, _classes(row, ground_truth), regions)


class _Look(NamedTuple):
    pixels: Float[Tensor, "3 height width"]
    annotations: Float[Tensor, "cells dim"]
    alphas: Float[np.ndarray, "word cells"]


@torch.no_grad()
def _look(captioner: Captioner, view: Image.Image, row: CaptionRow) -> _Look:
    pixels = captioner.preprocessing(view).to(captioner.device)
    annotations = captioner.encode(pixels.unsqueeze(0))
    token_ids = torch.tensor([row.token_ids], device=captioner.device)
    alphas = captioner.decoder(annotations, token_ids, captioner.vocabulary.start).alphas[0, : len(row.words)]
    return _Look(pixels, annotations[0], alphas.double().cpu().numpy())


def _classes(row: CaptionRow, ground_truth: GroundTruth | None) -> tuple[str, ...]:
    if ground_truth is None:
        return tuple(word_class(word) for word in row.words)
    return tuple(ground_truth.word_classes(row.words))


def _seen(captioner: Captioner, region: WordRegion) -> WordRegion | None:
    """What the model sees of a region; None if that is nothing."""
    masks = (None if mask is None else captioner.preprocessing.view_mask(mask) for mask in region)
    unique, union, other, distractors = (mask if mask is not None and mask.any() else None for mask in masks)
    if union is None or (region.unique is not None and unique is None):
        return None
    return WordRegion(unique, union, other, distractors)


@dataclass(frozen=True)
class _Kept:
    """Where the model looked for a word that may serve as a donor."""

    lot: bytes
    image_id: str
    alpha: Float[np.ndarray, " cells"]


class Survey:
    """What all images together say, in memory that does not grow with their number."""

    def __init__(self, captioner: Captioner) -> None:
        size = captioner.preprocessing.size
        self.looked_at = 0
        """Images that were looked at, those that can't be read among them."""
        self._blank = torch.zeros(1, 3, size, size, device=captioner.device)
        self._captioner = captioner
        self.images = 0
        self._sum: Float[Tensor, "cells dim"] | None = None
        self._kept: dict[str, dict[str, _Kept]] = {}  # by word class and image id
        self._class_sums: dict[str, Float[np.ndarray, " cells"]] = {}
        self._class_counts: dict[str, int] = {}

    def add(
        self,
        image_id: str,
        classes: Sequence[str],
        annotations: Float[Tensor, "cells dim"],
        alphas: Float[np.ndarray, "word cells"],
    ) -> None:
        """Counts an image in."""
        self.add_to_baseline(annotations)
        for word, (name, alpha) in enumerate(zip(classes, alphas, strict=True)):
            self._class_sums[name] = self._class_sums.get(name, 0.0) + alpha
            self._class_counts[name] = self._class_counts.get(name, 0) + 1
            self._offer(name, _Kept(_lot(image_id, word), image_id, alpha))

    def add_to_baseline(self, annotations: Float[Tensor, "cells dim"]) -> None:
        """Counts an image in of which nothing else is wanted."""
        self.images += 1
        if self.images <= BASELINE_IMAGES:
            self._sum = annotations.double() + (0.0 if self._sum is None else self._sum)

    def _offer(self, name: str, candidate: _Kept) -> None:
        """Keeps the words with the lowest lots, one of an image, so that no order of images matters."""
        kept = self._kept.setdefault(name, {})
        rival = kept.get(candidate.image_id)
        if rival is None or candidate.lot < rival.lot:
            kept[candidate.image_id] = candidate
        if len(kept) > KEPT:
            del kept[max(kept.values(), key=lambda one: one.lot).image_id]

    @property
    def state(self) -> State:
        """All that `Survey.restore` needs, to the last bit."""
        kept = [(name, one) for name, of_class in self._kept.items() for one in of_class.values()]
        names = {
            "classes": [*self._class_sums],
            "counts": [*self._class_counts.values()],
            "kept": [(name, one.image_id) for name, one in kept],
        }
        return {
            "looked_at": np.array([self.looked_at, self.images]),
            "sum": np.empty(0) if self._sum is None else self._sum.cpu().numpy(),
            "names": np.frombuffer(json.dumps(names).encode(), np.uint8),
            "class_sums": np.array([*self._class_sums.values()]),
            "lots": np.frombuffer(b"".join(one.lot for _, one in kept), np.uint8).reshape(len(kept), -1),
            "alphas": np.array([one.alpha for _, one in kept]),
        }

    def restore(self, state: State) -> None:
        """Goes on from where `state` was taken."""
        names = json.loads(state["names"].tobytes())
        self.looked_at, self.images = map(int, state["looked_at"])
        self._sum = torch.from_numpy(state["sum"]).to(self._blank.device) if state["sum"].size else None
        self._class_sums = dict(zip(names["classes"], state["class_sums"], strict=True))
        self._class_counts = dict(zip(names["classes"], names["counts"], strict=True))
        self._kept = {}
        for (name, image_id), lot, alpha in zip(names["kept"], state["lots"], state["alphas"], strict=True):
            self._kept.setdefault(name, {})[image_id] = _Kept(lot.tobytes(), image_id, alpha)

    @torch.no_grad()
    def baseline(self) -> tuple[Float[Tensor, "cells dim"], str]:
        """What each cell holds on average, position features included, and how it is called in a report."""
        if self._sum is None or self.images < 2:
            return self._captioner.encode(self._blank)[
                0
            ], "annotation vectors of a picture of the mean colour"
        counted = min(self.images, BASELINE_IMAGES)
        return (self._sum / counted).float(), f"mean annotation vector of each cell over {counted} images"

    def donors(self, seen: Observed) -> Float[np.ndarray, "word donor cells"]:
        """For each word, `DONORS` attention maps for words of its class in other images; NaN fills up."""
        maps = np.full((len(seen.alphas), DONORS, seen.alphas.shape[1]), np.nan)
        for word in range(len(seen.alphas)):
            for place, alpha in enumerate(self._others(seen, word)[:DONORS]):
                maps[word, place] = alpha
        return maps

    def donor(self, seen: Observed) -> Float[np.ndarray, "word cells"]:
        """For each word, the attention for one word of its class in another image, drawn by lot; NaN without one."""
        return self.donors(seen)[:, 0]

    def class_means(self, seen: Observed) -> Float[np.ndarray, "word cells"]:
        """For each word, the mean attention for words of its class in all other images; NaN without one."""
        means = np.full(seen.alphas.shape, np.nan)
        for name in set(seen.classes):
            own = np.array([each == name for each in seen.classes])
            others = self._class_counts[name] - own.sum()
            if others:
                means[own] = (self._class_sums[name] - seen.alphas[own].sum(axis=0)) / others
        return means

    def _others(self, seen: Observed, word: int) -> list[Float[np.ndarray, " cells"]]:
        """The kept maps of other images, beginning at a place drawn by lot: words don't all get the same donors."""
        kept = sorted(self._kept[seen.classes[word]].values(), key=lambda one: one.lot)
        others = [one.alpha for one in kept if one.image_id != seen.image.image_id]
        first = int.from_bytes(_lot(seen.image.image_id, word)[:4], "little") % max(1, len(others))
        return others[first:] + others[:first]


def survey(
    captioner: Captioner,
    images: Sequence[CaptionedImage],
    captions: Mapping[str, CaptionRow],
    ground_truth: GroundTruth | None,
    *,
    others: Sequence[CaptionedImage] = (),
    earlier: State | None = None,
    store: Callable[[State], None] | None = None,
) -> Survey:
    """Looks at all images once. Those that can't be read are passed over.

    Args:
        captioner: in eval mode.
        images: those to explain.
        captions: what was said of each, by image id.
        ground_truth: for the classes of words.
        others: images of the data set that are not explained; see `FEWEST_BASELINE_IMAGES`.
        earlier: how far a survey of the same images has come that was broken off.
        store: is told now and then how far this one has come, and in the end.

    Returns:
        What the images say together.
    """
    whole = Survey(captioner)
    if earlier:
        whole.restore(earlier)
    rest, begun_at, stored = images[whole.looked_at :], whole.looked_at, time.monotonic()
    looking = track(rest, total=len(rest), label="looking at all images", unit="images")
    for image in chain(looking, others[max(0, whole.looked_at - len(images)) :]):
        is_other = whole.looked_at >= len(images)
        if is_other and whole.images >= FEWEST_BASELINE_IMAGES:
            break
        whole.looked_at += 1
        with suppress(PictureError), torch.no_grad():
            if is_other:
                pixels = captioner.preprocessing(image.picture()).to(captioner.device)
                whole.add_to_baseline(captioner.encode(pixels.unsqueeze(0))[0])
            else:
                row = captions[image.image_id]
                looked = _look(captioner, captioner.preprocessing.view(image.picture()), row)
                whole.add(image.image_id, _classes(row, ground_truth), looked.annotations, looked.alphas)
        if store and time.monotonic() - stored > STORED_EVERY:
            store(whole.state)
            stored = time.monotonic()
    if store and whole.looked_at > begun_at:
        store(whole.state)
    return whole


def explained_caption(
    captioner: Captioner, seen: Observed, whole: Survey, baseline: Float[Tensor, "cells dim"], seed: int
) -> ExplainedCaption:
    """The image and its caption as attribution methods take them."""
    return ExplainedCaption(
        captioner=captioner,
        image=seen.pixels,
        annotations=seen.annotations,
        token_ids=seen.row.token_ids,
        alphas=seen.alphas,
        annotation_baseline=baseline,
        seed=image_seed(seen.image.image_id, seed),
        donor_alphas=whole.donor(seen),
        class_alphas=whole.class_means(seen),
        places=seen.places,
    )


def image_seed(image_id: str, seed: int) -> int:
    """A seed for one image, so that no order of images matters."""
    return int.from_bytes(_lot(image_id, seed)[:4], "little")


def _lot(image_id: str, number: int) -> bytes:
    return hashlib.sha256(f"{number}/{image_id}".encode("utf-8", "surrogatepass")).digest()


def content_words(classes: Sequence[str]) -> list[int]:
    """The words that name something: all but function words."""
    return [word for word, name in enumerate(classes) if name != "function"]
