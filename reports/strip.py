"""One caption word by word as a picture for papers and slides. Equal input gives equal bytes."""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from reports.maps import Map
from reports.overlay import STEPS, colours, quantised
from reports.wording import clip, printable

DOTS_PER_INCH = 200
"""For print, at the size that it is drawn in."""
WORDS_A_LINE = 8
"""Longer captions are drawn in several lines of tiles, about equally long."""
LONGEST_CAPTION, LONGEST_WORD = 400, 60
"""Characters; what is longer is cut and says so."""

# Everything below is in pixels, but text sizes are in points.
_TILE, _GAP, _MARGIN, _LABELS, _NARROWEST = 200, 12, 48, 216, 1400
_TITLE, _WORD, _SMALL, _SMALLEST = 15.0, 10.0, 8.0, 7.0
_INK, _SOFT = "#1c1d21", "#5b5e66"
FONT = Path(mpl.get_data_path(), "fonts/ttf/DejaVuSans.ttf")
"""What strips are drawn with; it comes with matplotlib, wherever that is."""


def draw_strip(
    caption: str,
    picture: bytes,
    words: Sequence[tuple[str, str]],
    maps: Mapping[str, Map],
    *,
    notes: Sequence[str] = (),
) -> bytes:
    """Draws a caption, its picture, and where the evidence for each word lies.

    The picture comes first, then one column per word and one row per kind of map. Each map is scaled to its own
    largest value and smoothed between its cells; a legend says what the colours mean.

    Args:
        caption: the title.
        picture: what the model saw, a picture file.
        words: each with its probability in words, or "".
        maps: what a row is called -> one map per word; tiles of words without a map are left out.
        notes: sentences to stand below.

    Returns:
        A PNG file without metadata, `DOTS_PER_INCH`, on white.
    """
    lines = _divided(len(words))
    side = max(len(maps), 2) * (_TILE + _GAP) - _GAP  # the picture is as high as its tiles
    left = _MARGIN + side + 2 * _GAP + _LABELS
    longest = max((len(line) for line in lines), default=0)
    sheet = _Sheet(max(left + longest * (_TILE + _GAP) - _GAP + _MARGIN, _NARROWEST))
    sheet.write(clip(printable(caption), LONGEST_CAPTION), _TITLE, _INK)
    sheet.top += 2 * _GAP
    with Image.open(io.BytesIO(picture)) as opened:
        seen = opened.convert("RGB")
    grey = _greyed(seen)
    headings = [_heading(word, probability) for word, probability in words]
    begun = sheet.top + (_ground(headings, lines[0]) if lines else 0)
    sheet.paste(seen.resize((side, side), Image.Resampling.LANCZOS), _MARGIN, begun)
    for columns in lines:
        sheet.top += _ground(headings, columns)
        _draw_words(sheet, headings, columns, left)
        _draw_maps(sheet, grey, maps, columns, left)
    sheet.top = max(sheet.top, begun + side) + 2 * _GAP
    _draw_legend(sheet, maps)
    sheet.top += _GAP
    for note in notes:
        sheet.write(clip(printable(note)), _SMALL, _SOFT)
    return sheet.png()


class _Text(NamedTuple):
    """One line."""

    text: str
    left: float
    """Or its middle, where `centred`."""
    top: float
    size: float
    colour: str
    centred: bool


class _Sheet:
    """What is drawn, from top to bottom."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.top = float(_MARGIN)
        self._texts: list[_Text] = []
        self._pictures: list[tuple[Image.Image, int, int]] = []

    def write(self, text: str, size: float, colour: str, *, left: float = _MARGIN) -> None:
        """A paragraph, as wide as the sheet; what follows comes below."""
        for line in _wrapped(text, size, self.width - _MARGIN - left):
            self.put(line, left, self.top, size, colour)
            self.top += _height(size)

    def put(
        self, text: str, left: float, top: float, size: float, colour: str, *, centred: bool = False
    ) -> None:
        """One line, anywhere."""
        self._texts.append(_Text(text, left, top, size, colour, centred))

    def paste(self, picture: Image.Image, left: float, top: float) -> None:
        """A picture, anywhere."""
        self._pictures.append((picture, round(left), round(top)))

    def png(self) -> bytes:
        """The sheet, as high as what is on it."""
        canvas = Image.new("RGB", (self.width, math.ceil(self.top) + _MARGIN), "white")
        for picture, left, top in self._pictures:
            canvas.paste(picture, (left, top))
        pen = ImageDraw.Draw(canvas)
        for text in self._texts:
            anchor = "ma" if text.centred else "la"
            pen.text((text.left, text.top), text.text, text.colour, _font(text.size), anchor=anchor)
        content = io.BytesIO()
        canvas.save(content, "PNG", dpi=(DOTS_PER_INCH, DOTS_PER_INCH))
        return content.getvalue()


class _Heading(NamedTuple):
    """A word above its tiles."""

    lines: tuple[str, ...]
    size: float
    probability: str


def _divided(words: int) -> list[range]:
    """The words of each line of tiles."""
    if not words:
        return []
    each = math.ceil(words / math.ceil(words / WORDS_A_LINE))
    return [range(first, min(first + each, words)) for first in range(0, words, each)]


@cache
def _font(size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(FONT, size * DOTS_PER_INCH / 72)


def _width(text: str, size: float) -> float:
    """Of a line of text."""
    return _font(size).getlength(text)


def _height(size: float) -> float:
    """Of a line of text, with the space to the next."""
    return 1.35 * size * DOTS_PER_INCH / 72


def _wrapped(text: str, size: float, room: float) -> list[str]:
    """The text in lines that fit; a word that is wider than a line is broken."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if _width(longer, size) <= room:
            lines[-1] = longer
        else:
            lines += _broken(word, size, room)
    return [line for line in lines if line]


def _broken(word: str, size: float, room: float) -> Iterator[str]:
    """Pieces of a word that fit."""
    piece = ""
    for character in word:
        if piece and _width(piece + character, size) > room:
            yield piece
            piece = ""
        piece += character
    yield piece


def _heading(word: str, probability: str) -> _Heading:
    """A word as large as it fits above a tile; in several lines where it is too long at any size."""
    word = clip(printable(word), LONGEST_WORD)
    size = _WORD
    while size > _SMALLEST and _width(word, size) > _TILE:
        size -= 1
    return _Heading(tuple(_wrapped(word, size, _TILE)), size, printable(probability))


def _ground(headings: Sequence[_Heading], columns: range) -> float:
    """How far below the top of a line of tiles its maps begin."""
    words = max(len(headings[t].lines) * _height(headings[t].size) for t in columns)
    return words + _height(_SMALL) + _GAP / 2


def _draw_words(sheet: _Sheet, headings: Sequence[_Heading], columns: range, left: float) -> None:
    """Words and probabilities; all words of a line stand on the same ground."""
    for place, t in enumerate(columns):
        middle, heading = left + place * (_TILE + _GAP) + _TILE / 2, headings[t]
        ground = sheet.top - _GAP / 2 - _height(_SMALL)
        sheet.put(heading.probability, middle, ground, _SMALL, _SOFT, centred=True)
        first = ground - len(heading.lines) * _height(heading.size)
        for number, line in enumerate(heading.lines):
            sheet.put(line, middle, first + number * _height(heading.size), heading.size, _INK, centred=True)


def _draw_maps(
    sheet: _Sheet, grey: Image.Image, maps: Mapping[str, Map], columns: range, left: float
) -> None:
    for label, map_ in maps.items():
        lines = _wrapped(clip(printable(label), LONGEST_WORD), _SMALL, _LABELS - 2 * _GAP)
        first = sheet.top + (_TILE - len(lines) * _height(_SMALL)) / 2
        for number, line in enumerate(lines):
            sheet.put(line, left - _LABELS, first + number * _height(_SMALL), _SMALL, _INK)
        for place, t in enumerate(columns):
            if t < len(map_):
                sheet.paste(_tile(grey, map_[t]), left + place * (_TILE + _GAP), sheet.top)
        sheet.top += _TILE + _GAP
    sheet.top += _GAP


def _draw_legend(sheet: _Sheet, maps: Mapping[str, Map]) -> None:
    against = any((np.nan_to_num(map_.astype(np.float64)) < 0).any() for map_ in maps.values())
    scale = Image.new("RGBA", (2 * _TILE, round(_height(_SMALL)) - 6), "#c9c9c9")
    shades = _overlay(np.linspace(-1.0 if against else 0.0, 1.0, 2 * _TILE)[None]).resize(scale.size)
    sheet.paste(Image.alpha_composite(scale, shades).convert("RGB"), _MARGIN, sheet.top)
    meaning = "Yellow: where the evidence for a word is strongest in its map; magenta: weaker; clear: none"
    meaning += "; teal: against the word." if against else "."
    sheet.write(
        f"{meaning} Each map has its own scale. Percentages: how probable the model held each word.",
        _SMALL, _SOFT, left=_MARGIN + 2 * _TILE + 2 * _GAP,
    )  # fmt: skip


def _greyed(seen: Image.Image) -> Image.Image:
    """What lies under maps: nearly grey, or a map's yellow would drown in a yellow thing."""
    small = seen.resize((_TILE, _TILE), Image.Resampling.LANCZOS)
    return ImageEnhance.Brightness(ImageEnhance.Color(small).enhance(0.3)).enhance(0.84).convert("RGBA")


def _tile(grey: Image.Image, cells: Float[np.ndarray, "rows columns"]) -> Image.Image:
    over = _overlay(cells).resize(grey.size, Image.Resampling.BILINEAR)
    return Image.alpha_composite(grey, over).convert("RGB")


def _overlay(cells: Float[np.ndarray, "rows columns"]) -> Image.Image:
    """One pixel per cell."""
    return Image.fromarray(colours()[quantised(cells).astype(np.int16) + STEPS])
