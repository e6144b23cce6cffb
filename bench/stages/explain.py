"""Explaining: from captions to attributions.parquet, maps.npz and the pictures that the report shows."""

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Float16
from PIL import Image
from torch import Tensor

from bench.data.base import CaptionedImage, GroundTruth, WordRegion
from bench.data.word_classes import word_class
from bench.progress import track
from explain.agreement import agreement, null_agreement
from explain.localisation import ceiling_localisation, localise, mask_on_grid, null_localisation
from explain.methods import METHODS, ExplainedCaption, WordMaps
from explain.paths import path_shares
from models.captioner import Captioner
from reports.records import CaptionRow, ExplanationInfo, MethodInfo
from reports.store import RunStore, map_key

DONORS = 16
"""Words of the same class in other images whose attention gives the agreement's null."""
BASELINE_IMAGES = 256
"""At most so many images are averaged for the baseline of integrated gradients on the grid."""
NO_PLACES = "this data set does not say where its words are in the pictures"
ORACLES = (
    MethodInfo(
        "oracle", "The word's true place", "control", False, False, "the mask itself, at full resolution"
    ),
    MethodInfo(
        "oracle_grid", "True place, on the grid", "control", False, False, "the mask pooled to the grid"
    ),
)


@dataclass(frozen=True)
class _Place:
    """Where a word is true, and what the measures say of a map that knows nothing and of a perfect one."""

    mask: Bool[np.ndarray, "height width"]
    kind: Literal["unique", "union"]
    marks: dict[str, float]
    """Nulls and ceilings by column name."""


@dataclass(frozen=True)
class _Item:
    """One image with what was said of it, before any method runs."""

    image: CaptionedImage
    row: CaptionRow
    pixels: Float[Tensor, "3 height width"]
    annotations: Float[Tensor, "cells dim"]
    alphas: Float[np.ndarray, "word cells"]
    classes: list[str]
    places: list[_Place | None]
    thumb: bytes
    """What the model sees, as a JPEG."""


def explain(
    captioner: Captioner,
    images: Sequence[CaptionedImage],
    captions: Mapping[str, CaptionRow],
    store: RunStore,
    *,
    ground_truth: GroundTruth | None,
    seed: int,
) -> ExplanationInfo:
    """Explains one caption of each image, word by word, with every method, and measures every map.

    Args:
        captioner: in eval mode.
        images: those to explain, at least one.
        captions: what was said of each, by image id.
        store: the run to write to.
        ground_truth: where the data set knows the places of words.
        seed: of the random control.

    Returns:
        What was done, for run.json.
    """
    items = [_observe(captioner, image, captions[image.image_id], ground_truth) for image in images]
    baseline, described = _annotation_baseline(captioner, items)
    donors = _Donors(items)
    rows: list[dict[str, Any]] = []
    maps: dict[str, Float16[np.ndarray, "word rows cols"]] = {}
    for index, item in enumerate(track(items, total=len(items), label="explaining", unit="images")):
        caption = ExplainedCaption(
            captioner=captioner,
            image=item.pixels,
            annotations=item.annotations,
            token_ids=item.row.token_ids,
            alphas=item.alphas,
            annotation_baseline=baseline,
            seed=_image_seed(item.image.image_id, seed),
            donor_alphas=donors.one_per_word(index),
        )
        nulls = donors.several_per_word(index)
        for name, method in METHODS.items():
            found = method(caption)
            maps[map_key(item.image.image_id, item.row.beam_size, name)] = found.maps.astype(np.float16)
            rows.extend(_word_rows(name, found, item, nulls, caption))
        rows.extend(_oracle_rows(item, captioner.grid))
    store.write_maps(maps)
    store.write_thumbs({item.image.image_id: item.thumb for item in items})
    store.write_attributions(pd.DataFrame(rows))
    methods = [MethodInfo(m.name, m.label, m.kind, m.signed, m.complete, m.source) for m in METHODS.values()]
    return ExplanationInfo(
        beam_size=items[0].row.beam_size,
        images=len(items),
        words=sum(len(item.row.words) for item in items),
        annotation_baseline=described,
        reason=None if ground_truth is not None else NO_PLACES,
        methods=(*methods, *(ORACLES if ground_truth is not None else ())),
    )


@torch.no_grad()
def _observe(
    captioner: Captioner, image: CaptionedImage, row: CaptionRow, ground_truth: GroundTruth | None
) -> _Item:
    """Encodes an image again and looks where its stored caption looked."""
    view = captioner.preprocessing.view(image.picture())
    pixels = captioner.preprocessing(view).to(captioner.device)
    annotations = captioner.encode(pixels.unsqueeze(0))
    token_ids = torch.tensor([row.token_ids], device=captioner.device)
    alphas = captioner.decoder(annotations, token_ids, captioner.vocabulary.start).alphas[0, : len(row.words)]
    if ground_truth is None:
        classes: list[str] = [word_class(word) for word in row.words]
        places: list[_Place | None] = [None] * len(row.words)
    else:
        classes = ground_truth.word_classes(row.words)
        places = [_place(region, captioner.grid) for region in ground_truth.regions(image, row.words)]
    looked = alphas.double().cpu().numpy()
    return _Item(image, row, pixels, annotations[0], looked, classes, places, _thumb(view))


def _place(region: WordRegion | None, grid: tuple[int, int]) -> _Place | None:
    if region is None:
        return None
    mask = region.union if region.unique is None else region.unique
    null, ceiling = null_localisation(mask), ceiling_localisation(mask, grid)
    marks = {f"{name}_null": getattr(null, name)[0] for name in null._fields}
    marks |= {f"{name}_ceiling": getattr(ceiling, name)[0] for name in ceiling._fields}
    return _Place(mask, "union" if region.unique is None else "unique", marks)


@torch.no_grad()
def _annotation_baseline(
    captioner: Captioner, items: Sequence[_Item]
) -> tuple[Float[Tensor, "cells dim"], str]:
    """Where integrated gradients start on the grid: what each cell holds on average, position features included."""
    chosen = items[:BASELINE_IMAGES]
    if len(chosen) >= 2:
        mean = torch.stack([item.annotations for item in chosen]).mean(dim=0)
        return mean, f"mean annotation vector of each cell over {len(chosen)} images"
    size = captioner.preprocessing.size
    blank = captioner.encode(torch.zeros(1, 3, size, size, device=captioner.device))[0]
    return blank, "annotation vectors of a picture of the mean colour"


class _Donors:
    """Attention for words of the same class in other images: what agreement by chance looks like."""

    def __init__(self, items: Sequence[_Item]) -> None:
        self._items = items
        self._by_class: dict[str, list[tuple[int, int]]] = {}
        for index, item in enumerate(items):
            for word, name in enumerate(item.classes):
                self._by_class.setdefault(name, []).append((index, word))

    def several_per_word(self, index: int) -> Float[np.ndarray, "word donor cells"]:
        """For each word, `DONORS` attention maps of other images, evenly spread over all there are; NaN fills up."""
        item = self._items[index]
        maps = np.full((len(item.alphas), DONORS, item.alphas.shape[1]), np.nan)
        for word, name in enumerate(item.classes):
            others = [place for place in self._by_class[name] if place[0] != index]
            spread = others[:: max(1, len(others) // DONORS)][:DONORS]
            for place, (donor, donor_word) in enumerate(spread):
                maps[word, place] = self._items[donor].alphas[donor_word]
        return maps

    def one_per_word(self, index: int) -> Float[np.ndarray, "word cells"]:
        """For each word, the attention of a word of its class in the next image that has one; NaN without one."""
        item = self._items[index]
        maps = np.full(item.alphas.shape, np.nan)
        for word, name in enumerate(item.classes):
            others = [place for place in self._by_class[name] if place[0] != index]
            if others:
                donor, donor_word = next((place for place in others if place[0] > index), others[0])
                maps[word] = self._items[donor].alphas[donor_word]
        return maps


def _word_rows(
    method: str,
    found: WordMaps,
    item: _Item,
    nulls: Float[np.ndarray, "word donor cells"],
    caption: ExplainedCaption,
) -> list[dict[str, Any]]:
    """All that is measured of one method's maps: one row per word."""
    rows = [
        _key(item, word) | {"method": method} | _localise(found.maps[word], item, word)
        for word in range(len(nulls))
    ]
    if method == "attention":
        shares = path_shares(caption)
        for word, row in enumerate(rows):
            row |= {
                "share_now": shares.now[word],
                "share_past": shares.past[word],
                "share_init": shares.init[word],
                "path_sum_error": shares.path_sum_error[word],
            }
        return rows
    flat = found.maps.reshape(len(found.maps), -1)
    agreed, by_chance = agreement(flat, item.alphas), null_agreement(flat, nulls)
    for word, row in enumerate(rows):
        for name in agreed._fields:
            row |= {name: getattr(agreed, name)[word], f"{name}_null": getattr(by_chance, name)[word]}
        if found.completeness_error is not None:
            row |= {"completeness_error": found.completeness_error[word]}
    return rows


def _key(item: _Item, word: int) -> dict[str, Any]:
    return {
        "image_id": item.image.image_id,
        "beam_size": item.row.beam_size,
        "word_index": word,
        "word": item.row.words[word],
        "word_class": item.classes[word],
    }


def _localise(map_: Float[np.ndarray, "rows cols"], item: _Item, word: int) -> dict[str, Any]:
    place = item.places[word]
    if place is None:
        silent = item.classes[word] == "function"
        return {
            "region": None,
            "reason": "a function word has no place" if silent else "no place is known for the word",
        }
    scores = localise(map_[None], place.mask)
    values = {name: getattr(scores, name)[0] for name in scores._fields}
    return {"region": place.kind, "reason": None} | values | place.marks


def _oracle_rows(item: _Item, grid: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """The masks themselves as maps: what the measures say of a perfect answer."""
    for word, place in enumerate(item.places):
        if place is not None:
            for name, map_ in (
                ("oracle", place.mask.astype(np.float64)),
                ("oracle_grid", mask_on_grid(place.mask, grid)),
            ):
                yield _key(item, word) | {"method": name} | _localise(map_, item, word)


def _image_seed(image_id: str, seed: int) -> int:
    return int.from_bytes(
        hashlib.sha256(f"{seed}/{image_id}".encode("utf-8", "surrogatepass")).digest()[:4], "little"
    )


def _thumb(view: Image.Image) -> bytes:
    """What the model sees, as a JPEG without the original's metadata."""
    small = view.copy()
    small.thumbnail((224, 224))
    content = io.BytesIO()
    small.save(content, format="JPEG", quality=88)
    return content.getvalue()
