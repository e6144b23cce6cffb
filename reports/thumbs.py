"""Pictures of a run: only what their pixels show goes into a report."""

import io
import warnings

from PIL import Image

_LARGEST = 1024  # pixels a side; a run keeps pictures of 224


def clean_jpeg(content: bytes) -> bytes:
    """Encodes a JPEG anew: without EXIF, comments, or anything that hides behind the picture.

    Args:
        content: a file, of a stranger.

    Returns:
        A JPEG of the same pixels, up to what encoding loses.

    Raises:
        ValueError: if it is no JPEG or larger than a run's pictures are; the message says what it is.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged metadata, which is dropped
        try:
            with Image.open(io.BytesIO(content), formats=["JPEG"]) as opened:
                if max(opened.size) > _LARGEST:
                    raise ValueError(f"a picture of {opened.width} x {opened.height} pixels")
                pixels = opened.convert("RGB")
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError("not a readable JPEG picture") from error
    plain = Image.new("RGB", pixels.size)
    plain.paste(pixels)
    clean = io.BytesIO()
    plain.save(clean, "JPEG", quality=85)
    return clean.getvalue()
