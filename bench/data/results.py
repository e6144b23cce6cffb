"""Captions of any program and the references to score them against, both read without opening a picture."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from bench.data.captions_file import CaptionFile, json_field, read_captions_file
from bench.data.load import DATASETS, read_captions
from bench.data.pictures import PICTURE_SUFFIXES
from bench.errors import DataError

RESULT_KINDS = ('a list of {"image_id", "caption"} as COCO has it', "an object that maps ids to captions")
"""What captions can come in, apart from every kind of captions file that holds one caption per picture."""


class References(NamedTuple):
    """What people said of some pictures."""

    name: str
    captions: Mapping[str, tuple[str, ...]]
    """By image id."""
    files: Mapping[str, str]
    """The picture file of each image id, as the set names it."""
    warnings: tuple[str, ...]


class Results(NamedTuple):
    """What a program said of some pictures."""

    captions: Mapping[str, str]
    """By image id."""
    warnings: tuple[str, ...]


def load_references(spec: str) -> References:
    """Reads the captions of a data set, of all its splits; a `DataError` if they can't be read.

    Args:
        spec: what `load_data` takes; its pictures need not be there.

    Returns:
        The references.
    """
    if spec.partition(":")[0] == "scenes":
        from bench.data.scenes import load_scenes

        scenes = {image.image_id: image.references for image in load_scenes(spec).images}
        return References(spec, scenes, {image_id: image_id for image_id in scenes}, ())
    read = read_captions(spec)
    return References(
        read.name,
        {image_id: picture.captions for image_id, picture in read.pictures.items()},
        {image_id: picture.file for image_id, picture in read.pictures.items()},
        read.warnings,
    )


def load_results(path: Path) -> Results:
    """Reads one caption per picture.

    Args:
        path: COCO's results, an object that maps ids to captions (or to lists of one), or any captions file.

    Returns:
        The captions, in the order of the file.

    Raises:
        DataError: if the file can't be read, or gives a picture no caption or several.
    """
    if not path.is_file():
        raise DataError(f"there is no file {str(path)!r}; expected captions, one for each picture")
    file = read_captions_file(path)
    captions: dict[str, str] = {}
    for image_id, caption in _results(file):
        if image_id in captions:
            raise DataError(f"{file.name} has two captions of {image_id!r:.99}; expected one of each picture")
        captions[image_id] = caption
    if not captions:
        raise DataError(f"{file.name} holds no caption; expected one of each picture")
    return Results(captions, tuple(file.warnings))


def _results(file: CaptionFile) -> Iterable[tuple[str, str]]:
    match file.document:
        case list(items):
            return (_result(item, f"{file.name}: [{number}]") for number, item in enumerate(items))
        case dict(items) if not {"images", "annotations"} & items.keys():
            return ((key, _only(value, f"{file.name}: {key!r:.99}")) for key, value in items.items())
    for read in DATASETS.values():
        if entries := read(file):
            return ((entry.image_id, caption) for entry in entries for caption in entry.captions)
    kinds = ", ".join([*RESULT_KINDS, *DATASETS])
    raise DataError(f"{file.name} is not a file of captions of a known kind; expected {kinds}")


def _result(item: object, where: str) -> tuple[str, str]:
    is_text = isinstance(item, dict) and isinstance(item.get("image_id"), str)
    image_id = json_field(item, "image_id", str if is_text else int, where)
    return str(image_id), json_field(item, "caption", str, where)


def _only(value: object, where: str) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str):
        raise DataError(f"{where}: expected one caption, found {value!r:.60}")
    return value


def by_reference_id(captions: Mapping[str, str], references: References) -> dict[str, str]:
    """Finds the references of each caption, whatever the two files call a picture.

    Ids are compared as they are; then with the names of the picture files, these without their folder, without
    their suffix, and the number at their end, which is COCO's id. The first way that places every caption counts.

    Args:
        captions: by the id that their program gave.
        references: whose ids count.

    Returns:
        The captions by the references' ids.

    Raises:
        DataError: if a caption's picture has no references.
    """
    ways: tuple[tuple[Callable[[str], str], Mapping[str, str]], ...] = (
        (str, {image_id: image_id for image_id in references.captions}),
        *((way, references.files) for way in (str, _file_name, _stem, _number)),
    )
    unplaced = list(captions)
    for way, names in ways:
        ids = _unique(way, names)
        found = {ids[way(given)]: given for given in captions if way(given) in ids}
        placed = set(found.values())
        if len(placed) == len(captions):
            return {image_id: captions[given] for image_id, given in found.items()}
        unplaced = min(unplaced, [given for given in captions if given not in placed], key=len)
    shown = ", ".join(f"{given!r:.60}" for given in unplaced[:5])
    raise DataError(
        f"{references.name!r} has no references for {len(unplaced):,} of {len(captions):,} captioned pictures: "
        f"{shown}; expected its image ids or file names, such as {next(iter(references.captions))!r:.99}"
    )


def _unique(way: Callable[[str], str], names: Mapping[str, str]) -> dict[str, str]:
    """Names in one way -> image id, without the names that would stand for several."""
    ids: dict[str, str] = {}
    twice = set()
    for image_id, name in names.items():
        key = way(name)
        if ids.setdefault(key, image_id) != image_id:
            twice.add(key)
    return {key: image_id for key, image_id in ids.items() if key and key not in twice}


def _file_name(name: str) -> str:
    return PurePosixPath(name).name


def _stem(name: str) -> str:
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in PICTURE_SUFFIXES else path.name


def _number(name: str) -> str:
    digits = re.search(r"(\d{1,18})$", _stem(name), re.ASCII)
    return str(int(digits[1])) if digits else ""
