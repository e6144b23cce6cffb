"""The Flickr token file: one caption per line (Hodosh, Young & Hockenmaier 2013; Young et al. 2014)."""

from collections.abc import Iterator

from bench.data.captions_file import CaptionFile, Entry
from bench.errors import DataError


def read_tokens(file: CaptionFile) -> Iterator[Entry] | None:
    """Reads lines of the form `name.jpg#0<TAB>caption`.

    Args:
        file: any captions file.

    Returns:
        The entries, one per line, or None if the file is of another format.
    """
    is_known = file.document is None and _entry(file.first_line) is not None
    return _entries(file) if is_known else None


def _entries(file: CaptionFile) -> Iterator[Entry]:
    for number, line in file.filled_lines():
        entry = _entry(line)
        if entry is None:
            raise DataError(f"{file.name}, line {number:,}: expected name#0<TAB>caption, found {line!r:.60}")
        yield entry


def _entry(line: str) -> Entry | None:
    head, tab, caption = line.partition("\t")
    name, _, number = head.rpartition("#")
    return Entry(name, name, [caption]) if tab and name and number.isdigit() else None
