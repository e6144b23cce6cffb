"""Captions of pictures of one's own, a few pictures at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bench.config import SearchConfig
from bench.data.base import CaptionedImage
from bench.stages.decode import caption_row
from models.beam import Hypothesis, beam_search
from models.captioner import Captioner
from models.errors import PictureError
from reports.records import CaptionRow, Failure

BATCH = 16
"""Pictures that are captioned together: few, so that the first captions come soon."""


class Captioned(NamedTuple):
    """One picture and what was said of it."""

    row: CaptionRow
    alphas: Float[Tensor, "step rows columns"]
    """Where the best caption looked at each step, `<end>` included."""


def caption_pictures(
    captioner: Captioner, pictures: Sequence[Path], search: SearchConfig
) -> Iterator[Captioned | Failure]:
    """Captions pictures; how many are captioned together changes no caption.

    Args:
        captioner: in eval mode.
        pictures: the files.
        search: how captions are searched for, at one beam size.

    Yields:
        What was said of each picture, or why it can't be read, in the order of the pictures.
    """
    (beam_size,) = search.beam_sizes
    for first in range(0, len(pictures), BATCH):
        images = [CaptionedImage(path.name, (), "test", path) for path in pictures[first : first + BATCH]]
        read = [_read(captioner, image) for image in images]
        said = iter(_search(captioner, [found for found in read if isinstance(found, Tensor)], search))
        for image, found in zip(images, read, strict=True):
            if isinstance(found, Failure):
                yield found
            else:
                hypotheses = next(said)
                alphas = hypotheses[0].alphas.double().view(-1, *captioner.grid)
                yield Captioned(caption_row(captioner, image, beam_size, hypotheses), alphas)


def _read(captioner: Captioner, image: CaptionedImage) -> Float[Tensor, "3 height width"] | Failure:
    try:
        return captioner.preprocessing(image.picture())
    except PictureError as error:
        return Failure(image.image_id, str(error))


@torch.no_grad()
def _search(
    captioner: Captioner, pictures: Sequence[Float[Tensor, "3 height width"]], search: SearchConfig
) -> list[list[Hypothesis]]:
    if not pictures:
        return []
    (beam_size,) = search.beam_sizes
    return beam_search(
        captioner,
        captioner.encode(torch.stack(list(pictures)).to(captioner.device)),
        beam_size,
        rules=search.rules,
        n_best=search.n_best,
        max_steps=search.max_steps,
    )
