"""What a training reads again and again is made once: pictures as pixels, or a frozen encoder's maps of them."""

import errno
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from bench.config import digest
from bench.data.base import CaptionedImage
from bench.distributed import World, together
from bench.errors import DataError
from bench.training.cache import BlockCache, Produced
from models.captioner import Captioner
from models.encoder import TrunkEncoder, on_grid
from models.errors import PictureError
from models.preprocessing import Preprocessing

_Produce: TypeAlias = Callable[[Sequence[int]], Produced]

_AT_A_TIME = {"cpu": 8, "cuda": 64}
"""Images that pass through a frozen encoder together; always as many, since rounding depends on it."""
_PASSING = frozenset({errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ETIMEDOUT})
"""Errors of reading that are gone when the disk is back, or less is open."""
_DRAWN_SAMPLE = 8
"""Drawn pictures that are looked at to notice that others are drawn than before."""


def kept_inputs(
    images: Sequence[CaptionedImage],
    captioner: Captioner,
    *,
    frozen: bool,
    cache: Path,
    world: World,
    label: str,
) -> BlockCache:
    """Reads the pictures of a split, each process its share, unless that has been done before.

    Args:
        images: of one split.
        captioner: its preprocessing and, if frozen, its encoder are used.
        frozen: whether to keep the encoder's maps, in float32 and before they are pooled to the grid, or 8-bit pixels.
        cache: folder of all caches.
        world: this process's place; all processes must call, with the same arguments.
        label: says what is being done, for the progress line.

    Returns:
        The filled cache, a row for each image; those that could not be read are its `failed`. A disk without room is a
        `DataError`.
    """
    preprocessing = captioner.preprocessing
    size = preprocessing.size
    key: dict[str, object] = {
        "kind": "pixels",
        "preprocessing": asdict(preprocessing),
        "pictures": fingerprint(images),
        "versions": {"pillow": version("pillow")},
    }
    shape: tuple[int, ...] = (size, size, 3)
    dtype, produce = "uint8", _reader(images, preprocessing)
    if frozen:
        encode = _encoding(captioner)
        first = encode(torch.zeros(1, 3, size, size))
        key |= {
            "kind": "maps",
            "encoder": captioner.encoder_config.name,
            "weights": _weights_sha256(captioner.encoder),
            "device": captioner.device.type,
            "versions": {"pillow": version("pillow"), "torch": torch.__version__},
        }
        shape, dtype = tuple(first.shape[1:]), "float32"
        produce = _encoder_of(produce, encode, preprocessing)
    with together():  # and nobody reads before all have written
        kept = BlockCache(cache, key, len(images), shape, dtype)
        kept.fill(produce, rank=world.rank, size=world.size, label=label)
    return kept


def _reader(images: Sequence[CaptionedImage], preprocessing: Preprocessing) -> _Produce:
    def read(rows: Sequence[int]) -> Produced:
        pixels = np.zeros((len(rows), preprocessing.size, preprocessing.size, 3), dtype=np.uint8)
        failed = {}
        for place, row in enumerate(rows):
            try:
                pixels[place] = np.asarray(preprocessing.view(images[row].picture()))
            except PictureError as error:
                _raise_passing(error)
                failed[row] = str(error)
        return Produced(pixels, failed)

    return read


def _raise_passing(error: PictureError) -> None:
    """Tells a machine in trouble from a bad picture, which would be left out for good."""
    cause = error.__cause__
    if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno in _PASSING):
        raise DataError(
            f"{error}; that need not be the picture's fault, so it is not left out: try the same command again"
        ) from error


def _encoder_of(
    read: _Produce,
    encode: Callable[[Tensor], Tensor],
    preprocessing: Preprocessing,
) -> _Produce:
    def produce(rows: Sequence[int]) -> Produced:
        pixels, failed = read(rows)
        return Produced(encode(normalised(torch.from_numpy(pixels), preprocessing)).numpy(), failed)

    return produce


def _encoding(captioner: Captioner) -> Callable[[Tensor], Tensor]:
    """From preprocessed images to a frozen encoder's maps, a few images at a time."""
    encoder, device = captioner.encoder, captioner.device
    compute: Callable[[Tensor], Tensor] = encoder.trunk_map if isinstance(encoder, TrunkEncoder) else encoder

    @torch.no_grad()
    def encode(images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch rows cols dim"]:
        was_training = encoder.training
        encoder.eval()
        parts = torch.split(images, _AT_A_TIME.get(device.type, 64))
        maps = torch.cat([compute(part.to(device)).float().cpu() for part in parts])
        encoder.train(was_training)
        return maps.permute(0, 2, 3, 1)  # (B, D, h, w) -> (B, h, w, D), the layout that attention reads

    return encode


def pooling(rows: int, columns: int, grid: int) -> Float[Tensor, "cell place"]:
    """What each place of a map weighs in each cell of the grid: multiplying by it does what `on_grid` does.

    It does so in a third of the time, and leaves the vectors in the order that attention reads them in.

    Args:
        rows: of the map.
        columns: of the map.
        grid: rows and columns of the annotation grid.

    Returns:
        Weights; each cell's sum to 1.
    """
    places = torch.eye(rows * columns).view(1, rows * columns, rows, columns)
    return on_grid(places, grid).flatten(2)[0].T.contiguous()


def normalised(
    pixels: UInt8[Tensor, "batch height width 3"], preprocessing: Preprocessing
) -> Float[Tensor, "batch 3 height width"]:
    """What `Preprocessing` makes of pictures that it has cut to size.

    Args:
        pixels: 0 to 255.
        preprocessing: says which means and deviations.

    Returns:
        The encoder's input.
    """
    mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
    return ((pixels.float() / 255.0 - mean) / std).permute(0, 3, 1, 2).contiguous()


def fingerprint(images: Sequence[CaptionedImage]) -> str:
    """A digest that changes with the pictures, without reading all of them.

    Args:
        images: any pictures.

    Returns:
        Hex SHA-256 over their ids, and the sizes and times of their files, or what a sample shows if they are drawn.
    """
    every = max(1, len(images) // _DRAWN_SAMPLE)
    seen: list[object] = []
    for place, image in enumerate(images):
        mark: object = None
        if image.path is None:
            if place % every == 0:
                mark = hashlib.sha256(image.picture().tobytes()).hexdigest()
        else:
            try:
                status = image.path.stat()
                mark = [status.st_size, status.st_mtime_ns]
            except OSError:
                mark = "missing"
        seen.append([image.image_id, mark])
    return digest(seen)


def _weights_sha256(encoder: nn.Module) -> str:
    total = hashlib.sha256()
    for name, tensor in encoder.state_dict().items():
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()
