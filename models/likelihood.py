"""How probable captions are, given images: all captions with all images.

A caption is scored word by word, each word given the words before it (teacher forcing). Captions that begin alike
share that work: all captions together are a tree of prefixes, which is walked level by level, for many images at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.captioner import Captioner
from models.decoder import DecoderConfig, Memory, State

_NUMBERS_AT_A_TIME = {"cpu": 2**26, "cuda": 2**30}
"""Numbers that one step may compute: 256 MB on a CPU, 4 GB on a GPU."""


@dataclass(frozen=True)
class _Level:
    """The prefixes of one length that captions go on from, and the prefixes that are one word longer."""

    # The longer ones, one by one: which prefix of this level they continue, and with which word.
    prefix: Int[Tensor, " longer"]
    word: Int[Tensor, " longer"]
    # Of the longer ones, those that captions go on from (the prefixes of the next level), and whole captions.
    going_on: Int[Tensor, " prefix"]
    ending: Int[Tensor, " caption"]
    caption: Int[Tensor, " caption"]  # which captions these are


@torch.no_grad()
def caption_log_likelihoods(
    captioner: Captioner, annotations: Float[Tensor, "image cells dim"], captions: Sequence[tuple[int, ...]]
) -> Float[Tensor, "caption image"]:
    """Log-likelihoods, log p(caption | image), of every caption given every image.

    Each is the sum of what `Captioner.word_log_probs` says of the caption's tokens. The time goes with the number of
    different prefixes times the number of images; memory beyond the annotation vectors and the result is bounded. A
    prefix is computed once, unless there are so many captions that they don't fit into one tree.

    Args:
        captioner: in eval mode.
        annotations: from `captioner.encode`.
        captions: token ids, `<end>` included where a caption has it; any of them may be equal, or empty.

    Returns:
        Nats, in float64, on the annotations' device; 0 for an empty caption.
    """
    decoder, device = captioner.decoder, annotations.device
    distinct = sorted(set(captions))
    rows = max(1, _NUMBERS_AT_A_TIME.get(device.type, 2**26) // numbers_per_row(decoder.config))
    # A tree has no more prefixes of one length than captions; sorted, the captions of one tree begin alike.
    trees = [_prefix_tree(distinct[i : i + rows], i, device) for i in range(0, len(distinct), rows)]
    widest = max((len(level.going_on) for tree in trees for level in tree), default=0)
    found = annotations.new_zeros(len(distinct), len(annotations), dtype=torch.float64)
    images = rows // max(1, widest)
    for first in range(0, len(annotations), images):
        part = annotations[first : first + images]
        memory, initial = decoder.remember(part), decoder.initial_state(part)
        for tree in trees:
            _walk(captioner, tree, memory, initial, found[:, first : first + images])
    place = {caption: row for row, caption in enumerate(distinct)}
    return found[[place[caption] for caption in captions]]


def _walk(
    captioner: Captioner,
    tree: Sequence[_Level],
    memory: Memory,
    state: State,
    found: Float[Tensor, "caption image"],
) -> None:
    """Writes the log-likelihoods of a tree's captions into their rows of `found`."""
    images = found.shape[1]
    total = found.new_zeros(images, 1)
    read = captioner.decoder.first_words(images, captioner.vocabulary.start)
    for level in tree:
        step = captioner.decoder.step(read, state, memory)
        log_probs = step.log_probs.view(images, -1, step.log_probs.shape[1])  # (I P, V) -> (I, P, V)
        total = total[:, level.prefix] + log_probs[:, level.prefix, level.word]
        found[level.caption] = total[:, level.ending].T
        total, parent = total[:, level.going_on], level.prefix[level.going_on]
        hidden, cell = (part.view(images, -1, part.shape[1])[:, parent].flatten(0, 1) for part in step.state)
        state = State(hidden, cell)
        read = level.word[level.going_on].repeat(images)


def numbers_per_row(config: DecoderConfig) -> int:
    """About how many numbers a step of the decoder holds at once for each row.

    Args:
        config: the decoder's sizes.

    Returns:
        Numbers of 4 bytes, besides what attention mixes, which is bounded.
    """
    c = config
    return 2 * c.vocabulary_size + 4 * c.annotation_dim + 2 * c.embedding_dim + 12 * c.hidden_dim


def _prefix_tree(captions: Sequence[tuple[int, ...]], first: int, device: torch.device) -> list[_Level]:
    """The levels of the tree of different captions, which are numbered from `first`; empty captions are in none."""
    levels: list[_Level] = []
    at = [0] * len(captions)  # the prefix of this level that each caption goes on from
    live = [number for number, caption in enumerate(captions) if caption]
    while live:
        longer: dict[tuple[int, int], int] = {}  # (prefix, word) -> number
        ends: dict[int, int] = {}  # caption -> the longer prefix that it is
        going_on: dict[int, int] = {}  # longer prefix -> its number on the next level
        length = len(levels)
        for number in live:
            caption = captions[number]
            reached = longer.setdefault((at[number], caption[length]), len(longer))
            if len(caption) == length + 1:
                ends[first + number] = reached
            else:
                at[number] = going_on.setdefault(reached, len(going_on))
        prefixes, words = zip(*longer, strict=True)
        numbers = (prefixes, words, going_on, ends.values(), ends)
        levels.append(_Level(*(torch.tensor([*each], dtype=torch.long, device=device) for each in numbers)))
        live = [number for number in live if len(captions[number]) > length + 1]
    return levels
