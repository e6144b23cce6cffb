"""From what a user calls a data set to pictures with captions and splits."""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from bench.data.base import CaptionData, CaptionedImage, ImageTable, Split
from bench.data.captions_file import CaptionFile, Entry, read_captions_file
from bench.data.coco import read_coco
from bench.data.karpathy import read_karpathy
from bench.data.pictures import PICTURE_SUFFIXES, USUAL_FOLDERS, PictureFolder, check_name
from bench.data.scenes import load_scenes
from bench.data.tables import read_table
from bench.data.tokens import read_tokens
from bench.errors import DataError
from bench.memory import give_back_memory

DATASETS: dict[str, Callable[[CaptionFile], Iterator[Entry] | None]] = {
    "Karpathy JSON": read_karpathy,
    "COCO captions JSON": read_coco,
    "Flickr token file": read_tokens,
    "table with an image and a caption column": read_table,
}
"""Every format's reader. It recognises its format from content, and answers None to all others."""

SPLITS: dict[str, Split] = {"train": "train", "restval": "train", "val": "val", "test": "test"}
"""Splits as sets name them; "restval" is what Karpathy gave to training of COCO's validation pictures."""

_SURROGATE = re.compile("[\ud800-\udfff]")


def load_data(spec: str, *, images: Path | None = None) -> CaptionData:
    """Loads a data set; pictures are found, but not opened.

    Args:
        spec: "scenes…" (see `load_scenes`), a captions file of any kind in `DATASETS`, or its folder.
        images: the pictures' folder; by default the captions file's own, with `USUAL_FOLDERS` in it.

    Returns:
        Every picture once, with all its captions in the order given.

    Raises:
        DataError: if the set can't be read, names a file outside its folder, or has a picture in two splits.
    """
    if spec.partition(":")[0] == "scenes":
        if images is not None:
            raise DataError(f"scenes are drawn, but --images names the folder {str(images)!r}; leave it out")
        return load_scenes(spec)
    read = read_captions(spec)
    folder = PictureFolder(images or read.folder)
    places = {image_id: folder.find(picture.file) for image_id, picture in read.pictures.items()}
    found = ImageTable(
        CaptionedImage(image_id, picture.captions, picture.split, places[image_id])
        for image_id, picture in read.pictures.items()
        if places[image_id]
    )
    if not len(found):
        raise DataError(
            f"none of the {len(places):,} pictures that {read.file} names (e.g. {next(iter(places))!r}) lies "
            f"in {str(folder.root)!r} or a usual folder in it ({', '.join(USUAL_FOLDERS[:5])}, …); "
            "pass the pictures' folder with --images"
        )
    _refuse_leaks((str(image.path), image.split) for image in found)
    missing = tuple(image_id for image_id, place in places.items() if not place)
    name, split_origin, warnings = read.name, read.split_origin, read.warnings
    del read, places, folder
    give_back_memory()  # the file, parsed, takes ten times what is kept of it
    return CaptionData(name, found, split_origin, missing, warnings)


class NamedPicture(NamedTuple):
    """What a captions file says of one picture; whether it is there is another question."""

    file: str
    """A relative path with forward slashes."""
    captions: tuple[str, ...]
    split: Split


class Captions(NamedTuple):
    """A captions file, read to its end."""

    name: str
    """Of the data set."""
    file: str
    """The captions file's name, quoted, for messages."""
    folder: Path
    """Where it lies."""
    pictures: Mapping[str, NamedPicture]
    """By image id."""
    split_origin: str
    warnings: tuple[str, ...]


def read_captions(spec: str) -> Captions:
    """Reads the captions of a data set without looking for its pictures.

    Args:
        spec: a captions file of any kind in `DATASETS`, or its folder.

    Returns:
        Every picture once, with all its captions in the order given.

    Raises:
        DataError: if the set can't be read, names a file outside its folder, or has a picture in two splits.
    """
    path = Path(spec)
    if not spec or not os.path.exists(path):  # noqa: PTH110 (Path's raises on forbidden folders)
        raise DataError(f"there is no data set {spec!r}; expected scenes, a captions file, or its folder")
    file, entries = _open_folder(path) if path.is_dir() else _open_file(path)
    merged = _merge(entries, file)
    splits, origin = _splits(merged, file)
    pictures = {
        image_id: NamedPicture(entry.file, _references(entry.captions), splits[image_id])
        for image_id, entry in merged.items()
    }
    return Captions(path.resolve().name, file.name, file.path.parent, pictures, origin, tuple(file.warnings))


def _open_file(path: Path) -> tuple[CaptionFile, Iterator[Entry]]:
    file = read_captions_file(path)
    for read in DATASETS.values():
        if entries := read(file):
            return file, entries
    raise DataError(f"{file.name} is not a captions file of a known kind; expected {', '.join(DATASETS)}")


def _open_folder(folder: Path) -> tuple[CaptionFile, Iterator[Entry]]:
    """Opens the one captions file in a folder. Links are not followed, sub-folders not searched."""
    try:
        with os.scandir(folder) as listing:
            files = sorted(Path(each.path) for each in listing if each.is_file(follow_symlinks=False))
    except OSError as error:
        raise DataError(f"the folder {str(folder)!r} can't be read: {error.strerror or error}") from error
    opened, refused = [], ""
    for path in files:
        if path.suffix.lower() in PICTURE_SUFFIXES:  # saves opening them; of all others, content decides
            continue
        try:
            opened.append(_open_file(path))
        except DataError as error:
            refused = refused or f" ({error})"
    if len(opened) > 1:
        names = ", ".join(file.name for file, _ in opened)
        raise DataError(
            f"{str(folder)!r} holds {len(opened)} captions files: {names}; pass one of them as --data"
        )
    if not opened:
        raise DataError(f"{str(folder)!r} holds no captions file{refused}; expected {', '.join(DATASETS)}")
    return opened[0]


def _merge(entries: Iterable[Entry], file: CaptionFile) -> dict[str, Entry]:
    """One entry per picture that has captions, all of them in the order given."""
    pictures: dict[str, Entry] = {}
    splits: list[tuple[str, Split]] = []
    for entry in entries:
        first = pictures.setdefault(entry.image_id, entry)
        if first is entry:
            check_name(entry.image_id, where=file.name)
            check_name(entry.file, where=file.name)
        elif first.file != entry.file:
            raise DataError(
                f"{file.name} calls two pictures {entry.image_id!r} ({first.file!r} and {entry.file!r:.99}); "
                "expected another name for each"
            )
        else:
            first.captions.extend(entry.captions)
        if entry.split is not None:
            splits.append((entry.image_id, _known_split(entry, file)))
    _refuse_leaks(splits)
    captioned = {image_id: entry for image_id, entry in pictures.items() if entry.captions}
    if not captioned:
        raise DataError(f"{file.name} has {len(pictures):,} pictures, none with a caption; expected both")
    captions = [caption for entry in captioned.values() for caption in entry.captions]
    for count, what in (
        (len(pictures) - len(captioned), "pictures have no caption; they are left out"),
        (captions.count(""), "captions are empty; they are left out of pictures that have others"),
        (
            sum(map(bool, map(_SURROGATE.search, captions))),
            "captions hold halves of characters, read as U+FFFD",
        ),
    ):
        if count:
            file.warnings.append(f"{file.name}: {count:,} {what}")
    return captioned


def _references(captions: Iterable[str]) -> tuple[str, ...]:
    references = tuple(_SURROGATE.sub("\ufffd", caption) for caption in captions)
    return tuple(filter(None, references)) or references


def _known_split(entry: Entry, file: CaptionFile) -> Split:
    if entry.split not in SPLITS:
        found = f"{file.name} puts {entry.image_id!r} in the split {entry.split!r:.60}"
        raise DataError(f"{found}; expected {', '.join(SPLITS)}")
    return SPLITS[entry.split]


def _splits(pictures: Mapping[str, Entry], file: CaptionFile) -> tuple[dict[str, Split], str]:
    """The split of every picture, and where it comes from."""
    without = [image_id for image_id, entry in pictures.items() if entry.split is None]
    if not without:
        return {image_id: _known_split(entry, file) for image_id, entry in pictures.items()}, "given"
    if len(without) < len(pictures):
        found = f"{len(without):,} of {len(pictures):,} pictures (e.g. {without[0]!r}) have no split"
        raise DataError(f"{file.name}: {found}; expected a split for all of them or for none")
    return {
        image_id: hashed_split(image_id) for image_id in pictures
    }, "80/10/10 by SHA-256 of the picture's id"


def hashed_split(image_id: str) -> Split:
    """The split of a picture in a set without splits: the same whatever other pictures the set has.

    Args:
        image_id: the picture's id.

    Returns:
        "train" for eight ids in ten, "val" and "test" for one each.
    """
    tenth = int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8], "big") % 10
    return "train" if tenth < 8 else "val" if tenth == 8 else "test"


def _refuse_leaks(places: Iterable[tuple[str, Split]]) -> None:
    """Refuses pictures that stand in two splits: a score would count pictures seen in training."""
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for picture, split in places:
        splits[picture].add(split)
    leaks = [f"{name!r} ({', '.join(sorted(found))})" for name, found in splits.items() if len(found) > 1]
    if leaks:
        shown = ", ".join(leaks[:5]) + (", …" if len(leaks) > 5 else "")
        raise DataError(f"{len(leaks):,} pictures stand in two splits: {shown}; leave each in one of them")
