"""What `gazebench doctor` finds out about a data set, and about what figures are drawn with."""

from collections import Counter
from pathlib import Path

from bench.data.base import CaptionData, CaptionedImage
from models.errors import PictureError

LOOKED_AT = 20
"""Pictures of a data set that are decoded; a whole set would take as long as evaluating it."""
SHOWN = "aZ0éß→×−–…“”·█"
"""Characters that strips and figures show besides the words of captions."""


def data_set(source: str, images: Path | None) -> str:
    """What can be read of a data set: its pictures by split, and whether the first ones can be decoded.

    What `load_data` can't use ends in its `DataError`.

    Args:
        source: as `gazebench eval --data` takes it.
        images: folder of the pictures; None to look for it.

    Returns:
        What was found, where nothing is wrong.

    Raises:
        RuntimeError: if none of the pictures that were looked at can be read.
        UserWarning: if pictures are missing or can't be read, or its warnings should be known.
    """
    from bench.data.load import load_data

    data = load_data(source, images=images)
    looked_at = data.images[:LOOKED_AT]
    unreadable = [reason for image in looked_at if (reason := _why_unreadable(image))]
    found = _counts(data)
    if looked_at and len(unreadable) == len(looked_at):
        raise RuntimeError(f"{found}; not one of the first {len(looked_at)} can be read: {unreadable[0]}")
    wrong = [*data.warnings]
    if data.missing:
        wrong.append(f"pictures that are not there: {len(data.missing):,}, such as {data.missing[0]}")
    if unreadable:
        wrong.append(f"of the first {len(looked_at)}, {len(unreadable)} can't be read: {unreadable[0]}")
    if wrong:
        raise UserWarning(f"{found}; {'; '.join(wrong)}")
    return f"{found}; the first {len(looked_at)} open"


def _why_unreadable(image: CaptionedImage) -> str | None:
    try:
        image.picture()
    except PictureError as error:
        return str(error)
    return None


def _counts(data: CaptionData) -> str:
    counts = Counter(image.split for image in data.images)
    splits = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return f"{data.name}: {len(data.images):,} pictures ({splits})"


def fonts() -> str:
    """Whether the font that strips and figures are drawn with is there and has what they show.

    Returns:
        Which it is.

    Raises:
        RuntimeError: if it is missing, or lacks characters.
    """
    from matplotlib.ft2font import FT2Font
    from PIL import ImageFont

    from reports.strip import FONT

    if not FONT.is_file():
        raise RuntimeError(f"{FONT} is missing, which strips and figures are drawn with")
    ImageFont.truetype(FONT, 12)
    lacking = [character for character in SHOWN if ord(character) not in FT2Font(str(FONT)).get_charmap()]
    if lacking:
        raise RuntimeError(f"{FONT} lacks {' '.join(lacking)}, which strips and figures show")
    return f"{FONT.name} has every character that strips and figures need"
