"""One split as a training reads it: captions as token ids in memory, pictures or a frozen encoder's maps on disk."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bench.data.base import CaptionedImage
from bench.distributed import World
from bench.errors import DataError
from bench.progress import say
from bench.training.cache import BlockCache
from bench.training.kept import kept_inputs, normalised, pooling
from bench.training.recipe import Stage
from models.captioner import Captioner
from models.preprocessing import Preprocessing
from models.vocabulary import Vocabulary, split_words
from reports.records import Failure

TokenIds: TypeAlias = tuple[int, ...]

_SIDED = re.compile("(left|right)")


@dataclass(frozen=True)
class Examples:
    """A split without what can't be used; where its pictures lie is nobody's business."""

    ids: tuple[str, ...]
    """Image ids, in the data set's order."""
    captions: tuple[tuple[TokenIds, ...], ...]
    """Of each image: its captions, at least one, each with `<end>`."""
    references: tuple[tuple[str, ...], ...]
    """Of each image: its captions, verbatim."""
    failures: tuple[Failure, ...]
    """Images that were left out, and why."""
    frozen: bool
    """Whether maps of a frozen encoder are kept, instead of pictures."""
    _kept: BlockCache
    _rows: tuple[int, ...]
    _preprocessing: Preprocessing
    _grid: int
    _sided: frozenset[int]

    def __len__(self) -> int:
        return len(self.ids)

    def draw_captions(
        self, indices: Sequence[int], *, per_image: int, draw: torch.Generator
    ) -> list[list[TokenIds]]:
        """Chooses captions at random: none twice, unless an image has fewer than are asked for.

        Args:
            indices: of images.
            per_image: how many of each.
            draw: decides.

        Returns:
            As many captions for each image.
        """
        chosen = []
        for index in indices:
            captions = self.captions[index]
            order: list[int] = []
            while len(order) < per_image:
                order += torch.randperm(len(captions), generator=draw).tolist()
            chosen.append([captions[i] for i in order[:per_image]])
        return chosen

    def inputs(
        self,
        indices: Sequence[int],
        *,
        stage: Stage | None = None,
        draw: torch.Generator | None = None,
        captions: Sequence[Sequence[TokenIds]] = (),
    ) -> Tensor:
        """What a model is fed, on the CPU.

        Args:
            indices: of images, in any order.
            stage: how pictures are shifted and mirrored; None for not at all.
            draw: decides how far, and which.
            captions: of each image, those that are trained on; a picture is not mirrored where one speaks of sides.

        Returns:
            Preprocessed images (batch, 3, height, width), or a frozen encoder's vectors (batch, cells, dim).
        """
        kept = torch.from_numpy(self._kept.rows([self._rows[index] for index in indices]))
        if self.frozen:
            rows, columns = kept.shape[1:3]
            places = kept.flatten(1, 2)  # (B, h, w, D) -> (B, h w, D)
            return places if rows == columns == self._grid else pooling(rows, columns, self._grid) @ places
        images = normalised(kept, self._preprocessing)
        if stage is None or draw is None:
            return images
        if stage.shift:
            images = _shifted(images, stage.shift, draw)
        if stage.flip:
            fixed = [any(self._sided.intersection(ids) for ids in chosen) for chosen in captions]
            images = _mirrored(images, fixed, draw)
        return images

    def annotations(self, indices: Sequence[int], captioner: Captioner) -> Float[Tensor, "batch cells dim"]:
        """Annotation vectors as captioning sees them: nothing shifted or mirrored.

        Args:
            indices: of images.
            captioner: in eval mode; says where they are needed, and computes them unless they are kept.

        Returns:
            On the captioner's device.
        """
        inputs = self.inputs(indices).to(captioner.device)
        return inputs if self.frozen else captioner.encode(inputs)


def read_examples(
    images: Sequence[CaptionedImage],
    captioner: Captioner,
    *,
    frozen: bool,
    cache: Path,
    max_words: int | None = None,
    world: World,
    label: str,
) -> Examples:
    """Reads the pictures of a split once, each process its share, and remembers on disk what is made of them.

    Args:
        images: of one split.
        captioner: its words, its preprocessing and, if frozen, its encoder are used.
        frozen: whether to keep the encoder's maps instead of the pictures; in float32, before they are pooled to the
            grid.
        cache: folder of all caches.
        max_words: longer captions are left out; None for any length.
        world: this process's place; all processes must call, with the same arguments.
        label: says what is being done, for the progress line.

    Returns:
        The examples, the same in every process.

    Raises:
        DataError: if nothing can be used, or the disk has no room.
    """
    captions = {
        image.image_id: token_ids(image.references, captioner.vocabulary, max_words) for image in images
    }
    told = [image for image in images if captions[image.image_id]]
    reason = "no caption holds a word" if max_words is None else f"no caption holds 1 to {max_words} words"
    silent = [Failure(image.image_id, reason) for image in images if not captions[image.image_id]]
    kept = kept_inputs(told, captioner, frozen=frozen, cache=cache, world=world, label=label)
    unread = kept.failed()
    failures = (*silent, *(Failure(told[row].image_id, reason) for row, reason in unread.items()))
    if world.is_first:
        for failure in failures:
            say(f"left out: {failure.image_id}: {failure.reason}")
    rows = tuple(row for row in range(len(told)) if row not in unread)
    if not rows:
        raise DataError(
            f"{label}: none with a caption could be read, so there is nothing to train on, or to judge by; check the "
            "data set"
        )
    words = captioner.vocabulary.words
    return Examples(
        ids=tuple(told[row].image_id for row in rows),
        captions=tuple(captions[told[row].image_id] for row in rows),
        references=tuple(told[row].references for row in rows),
        failures=failures,
        frozen=frozen,
        _kept=kept,
        _rows=rows,
        _preprocessing=captioner.preprocessing,
        _grid=captioner.encoder_config.grid,
        _sided=frozenset(token_id for token_id, word in enumerate(words) if _SIDED.match(word)),
    )


def token_ids(
    references: Sequence[str], vocabulary: Vocabulary, max_words: int | None
) -> tuple[TokenIds, ...]:
    """Captions as token ids, each with `<end>`; those without a word are left out.

    Args:
        references: captions, verbatim.
        vocabulary: the model's words.
        max_words: longer captions are left out, too: cut, they would teach to end in the middle; None for any length.

    Returns:
        One tuple for each caption that holds a word.
    """
    most = math.inf if max_words is None else max_words
    said = map(split_words, references)
    return tuple((*vocabulary.encode(words), vocabulary.end) for words in said if 0 < len(words) <= most)


def _shifted(
    images: Float[Tensor, "batch 3 height width"], share: float, draw: torch.Generator
) -> Float[Tensor, "batch 3 height width"]:
    """Moves each image by up to `share` of its size; the border is repeated."""
    reach = round(share * images.shape[2])
    padded = nn.functional.pad(images, (reach, reach, reach, reach), mode="replicate")
    moves = torch.randint(2 * reach + 1, (len(images), 2), generator=draw).tolist()
    size = images.shape[2]
    return torch.stack([p[:, y : y + size, x : x + size] for p, (y, x) in zip(padded, moves, strict=True)])


def _mirrored(
    images: Float[Tensor, "batch 3 height width"], fixed: Sequence[bool], draw: torch.Generator
) -> Float[Tensor, "batch 3 height width"]:
    """Mirrors each image with probability 1/2, except those that are fixed."""
    tossed = torch.rand(len(images), generator=draw) < 0.5
    turned = tossed & ~torch.tensor(list(fixed))
    return torch.where(turned[:, None, None, None], images.flip(3), images)
