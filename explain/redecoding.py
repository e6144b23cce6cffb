"""Whether a word disappears when the caption is decoded again without what a map marks.

Here nothing is fixed: with other words before it, a word can go, or come elsewhere in the caption, for reasons that
have nothing to do with its place in the image. The measures of `explain.faithfulness` hold the earlier words.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from explain.hiding import hider
from explain.methods.base import ExplainedCaption
from explain.perturbing import BATCH_FLOATS, distinct_rows, removal_places, replace_cells, top_cells
from models.beam import DecodingRules, beam_search

PATCHES = 28
"""Patches along each side of the picture in the protocol of Sun et al.: of 8 pixels, if it has 224."""
HIDDEN_PATCHES = 20
"""How many of them are hidden: 2.6 % of the picture."""


class Sun2022(NamedTuple):
    """What hiding the most relevant patches does to each word; NaN where a map has a NaN."""

    disappeared: Float[np.ndarray, "method word"]
    """1 if the word is nowhere in the caption that is decoded again, else 0; higher is better."""
    drop: Float[np.ndarray, "method word"]
    """What the word's probability loses, given the earlier words of the old caption; NaN where the word has
    disappeared. Higher is better, -1 to 1."""


@torch.no_grad()
def disappeared(
    caption: ExplainedCaption,
    maps: Float[np.ndarray, "method word cells"],
    words: Sequence[int],
    *,
    beam_size: int,
    rules: DecodingRules,
    max_steps: int | None,
    seed: int,
) -> Float[np.ndarray, "method word"]:
    """Decodes again with the annotation vectors of the top tenth of the cells replaced by the caption's baseline.

    Args:
        caption: the one that the maps explain.
        maps: signed.
        words: the index in the caption of each word that the maps are for.
        beam_size: K, as when the caption was decoded.
        rules: likewise.
        max_steps: likewise; None for the captioner's own.
        seed: of the order of equal values.

    Returns:
        1 if the word is nowhere in the new caption, else 0; NaN where a map has a NaN.
    """
    defined = ~np.isnan(maps).any(axis=2)
    kept = removal_places(maps, words, seed=seed)[defined] >= top_cells(maps.shape[2])
    distinct = distinct_rows(kept)
    said: list[tuple[int, ...]] = []
    for part in _parts(distinct.first, caption.annotations.numel()):
        annotations = replace_cells(caption, kept[part])
        said += _captions(caption, annotations, beam_size, rules, max_steps)
    return _gone(caption, words, [said[row] for row in distinct.row], defined)


@torch.no_grad()
def sun2022(
    caption: ExplainedCaption,
    maps: Float[np.ndarray, "method word cells"],
    words: Sequence[int],
    *,
    beam_size: int,
    rules: DecodingRules,
    max_steps: int | None,
) -> Sun2022:
    """The image ablation of Sun et al. 2022 (Information Fusion 77, arXiv:2001.01037).

    The 20 most relevant of 28 x 28 patches take the mean colour, and the caption is decoded again. Deviations: the
    relevance of a patch is interpolated bilinearly from a map of cells, not summed over a map of pixels; patches of
    equal relevance are ordered at random, from the caption's seed; patches scale with the picture. The paper asks for
    words of objects only; here the caller chooses.

    Args:
        caption: the one that the maps explain.
        maps: signed, on the annotation grid.
        words: the index in the caption of each word that the maps are for.
        beam_size: K, as when the caption was decoded.
        rules: likewise.
        max_steps: likewise; None for the captioner's own.

    Returns:
        Whether each word disappeared, and if not, what its probability lost.
    """
    captioner = caption.captioner
    defined = ~np.isnan(maps).any(axis=2)
    fine = functional.interpolate(
        torch.from_numpy(maps.astype(np.float64)).reshape(*defined.shape, *captioner.grid),
        (PATCHES, PATCHES),
        mode="bilinear",
    )
    places = removal_places(fine.flatten(2).numpy(), words, seed=caption.seed)
    kept = places[defined] >= HIDDEN_PATCHES
    distinct = distinct_rows(kept)
    hide = hider(caption.image, (PATCHES, PATCHES), "grey", seed=caption.seed)
    said: list[tuple[int, ...]] = []
    p = [_probabilities(caption, caption.annotations.unsqueeze(0))]
    for part in _parts(distinct.first, max(caption.image.numel(), caption.annotations.numel())):
        annotations = captioner.encode(hide(kept[part]))
        said += _captions(caption, annotations, beam_size, rules, max_steps)
        p.append(_probabilities(caption, annotations))
    gone = _gone(caption, words, [said[row] for row in distinct.row], defined)
    lost = p[0] - np.concatenate(p)[1:]
    asked = np.broadcast_to(np.array(words, dtype=np.int64), defined.shape)[defined]
    drop = np.full(defined.shape, np.nan)
    drop[defined] = lost[distinct.row, asked]
    return Sun2022(gone, np.where(gone == 0.0, drop, np.nan))


def _parts(rows: Int[np.ndarray, " row"], floats_per_row: int) -> list[Int[np.ndarray, " part"]]:
    at_a_time = max(1, BATCH_FLOATS // floats_per_row)
    return [rows[first : first + at_a_time] for first in range(0, len(rows), at_a_time)]


def _captions(
    caption: ExplainedCaption,
    annotations: Float[Tensor, "row cells dim"],
    beam_size: int,
    rules: DecodingRules,
    max_steps: int | None,
) -> list[tuple[int, ...]]:
    found = beam_search(caption.captioner, annotations, beam_size, rules=rules, max_steps=max_steps)
    return [best.token_ids for best, *_ in found]


def _probabilities(
    caption: ExplainedCaption, annotations: Float[Tensor, "row cells dim"]
) -> Float[np.ndarray, "row word"]:
    """Of the old caption's words, each given those before it."""
    said = torch.tensor(caption.token_ids[: caption.words], device=annotations.device)
    log_probs = caption.captioner.word_log_probs(annotations, said.repeat(len(annotations), 1))
    return np.asarray(log_probs.double().exp().cpu().numpy())


def _gone(
    caption: ExplainedCaption,
    words: Sequence[int],
    said: Sequence[tuple[int, ...]],
    defined: Bool[np.ndarray, "method word"],
) -> Float[np.ndarray, "method word"]:
    """Whether the word of each defined map is missing in what is said without it."""
    tokens = [caption.token_ids[words[place]] for _, place in np.argwhere(defined)]
    gone = np.full(defined.shape, np.nan)
    gone[defined] = [float(token not in new) for token, new in zip(tokens, said, strict=True)]
    return gone
