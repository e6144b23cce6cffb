"""A captions file, read safely: what the readers of all formats share."""

import codecs
import json
import re
import reprlib
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

from bench.errors import DataError

MAX_BYTES = 1 << 30
"""Largest captions file that is read: 1 GiB."""
MAX_LINE = 1 << 20
"""Longest line, in characters: millions of cells in one row would take all memory."""

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_T = TypeVar("_T")


class Entry(NamedTuple):
    """What a captions file says of one picture in one place; a picture may have many entries."""

    image_id: str
    file: str
    """The picture file as the set gives it: a path with forward slashes, not yet checked."""
    captions: list[str]
    split: str | None = None
    """The split as the set names it; None if it names none."""


@dataclass(frozen=True)
class CaptionFile:
    """The content of one captions file, before its format is known."""

    path: Path
    text: str
    document: object
    """The parsed JSON; None for files that are not JSON."""
    warnings: list[str] = field(default_factory=list)
    """Readers add a sentence for everything that they had to guess."""

    @property
    def name(self) -> str:
        """The file's name, quoted, for messages."""
        return repr(self.path.name)

    @property
    def first_line(self) -> str:
        """The first line, without its end; at most 65,536 characters."""
        return self.text[:65_536].split("\n", 1)[0].removesuffix("\r")

    def lines(self) -> Iterator[str]:
        r"""All lines with their ends, which are "\n": captions may hold any other line break."""
        for number, match in enumerate(_LINE.finditer(self.text), 1):
            if match.end() - match.start() > MAX_LINE:
                raise DataError(
                    f"{self.name}, line {number:,} is longer than {MAX_LINE:,} characters; split it"
                )
            yield match[0]

    def filled_lines(self) -> Iterator[tuple[int, str]]:
        """Numbers and content of the lines that are not blank."""
        for number, line in enumerate(self.lines(), 1):
            if not line.isspace():
                yield number, line.removesuffix("\n").removesuffix("\r")


def read_captions_file(path: Path) -> CaptionFile:
    """Reads a file of text: UTF-8 or UTF-16 by its byte order mark, Latin-1 where it is not valid UTF-8.

    Args:
        path: a regular file.

    Returns:
        The file, parsed if it holds JSON.

    Raises:
        DataError: if it can't be read, is empty, too large or not text, or if its JSON is not valid, or holds
            NaN or a key twice in one object.
    """
    name = repr(path.name)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{name} is neither a file nor a folder; expected a captions file or its folder")
        if status.st_size > MAX_BYTES:
            raise DataError(f"{name} has {status.st_size:,} bytes; expected captions of up to {MAX_BYTES:,}")
        with path.open("rb") as file:
            data = file.read(4096)
            if b"\0" in data and not data.startswith(_UTF16):
                raise DataError(f"{name} is not text; expected a captions file or its folder")
            data += file.read(MAX_BYTES)
    except OSError as error:
        raise DataError(f"{name} can't be read: {error.strerror or error}") from error
    if not data.strip():
        raise DataError(f"{name} is empty; expected captions")
    warnings = []
    try:
        text = data.decode("utf-16" if data.startswith(_UTF16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        text = data.decode("latin-1")
        warnings.append(f"{name} is not valid UTF-8 (byte {error.start:,}); it was read as Latin-1")
    return CaptionFile(path, text, _parse(text, name) if re.match(r"\s*[{\[]", text) else None, warnings)


def _parse(text: str, name: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise DataError(f"{name} is not a data set: its JSON is nested too deeply") from error
    except ValueError as error:
        raise DataError(f"{name} is not valid JSON: {error}") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice[:60]!r} stands twice in one object")
    return record


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def json_field(record: object, key: str, kind: type[_T], where: str) -> _T:
    """The value of a JSON object, checked to be of one type; messages name its place, `where`."""
    value = record.get(key) if isinstance(record, dict) else record
    if not isinstance(value, kind) or value is record:
        found = reprlib.repr(value)
        raise DataError(f"{where}: expected an object with {key!r} of type {kind.__name__}, found {found}")
    return value
