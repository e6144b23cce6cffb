"""Where the words of real captions are true: annotations that come apart from the captions and pictures."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol, TypeVar

from bench.data.base import CaptionedImage, GroundTruth
from bench.data.captions_file import read_captions_file
from bench.data.entities import FOLDERS, EntityFolder
from bench.data.instances import InstancesFile
from bench.data.pictures import PICTURE_SUFFIXES
from bench.errors import DataError
from models.errors import PictureError

KINDS = (
    "the folder of Flickr30k Entities (with Annotations and Sentences in it), or COCO's instances as JSON "
    "(with images, annotations and categories)"
)
"""What regions can come in."""


class LoadedRegions(NamedTuple):
    """Ground truth for pictures that are to be explained or judged."""

    truth: GroundTruth
    covered: int
    """Pictures that it knows; of the others, no word has a place."""
    warnings: tuple[str, ...]
    """What a reader should know about it, in sentences."""


class _Annotated(Protocol):
    """What is known of one picture."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as annotated."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Kinds of trouble that the annotations had."""


_A = TypeVar("_A", bound=_Annotated)


class _Source(Protocol[_A]):
    """Annotations of many pictures."""

    name: str
    names: Sequence[str]

    def read(self, names: Sequence[str]) -> _A | None: ...

    def truth(self, pictures: Mapping[str, _A]) -> GroundTruth: ...


def load_regions(path: Path, images: Sequence[CaptionedImage]) -> LoadedRegions:
    """Reads where words are true in some pictures; what the file or folder holds is recognised from content.

    All annotations of these pictures are read and checked at once, and each picture is opened to compare its size;
    masks are drawn when they are asked for. A picture whose size is not the annotated one is left out: its
    annotations were made for another copy of it, larger, cropped or turned.

    Args:
        path: one of `KINDS`.
        images: those that will be asked for, at least one.

    Returns:
        The ground truth, and how many of the pictures it covers.

    Raises:
        DataError: if the annotations can't be read, or know none of the pictures.
    """
    if not os.path.exists(path):  # noqa: PTH110 (Path's raises on forbidden folders)
        raise DataError(f"there is no file or folder {str(path)!r}; expected {KINDS}")
    if path.is_dir():
        if not all((path / folder).is_dir() for folder in FOLDERS):
            raise DataError(f"the folder {str(path)!r} holds no {' and '.join(FOLDERS)}; expected {KINDS}")
        return _load(EntityFolder(path), images)
    return _load(_open_instances(path), images)


def _open_instances(path: Path) -> InstancesFile:
    start = b""
    if path.is_file():
        try:
            with path.open("rb") as file:
                start = file.read(256).removeprefix(b"\xef\xbb\xbf").lstrip()
        except OSError as error:
            raise DataError(f"{path.name!r} can't be read: {error.strerror or error}") from error
    if start.startswith(b"{"):
        document = read_captions_file(path)
        match document.document:
            case {"images": list(), "annotations": list(), "categories": list()}:
                return InstancesFile(document)
    raise DataError(f"{path.name!r} holds no regions of a known kind; expected {KINDS}, unpacked")


def _load(source: _Source[_A], images: Sequence[CaptionedImage]) -> LoadedRegions:
    """Looks every picture up, and leaves out those whose size is another."""
    found: dict[str, _A] = {}
    unknown: list[str] = []
    resized: list[str] = []
    damaged: list[str] = []
    notes: Counter[str] = Counter()
    for image in images:
        known = source.read(_names(image))
        if known is None:
            unknown.append(repr(image.image_id))
        elif (size := _size(image)) is None:
            damaged.append(repr(image.image_id))
        elif size != known.size:
            seen, noted = (f"{width} x {height}" for width, height in (size, known.size))
            resized.append(f"{image.image_id!r}, which has {seen} pixels and is annotated for {noted}")
        else:
            found[image.image_id] = known
            notes.update(set(known.notes))
    if not found:
        known_names = f", such as {source.names[0]!r:.80}" if source.names else ""
        raise DataError(
            f"{source.name} annotates none of the {len(images):,} pictures in their own size "
            f"(e.g. {(resized or unknown or damaged)[0]}); it knows {len(source.names):,} pictures{known_names}; "
            "pass the annotations of this data set, or its pictures unchanged"
        )
    warnings = [
        f"{source.name}: {len(which):,} of {len(images):,} pictures {what} (e.g. {which[0]}); their words have no place"
        for which, what in (
            (unknown, "are not annotated"),
            (resized, "are annotated in another size"),
            (damaged, "can't be read"),
        )
        if which
    ]
    warnings += [f"{source.name}: {count:,} pictures have {note}" for note, count in notes.items()]
    return LoadedRegions(source.truth(found), len(found), tuple(warnings))


def _names(image: CaptionedImage) -> list[str]:
    """What a picture is called: by its file's name, then by its id, each with and without the suffix."""
    paths = [PurePosixPath(image.path.name)] if image.path else []
    names = []
    for path in (*paths, PurePosixPath(image.image_id)):
        names += [path.name, path.stem] if path.suffix.lower() in PICTURE_SUFFIXES else [path.name]
    return list(dict.fromkeys(names))


def _size(image: CaptionedImage) -> tuple[int, int] | None:
    """Width and height of the upright picture; None for one that can't be read."""
    try:
        return image.picture().size
    except PictureError:
        return None
