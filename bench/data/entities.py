"""Flickr30k Entities: boxes for the phrases of real captions (Plummer et al. 2015, arXiv:1505.04870).

The format is that of github.com/BryanPlummer/flickr30k_entities, whose reader counts boxes from 1, both ends
included: `Sentences/ID.txt` marks phrases as `[/EN#ENTITY/type/… words]`, `Annotations/ID.xml` has the picture's
size and, for each box, the entities that it shows.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np
from jaxtyping import Bool

from bench.data.base import CaptionedImage, Truth, WordRegion
from bench.data.plurals import same_noun
from bench.data.word_classes import word_class
from bench.errors import DataError

FOLDERS = ("Annotations", "Sentences")
"""What a folder holds by which it is recognised."""
MAX_BYTES = 1 << 20
"""Largest annotation or sentence file that is read: 1 MiB, many times the largest of the set."""

_PHRASE = re.compile(r"\[/EN#(\d{1,18})(?:/[^\s\[\]]*)?[ \t]([^\[\]\n]*)\]")
_NOT_VISUAL = "0"
_NUMBER = re.compile(r"\s*(-?\d{1,9})\s*", re.ASCII)
# Flickr8k's files are named by Flickr's number and a secret, Flickr30k's by the number alone.
_FLICKR_NAME = re.compile(r"(\d+)_[0-9a-f]{10}", re.ASCII)


class Box(NamedTuple):
    """A rectangle of whole pixels; the ends are the first row and column outside."""

    left: int
    top: int
    right: int
    bottom: int


class Entity(NamedTuple):
    """A thing that the sentences of one picture speak of, and where it is."""

    words: frozenset[str]
    """Of all its phrases, in lower case."""
    boxes: tuple[Box, ...]
    """At least one; several where it is several things, or lies in pieces."""


class ImageEntities(NamedTuple):
    """What is known of one picture."""

    size: tuple[int, int]
    """Width and height, in pixels."""
    entities: tuple[Entity, ...]
    """Those that have boxes; scenes and things out of sight have none."""
    notes: tuple[str, ...]
    """Kinds of trouble that the annotations had."""


class EntityFolder:
    """The folder of the set. Both listings are read once; a picture's name is never made part of a path."""

    def __init__(self, root: Path) -> None:
        self.name = repr(root.name or str(root))
        self._xml = _listing(root / FOLDERS[0], ".xml")
        self._text = _listing(root / FOLDERS[1], ".txt")
        self.names: Sequence[str] = [stem for stem in self._xml if stem in self._text]

    def read(self, names: Sequence[str]) -> ImageEntities | None:
        """Reads what is known of one picture.

        Files that can't be read, are too large, declare a document type or are of another form are a `DataError`.

        Args:
            names: what the picture is called, the surest name first, without a suffix or with it. Pictures of
                Flickr8k are found by the number that both sets share.

        Returns:
            Its entities, or None if the folder has no such picture.
        """
        short = [match[1] for name in names if (match := _FLICKR_NAME.fullmatch(name))]
        stem = next((name for name in (*names, *short) if name in self._xml and name in self._text), None)
        if stem is None:
            return None
        size, boxes, notes = _read_boxes(self._xml[stem])
        phrases = _read_phrases(self._text[stem])
        found = tuple(
            Entity(frozenset(words), tuple(boxes[entity]))
            for entity, words in phrases.items()
            if entity in boxes
        )
        return ImageEntities(size, found, notes)

    def truth(self, pictures: Mapping[str, ImageEntities]) -> "EntitiesTruth":
        """The ground truth of pictures that were read, by image id."""
        return EntitiesTruth(pictures)


class EntitiesTruth:
    """Judges words by the phrases that people used of the same picture.

    A word is true of every entity that has it in a phrase, in whatever case, in singular or plural (the rule is
    `bench.data.plurals`). Words of generated captions are looked for in the phrases of the picture's own
    sentences, as attention correctness does (Liu et al. 2017, arXiv:1605.09553), though here by this rule alone.
    Function words and relations have no place: no phrase is theirs. A word that no phrase has, has none either,
    which does not make it false: five sentences don't name everything.
    """

    def __init__(self, pictures: Mapping[str, ImageEntities]) -> None:
        self._pictures = pictures

    def word_classes(self, words: Sequence[str]) -> list[str]:
        """The classes of `bench.data.word_classes`."""
        return [word_class(word) for word in words]

    def regions(self, image: CaptionedImage, words: Sequence[str]) -> list[WordRegion | None]:
        """The boxes of the entities that each word is true of.

        Unique where it is one entity. `other` is not known: a box holds its thing's parts and background, so that
        what lies in another box may well be the same thing.

        Args:
            image: any picture.
            words: of any caption.

        Returns:
            At the annotated size, which is the picture's.
        """
        known = self._pictures.get(image.image_id)
        if known is None:
            return [None] * len(words)
        return [_region(known, word.lower()) for word in words]

    def truth(self, image: CaptionedImage, words: Sequence[str]) -> dict[str, Truth]:  # noqa: ARG002
        """Nothing: a word that no sentence has can be true all the same."""
        return {}

    def objects(self, image: CaptionedImage, words: Sequence[str]) -> Truth:  # noqa: ARG002
        """Nothing: the phrases don't name every object that is there."""
        return Truth(true=0, said=0)


def _region(known: ImageEntities, word: str) -> WordRegion | None:
    if word_class(word) in ("function", "relation"):
        return None
    meant = [entity for entity in known.entities if any(same_noun(word, other) for other in entity.words)]
    if not meant:
        return None
    mask = _filled([box for entity in meant for box in entity.boxes], known.size)
    return WordRegion(unique=mask if len(meant) == 1 else None, union=mask)


def _filled(boxes: Sequence[Box], size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    mask = np.zeros((size[1], size[0]), dtype=bool)
    for box in boxes:
        mask[box.top : box.bottom, box.left : box.right] = True
    return mask


def _listing(folder: Path, suffix: str) -> dict[str, Path]:
    """The regular files of one kind in a folder, by their stems; links are not followed."""
    try:
        with os.scandir(folder) as entries:
            files = [Path(entry.path) for entry in entries if entry.is_file(follow_symlinks=False)]
    except OSError as error:
        raise DataError(f"the folder {str(folder)!r} can't be read: {error.strerror or error}") from error
    return {path.stem: path for path in sorted(files) if path.suffix == suffix}


def _read_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path.name!r} can't be read: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise DataError(
            f"{path.name!r} is larger than {MAX_BYTES:,} bytes; expected the notes of one picture"
        )
    return data


def _read_phrases(path: Path) -> dict[str, set[str]]:
    """The words of every entity's phrases, in lower case."""
    phrases: dict[str, set[str]] = {}
    matches = list(_PHRASE.finditer(_read_bytes(path).decode("utf-8-sig", "replace")))
    if not matches:
        raise DataError(
            f"{path.name!r} marks no phrase; expected sentences such as '[/EN#7/people A man] runs'"
        )
    for match in matches:
        if match[1] != _NOT_VISUAL:
            phrases.setdefault(match[1], set()).update(match[2].lower().split())
    return phrases


def _read_boxes(path: Path) -> tuple[tuple[int, int], dict[str, list[Box]], tuple[str, ...]]:
    """The picture's size, the boxes of every entity, and what was wrong with them."""
    root = _parse(_read_bytes(path), path.name)
    width, height = (_number(root, f"size/{side}", path.name) for side in ("width", "height"))
    if min(width, height) < 1:
        raise DataError(
            f"{path.name!r} is of a picture of {width} x {height} pixels; expected one pixel or more"
        )
    boxes: dict[str, list[Box]] = {}
    notes = []
    for thing in root.iterfind("object"):
        if thing.find("bndbox") is None:
            continue
        left, top, right, bottom = (
            _number(thing, f"bndbox/{end}", path.name) for end in ("xmin", "ymin", "xmax", "ymax")
        )
        box = Box(max(left - 1, 0), max(top - 1, 0), min(right, width), min(bottom, height))
        if box.left >= box.right or box.top >= box.bottom:
            notes.append("boxes without a pixel in the picture")
            continue
        for name in thing.iterfind("name"):
            boxes.setdefault((name.text or "").strip(), []).append(box)
    return (width, height), boxes, tuple(notes)


def _number(element: Element, path: str, name: str) -> int:
    text = element.findtext(path)
    match = _NUMBER.fullmatch(text or "")
    if match is None:
        raise DataError(f"{name!r}: expected a whole number in <{path}>, found {text!r:.40}")
    return int(match[1])


def _parse(data: bytes, name: str) -> Element:
    """The document's root. A document type is refused: entities and outside files are declared there."""

    def refuse(*_: object) -> None:
        raise DataError(f"{name!r} declares a document type; expected plain annotations (entities refused)")

    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(data, True)
        return builder.close()
    except DataError:
        raise
    except (expat.ExpatError, ValueError, LookupError) as error:  # of the document, of its encoding
        raise DataError(f"{name!r} is not valid XML: {error}") from error
