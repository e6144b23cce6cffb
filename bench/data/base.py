"""What every data set is made of."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, cast, get_args, overload

import numpy as np
from jaxtyping import Bool, Int
from PIL import Image

from bench.data.texts import TextList, TextsByName
from bench.errors import DataError

Split = Literal["train", "val", "test"]
_SPLITS = get_args(Split)


@dataclass(frozen=True)
class CaptionedImage:
    """One picture and what people said of it."""

    image_id: str
    """As the data set names it; unique within the data set."""
    references: tuple[str, ...]
    """Reference captions, verbatim."""
    split: Split
    path: Path | None = None
    """The picture file; None for pictures that are drawn."""

    def picture(self) -> Image.Image:
        """A fresh copy of the picture, upright, RGB; a `PictureError` if its file can't be read."""
        from models.preprocessing import read_picture  # loads torch, which scoring does without

        assert self.path is not None
        return read_picture(self.path)


class ImageTable(Sequence[CaptionedImage]):
    """Pictures that lie in files. Each is made when it is asked for; a slice holds nothing of its own.

    Args:
        images: ids all different.
    """

    def __init__(self, images: Iterable[CaptionedImage]) -> None:
        self._files, self._splits = TextList(), bytearray()

        def texts() -> Iterator[tuple[str, tuple[str, ...]]]:
            for image in images:
                self._files.append(str(image.path))
                self._splits.append(_SPLITS.index(image.split))
                yield image.image_id, image.references

        self._texts = TextsByName(texts())
        self._rows: Int[np.ndarray, " image"] | range = range(len(self._texts))

    def __len__(self) -> int:
        """How many pictures."""
        return len(self._rows)

    def __iter__(self) -> Iterator[CaptionedImage]:
        """All of them, one after the other."""
        return (self._at(int(row)) for row in self._rows)

    @overload
    def __getitem__(self, place: int) -> CaptionedImage: ...
    @overload
    def __getitem__(self, place: slice) -> "ImageTable": ...
    def __getitem__(self, place: int | slice) -> "CaptionedImage | ImageTable":
        """A picture, or those of a slice."""
        if isinstance(place, slice):
            return self._some(self._rows[place])
        return self._at(int(self._rows[place]))

    def __eq__(self, other: object) -> bool:
        """Whether they are the same pictures in the same order."""
        return (
            isinstance(other, ImageTable)
            and len(self) == len(other)
            and all(ours == theirs for ours, theirs in zip(self, other, strict=True))
        )

    __hash__ = None  # type: ignore[assignment]

    def in_split(self, split: Split) -> "ImageTable":
        """The pictures of one split."""
        wanted = _SPLITS.index(split)
        return self._some(np.array([row for row in self._rows if self._splits[row] == wanted], np.int64))

    @property
    def references(self) -> TextsByName:
        """The captions of each picture by its id; shared, not copied, as long as they are those of all pictures."""
        if isinstance(self._rows, range) and self._rows == range(len(self._texts)):
            return self._texts
        return TextsByName((self._texts.name(int(row)), self._texts.at(int(row))) for row in self._rows)

    def _some(self, rows: Int[np.ndarray, " image"] | range) -> "ImageTable":
        found = object.__new__(ImageTable)
        found._files, found._splits, found._texts, found._rows = self._files, self._splits, self._texts, rows
        return found

    def _at(self, row: int) -> CaptionedImage:
        return CaptionedImage(
            self._texts.name(row), self._texts.at(row), _SPLITS[self._splits[row]], Path(self._files[row])
        )


def references_of(images: Sequence[CaptionedImage]) -> TextsByName:
    """Reference captions by image id, in the order of the images."""
    if isinstance(images, ImageTable):
        return images.references
    return TextsByName((image.image_id, image.references) for image in images)


class WordRegion(NamedTuple):
    """Where in the picture a word is true."""

    unique: Bool[np.ndarray, "height width"] | None
    """The one thing the word speaks of; None where it speaks of several."""
    union: Bool[np.ndarray, "height width"]
    """All places for which the word is true."""
    other: Bool[np.ndarray, "height width"] | None = None
    """The other thing that captions of this picture speak of; None where there is none, or it is not known."""
    distractors: Bool[np.ndarray, "height width"] | None = None
    """Things that are there and that captions don't speak of; None where there are none, or they are not known."""


class Truth(NamedTuple):
    """How many words of one class a caption says, and how many of them are true of its picture."""

    true: int
    said: int


class GroundTruth(Protocol):
    """What a data set knows beyond its captions. All calls take the words of any caption, right or wrong."""

    def word_classes(self, words: Sequence[str]) -> list[str]:
        """The class of each word, "function" for words without a place in the picture."""
        ...

    def regions(self, image: CaptionedImage, words: Sequence[str]) -> list[WordRegion | None]:
        """Where each word is true, at the picture's resolution; None for function words and false words."""
        ...

    def truth(self, image: CaptionedImage, words: Sequence[str]) -> Mapping[str, Truth]:
        """Per word class: words said, and words that are true of the picture."""
        ...

    def objects(self, image: CaptionedImage, words: Sequence[str]) -> Truth:
        """Objects named, and how many of them are in the picture."""
        ...


@dataclass(frozen=True)
class CaptionData:
    """A data set: every picture once, however many captions it has."""

    name: str
    images: Sequence[CaptionedImage]
    split_origin: str
    """Where the splits come from: "given", or the rule by which the set was split."""
    missing: tuple[str, ...] = ()
    """Image ids that the captions name but whose picture file is not there."""
    warnings: tuple[str, ...] = ()
    """What a reader should know about the set, in sentences."""
    ground_truth: GroundTruth | None = field(default=None, compare=False)

    def select(self, split: str) -> Sequence[CaptionedImage]:
        """The pictures of one split, in the data set's order.

        Args:
            split: "train", "val", "test", or "all".

        Returns:
            The pictures.

        Raises:
            DataError: if there is no such split, or it is empty.
        """
        if split not in ("train", "val", "test", "all"):
            raise DataError(f"there is no split {split!r}; expected train, val, test or all")
        if split == "all":
            chosen = self.images
        elif isinstance(self.images, ImageTable):
            chosen = self.images.in_split(cast("Split", split))
        else:
            chosen = tuple(image for image in self.images if image.split == split)
        if not chosen:
            counts = Counter(image.split for image in self.images)
            listed = ", ".join(f"{name} {counts[name]}" for name in get_args(Split))
            raise DataError(f"{self.name} has no picture in split {split!r} ({listed}); choose another")
        return chosen


def data_sha256(images: Sequence[CaptionedImage]) -> str:
    """A fingerprint of the data: two runs with the same one saw the same pictures and references.

    Args:
        images: any pictures; files are read in pieces, drawn pictures are drawn.

    Returns:
        SHA-256 in hexadecimal, over each picture's id, references and bytes (of the file; of drawn pictures,
        RGB pixels). A file that can't be read counts as an empty one.
    """
    total = hashlib.sha256()
    for image in images:
        total.update(json.dumps([image.image_id, image.references]).encode())  # JSON says where it ends
        total.update(_picture_digest(image))
    return total.hexdigest()


def references_sha256(references: Mapping[str, Sequence[str]]) -> str:
    """A fingerprint of what captions are scored against: SHA-256 in hexadecimal over ids and references, in order."""
    total = hashlib.sha256()
    for image_id, captions in references.items():
        total.update(json.dumps([image_id, list(captions)]).encode())
    return total.hexdigest()


def _picture_digest(image: CaptionedImage) -> bytes:
    if image.path is None:
        return hashlib.sha256(image.picture().tobytes()).digest()
    try:
        with image.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return hashlib.sha256().digest()
