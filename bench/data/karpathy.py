"""Karpathy's JSON: pictures with sentences and splits (Karpathy & Fei-Fei 2015, arXiv:1412.2306)."""

import reprlib
from collections.abc import Iterator

from bench.data.captions_file import CaptionFile, Entry, json_field
from bench.errors import DataError


def read_karpathy(file: CaptionFile) -> Iterator[Entry] | None:
    """Reads `{"images": [{"filename", "filepath"?, "split"?, "sentences": [{"raw"} or {"tokens"}]}]}`.

    Args:
        file: any captions file.

    Returns:
        The entries, or None if the file is of another format.
    """
    match file.document:
        case {"images": list(images), **rest} if "annotations" not in rest:
            return (_entry(image, f"{file.name}: images[{index}]") for index, image in enumerate(images))
    return None


def _entry(image: object, where: str) -> Entry:
    name = json_field(image, "filename", str, where)
    captions = [_caption(sentence, where) for sentence in json_field(image, "sentences", list, where)]
    assert isinstance(image, dict)
    folder = json_field(image, "filepath", str, where) if "filepath" in image else ""
    split = json_field(image, "split", str, where) if "split" in image else None
    return Entry(name, f"{folder}/{name}" if folder else name, captions, split)


def _caption(sentence: object, where: str) -> str:
    if isinstance(sentence, dict) and "raw" in sentence:
        return json_field(sentence, "raw", str, where)
    tokens = json_field(sentence, "tokens", list, where)
    if not all(isinstance(token, str) for token in tokens):
        raise DataError(f"{where}: expected tokens that are words, found {reprlib.repr(tokens)}")
    return " ".join(tokens)
