"""Taking away part of what a captioner sees, and asking what that does to a word.

A row is one set of cells that stay, and one word; its score is log p(word | earlier words, what stays), in nats. Rows
whose cells are alike are computed once, however many words and methods ask for them.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from explain.hiding import Hide
from explain.methods.base import ExplainedCaption
from explain.ranking import TOP_SHARE
from models.decoder import Memory, State

BATCH_FLOATS = 2**22
"""Numbers in the annotation vectors, or in the pictures, of the rows that are computed together (16 MiB)."""
_TIES_STREAM = 1


class Distinct(NamedTuple):
    """The different ones among sets of cells."""

    first: Int[np.ndarray, " distinct"]
    """Where each of them comes first."""
    row: Int[np.ndarray, " row"]
    """Which of them each row is."""


def distinct_rows(kept: Bool[np.ndarray, "row cells"]) -> Distinct:
    """Finds the rows that are alike."""
    packed = np.packbits(kept, axis=1)
    _, first, row = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    return Distinct(first, row.reshape(-1))


def top_cells(cells: int) -> int:
    """How many cells are the top tenth: rounded, at least one."""
    return max(1, round(TOP_SHARE * cells))


def removal_places(
    maps: Float[np.ndarray, "method word cells"], words: Sequence[int], *, seed: int
) -> Int[np.ndarray, "method word cells"]:
    """At which place each cell stands, from 0, the most relevant.

    Args:
        maps: signed; a NaN stands last.
        words: the index in the caption of each word.
        seed: with a word's index, it decides between equal values, in the same way for all methods.

    Returns:
        Places, 0 to cells - 1.
    """
    cells = maps.shape[2]
    streams = [np.random.Generator(np.random.PCG64([seed, word, _TIES_STREAM])) for word in words]
    ties = np.array([stream.random(cells) for stream in streams]).reshape(len(words), cells)
    order = np.lexsort((np.broadcast_to(ties, maps.shape), -maps), axis=-1)
    return order.argsort(axis=-1)


def replace_cells(
    caption: ExplainedCaption, kept: Bool[np.ndarray, "row cells"]
) -> Float[Tensor, "row cells dim"]:
    """Annotation vectors of which only some stay; the others are those of the caption's baseline."""
    return _both(caption).index_select(0, _picks(kept, caption).flatten()).reshape(*kept.shape, -1)


@torch.no_grad()
def score_kept_cells(
    caption: ExplainedCaption, kept: Bool[np.ndarray, "row cells"], words: Int[np.ndarray, " row"]
) -> Float[np.ndarray, " row"]:
    """Scores words where some cells keep their annotation vectors and the others get those of the baseline.

    The encoder is not run. The state before the first word is made from the replaced vectors, too.

    Args:
        caption: its `annotation_baseline` replaces cells.
        kept: the cells of each row that stay.
        words: the index in the caption of the word that each row asks for.

    Returns:
        Log-probabilities in nats, in float64.
    """
    decoder, both = caption.captioner.decoder, _both(caption)
    projected = decoder.remember(both.unsqueeze(0)).projected.squeeze(0)

    def see(kept: Bool[np.ndarray, "row cells"]) -> _Sight:
        stays = torch.from_numpy(kept).to(both.device)
        # Attention needs the projected vectors row by row. For all else, rows choose from the same few vectors, so
        # that one matrix product gives all contexts and no row has annotation vectors of its own.
        chosen = torch.cat([stays, ~stays], dim=1).to(both.dtype)  # (R, 2 L)
        by_row = projected.index_select(0, _picks(kept, caption).flatten()).reshape(*kept.shape, -1)
        mean = chosen @ both / kept.shape[1]
        return _Sight(Memory(both.unsqueeze(0), by_row), decoder.initial_state(mean.unsqueeze(1)), chosen)

    return _score(caption, kept, words, see, floats_per_row=projected.numel() // 2)


@torch.no_grad()
def score_kept_pixels(
    caption: ExplainedCaption,
    hide: Hide,
    kept: Bool[np.ndarray, "row cells"],
    words: Int[np.ndarray, " row"],
) -> Float[np.ndarray, " row"]:
    """Scores words where only the pixels of some cells can be seen. Every different picture is encoded once.

    Args:
        caption: the one whose words are asked for.
        hide: from `explain.hiding.hider`, of the caption's picture.
        kept: the cells of each row that stay.
        words: the index in the caption of the word that each row asks for.

    Returns:
        Log-probabilities in nats, in float64.
    """
    captioner = caption.captioner

    def see(kept: Bool[np.ndarray, "row cells"]) -> _Sight:
        annotations = captioner.encode(hide(kept))
        return _Sight(
            captioner.decoder.remember(annotations), captioner.decoder.initial_state(annotations), None
        )

    floats = max(caption.image.numel(), caption.annotations.numel())
    return _score(caption, kept, words, see, floats_per_row=floats)


class _Sight(NamedTuple):
    """What rows see."""

    memory: Memory
    """Its annotation vectors are those of each row, or, if `chosen` is there, what all rows choose from."""
    state: State
    chosen: Float[Tensor, "row choices"] | None
    """1 for vectors that a row has, else 0; twice as many choices as cells."""


def _score(
    caption: ExplainedCaption,
    kept: Bool[np.ndarray, "row cells"],
    words: Int[np.ndarray, " row"],
    see: Callable[[Bool[np.ndarray, "row cells"]], _Sight],
    *,
    floats_per_row: int,
) -> Float[np.ndarray, " row"]:
    distinct = distinct_rows(kept)
    last = np.zeros(len(distinct.first), dtype=np.int64)
    np.maximum.at(last, distinct.row, words)
    # Longest prefix first: the rows that go on are always the leading ones.
    order = np.argsort(-last, kind="stable")
    place = np.argsort(order)[distinct.row]
    scores = np.empty(len(kept))
    at_a_time = max(1, BATCH_FLOATS // floats_per_row)
    for first in range(0, len(order), at_a_time):
        part = order[first : first + at_a_time]
        log_probs = _walk(caption, see(kept[distinct.first[part]]), last[part])
        asking = (place >= first) & (place < first + at_a_time)
        scores[asking] = log_probs[words[asking], place[asking] - first]
    return scores


def _walk(
    caption: ExplainedCaption, sight: _Sight, last: Int[np.ndarray, " row"]
) -> Float[np.ndarray, "word row"]:
    """Log-probabilities of the caption's words, up to the last one that each row asks for; `last` never rises."""
    decoder, (memory, state, chosen) = caption.captioner.decoder, sight
    read = decoder.first_words(len(last), caption.captioner.vocabulary.start)
    log_probs = memory.projected.new_full((int(last[0]) + 1, len(last)), torch.nan)
    for t, word in enumerate(caption.token_ids[: len(log_probs)]):
        rows = int((last >= t).sum())
        state = State(*(part[:rows] for part in state))
        if chosen is None:
            memory, alpha = Memory(*(part[:rows] for part in memory)), None
        else:
            memory = memory._replace(projected=memory.projected[:rows])
            alpha = decoder.attend(state, memory).repeat(1, 2) * chosen[:rows]
        step = decoder.step(None if read is None else read[:rows], state, memory, alpha=alpha)
        log_probs[t, :rows] = step.log_probs[:, word]
        state, read = step.state, torch.full((rows,), word, device=log_probs.device)
    return log_probs.double().cpu().numpy()


def _both(caption: ExplainedCaption) -> Float[Tensor, "choices dim"]:
    """The caption's annotation vectors, and behind them those of the baseline."""
    return torch.cat([caption.annotations.detach(), caption.annotation_baseline])


def _picks(kept: Bool[np.ndarray, "row cells"], caption: ExplainedCaption) -> Int[Tensor, "row cells"]:
    """Which of `_both` each cell of each row has."""
    cells = kept.shape[1]
    return torch.from_numpy(np.where(kept, 0, cells) + np.arange(cells)).to(caption.annotations.device)
