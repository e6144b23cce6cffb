"""Retrieval: does a caption pick out its image? Every image is ranked by how probable the model finds the caption."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial

import numpy as np
import pandas as pd
import torch

from bench.batches import AtOnce
from bench.data.base import CaptionedImage
from bench.progress import track
from models.captioner import Captioner
from models.errors import PictureError
from models.likelihood import caption_log_likelihoods
from reports.unfinished import Unfinished

TIE_NATS = 1e-4
"""Images whose log-likelihoods differ by less are as likely as each other. In float32, a picture's differ by 1e-5, and
up to 4e-5 for captions it makes very improbable, with the pictures and captions that it is computed among."""


@torch.no_grad()
def retrieve(
    captioner: Captioner,
    images: Sequence[CaptionedImage],
    captions: Mapping[str, tuple[int, ...]],
    *,
    batch_size: int,
    unfinished: Unfinished | None = None,
) -> pd.DataFrame:
    """Ranks the own image of each caption among all images by log p(caption | image).

    Images of which there is no caption are candidates all the same; those that can't be read are not, and their
    captions are left out. An empty caption is as likely of every image, so its rank is that of a guess.

    Args:
        captioner: in eval mode, on the device to compute on.
        images: the candidates.
        captions: token ids by image id, `<end>` included where a caption has it; each of one of `images`.
        batch_size: images encoded at once, fewer where memory is short.
        unfinished: of the run, keeps what was found of each batch; None to keep nothing.

    Returns:
        One row per caption, by image_id, in the order of `images`: `retrieval_above`, how many images the model finds
        more likely than the caption's own; `retrieval_ties`, how many others it finds as likely (see `TIE_NATS`);
        `retrieval_images`, the number of candidates. NaN if a likelihood is not a number.
    """
    assert captions.keys() <= {image.image_id for image in images}
    blocks, at_once = [_no_images(captions)], AtOnce(batch_size)
    batches = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
    for batch in track(batches, total=len(batches), label="retrieving", unit="batches"):
        ids = [image.image_id for image in batch]
        asked = ("retrieve", ids, [*captions.items()])
        block = unfinished.read(*asked) if unfinished else None
        if block is None:
            compute = partial(_log_likelihoods, captioner, captions=[*captions.values()])
            parts = at_once.compute([*enumerate(batch)], compute)
            block = pd.concat([_no_images(captions), *parts], axis=1)
            if unfinished:
                unfinished.write(block, *asked)
        blocks.append(block.set_axis([ids[int(str(place))] for place in block], axis=1))
    return ranks(pd.concat(blocks, axis=1).set_axis([*captions]))


def _no_images(captions: Collection[object]) -> pd.DataFrame:
    return pd.DataFrame(index=range(len(captions)))


def _log_likelihoods(
    captioner: Captioner, images: Sequence[tuple[int, CaptionedImage]], captions: Sequence[tuple[int, ...]]
) -> pd.DataFrame:
    """Rows are captions; columns are images that can be read, named after the numbers that stand with them."""
    pixels = {}
    for place, image in images:
        with suppress(PictureError):
            pixels[str(place)] = captioner.preprocessing(image.picture())
    if not pixels:
        return _no_images(captions)
    annotations = captioner.encode(torch.stack([*pixels.values()]).to(captioner.device))
    found = caption_log_likelihoods(captioner, annotations, captions).cpu().numpy()
    return pd.DataFrame(found, columns=[*pixels])


def ranks(likelihoods: pd.DataFrame) -> pd.DataFrame:
    """Ranks the own image of each caption.

    Args:
        likelihoods: log p(caption | image) in nats; rows are captions, by the id of the own image, columns are images.

    Returns:
        See `retrieve`.
    """
    own_ids = [image_id for image_id in likelihoods.columns if image_id in likelihoods.index]
    nats = likelihoods.loc[own_ids].to_numpy(np.float64)
    own = likelihoods.loc[own_ids, own_ids].to_numpy(np.float64).diagonal()[:, None]
    above = (nats > own + TIE_NATS).sum(axis=1)
    columns = {
        "retrieval_above": above,
        "retrieval_ties": (nats >= own - TIE_NATS).sum(axis=1) - above - 1,
        "retrieval_images": np.full(len(own_ids), nats.shape[1]),
    }
    frame = pd.DataFrame(columns, index=pd.Index(own_ids, name="image_id"), dtype=np.float64)
    frame[np.isnan(nats).any(axis=1)] = np.nan
    return frame
