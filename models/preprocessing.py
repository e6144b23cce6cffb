"""From a picture file to the encoder's input, safely, and back to something a person can look at."""

import io
import stat
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base
from torch import Tensor

from models.errors import PictureError

MAX_PIXELS = 89_478_485
"""Largest picture that is decoded, in pixels: Pillow's own limit, 256 MiB of RGB."""
MAX_FILE_BYTES = 256 * 1024 * 1024
"""Largest picture file that is opened."""
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
"""Kinds of picture files that are read; anything else is refused before a decoder sees it."""

MAX_SCANNED_PIXELS = 2**31
"""Most pixels in all scans of a JPEG, three seconds' work: a small file can hold thousands of scans."""

# What Pillow raises on damaged data; warnings, too, in programs that make them errors.
_DAMAGED = (
    OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, ArithmeticError, RuntimeError,
    MemoryError, struct.error, zlib.error, Warning,
)  # fmt: skip
# EXIF 2.3, tag 274: what has to be done to see the picture upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the encoder's input. Travels with the checkpoint."""

    size: int = 224
    """Height and width of the encoder's input, in pixels."""
    fit: Literal["squash", "crop"] = "squash"
    """Resize both sides to `size`, or the shorter one and crop the centre."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Channel means that are subtracted, of values in [0, 1]."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Channel standard deviations that are divided by."""

    def view(self, picture: Image.Image) -> Image.Image:
        """What the model sees of the picture, `size` x `size` pixels, RGB (bilinear, antialiased)."""
        box = None
        if self.fit == "crop":
            side = min(picture.size)
            left, top = (picture.width - side) / 2, (picture.height - side) / 2
            box = (left, top, left + side, top + side)
        if picture.size == (self.size, self.size):
            return picture
        return picture.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)

    def view_mask(self, mask: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "size size"]:
        """What `view` shows of a mask: each pixel has the value of the mask's pixel that its centre falls on.

        Args:
            mask: as large as the picture that `view` is given.

        Returns:
            A mask of what the model sees. It can be empty: a thing may be too small to be seen, or cropped away.
        """
        sides = [min(mask.shape)] * 2 if self.fit == "crop" else list(mask.shape)
        # Centre i lies at (n - side) / 2 + (i + 1/2) side / size; in whole numbers, so that no rounding moves it.
        rows, columns = (
            ((n - side) * self.size + (2 * np.arange(self.size) + 1) * side) // (2 * self.size)
            for n, side in zip(mask.shape, sides, strict=True)
        )
        return mask[np.ix_(rows, columns)]

    def __call__(self, picture: Image.Image) -> Float[Tensor, "3 height width"]:
        """The encoder's input: `view` in [0, 1], less the channel means, divided by the deviations."""
        pixels = torch.from_numpy(np.asarray(self.view(picture), dtype=np.float32) / 255.0)
        normalised = (pixels - torch.tensor(self.mean)) / torch.tensor(self.std)
        return normalised.permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)


def read_picture(path: Path) -> Image.Image:
    """Reads a picture file as upright RGB.

    Animations give their first frame, transparency is laid on white, 16-bit greys are scaled (not clipped) to
    8 bits, EXIF rotation is applied; colour profiles and other metadata are ignored. Truncated files are
    refused: a half-grey picture would be scored in silence.

    Args:
        path: a file of a kind in `FORMATS`, whatever its name.

    Returns:
        An RGB picture.

    Raises:
        PictureError: if the file is missing, empty, damaged, of another kind, or too large.
    """
    name = repr(path.name)
    try:
        status = path.stat()
        is_file = stat.S_ISREG(status.st_mode)
        data = path.read_bytes() if is_file and status.st_size <= MAX_FILE_BYTES else b""
    except (OSError, ValueError) as error:
        raise PictureError(f"{name} can't be opened: {getattr(error, 'strerror', None) or error}") from error
    if not is_file:
        raise PictureError(f"{name} is not a file; expected a picture ({', '.join(FORMATS)})")
    if not data:
        raise PictureError(f"{name} has {status.st_size:,} bytes; expected 1 to {MAX_FILE_BYTES:,}")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            _check_size(picture, data)
            picture.load()
            return _upright(picture, _as_rgb(picture))
    except UnidentifiedImageError as error:
        raise PictureError(f"{name} is not a picture of a known kind ({', '.join(FORMATS)})") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(f"{name} is too large: {error}") from error
    except _DAMAGED as error:
        raise PictureError(f"{name} can't be read as a picture: {error or type(error).__name__}") from error


def _check_size(picture: Image.Image, data: bytes) -> None:
    pixels = picture.width * picture.height
    if pixels == 0:
        raise ValueError("it has no pixels")
    if pixels > MAX_PIXELS:
        raise Image.DecompressionBombError(f"{pixels:,} pixels, expected up to {MAX_PIXELS:,}; scale it down")
    scans = data.count(b"\xff\xda") if data.startswith(b"\xff\xd8") else 1
    if pixels * scans > MAX_SCANNED_PIXELS:
        raise Image.DecompressionBombError(f"{pixels:,} pixels in {scans:,} scans; save it again in one")


def _as_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16-bit grey, which convert("RGB") would clip to white
        grey = np.asarray(picture).astype(np.uint32)
        scaled = ((grey + 128) // 257).astype(np.uint8)  # 65535 = 255 x 257
        scaled[grey == picture.info.get("transparency", -1)] = 255
        return Image.fromarray(scaled).convert("RGB")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        white = Image.new("RGB", layer.size, "white")
        white.paste(layer, mask=layer)
        return white
    return picture.convert("RGB")


def _upright(picture: Image.Image, rgb: Image.Image) -> Image.Image:
    """`rgb`, turned as the metadata of `picture` asks for; left as it is where they can't be read."""
    try:
        turn = _TURNS.get(picture.getexif().get(Base.Orientation, 1))
    except _DAMAGED:
        turn = None
    return rgb if turn is None else rgb.transpose(turn)
