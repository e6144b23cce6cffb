"""Tables with an image and a caption column: Kaggle's Flickr8k, Flickr30k's results.csv, and their like."""

import csv
import re
from collections.abc import Iterator, Sequence

from bench.data.captions_file import CaptionFile, Entry
from bench.errors import DataError

IMAGE_COLUMNS = ("image", "image_name", "filename", "file_name", "file", "image_path", "img", "image_id")
"""Names of the column that says which picture; the first one found counts."""
CAPTION_COLUMNS = ("caption", "comment", "sentence", "text", "description", "raw")
"""Names of the column that holds one caption; the first one found counts."""

# One row of Flickr30k's table lacks a separator: "2199200615.jpg| 4   A dog runs across the grass .".
_GLUED = re.compile(r"(\d+)\s+(.+)", re.DOTALL)


def read_table(file: CaptionFile) -> Iterator[Entry] | None:
    """Reads a table whose first line names its columns, separated by tabs, pipes, commas or semicolons.

    A column `split` gives the splits. Cells may be quoted, except between pipes, where quotes are text.

    Args:
        file: any captions file.

    Returns:
        The entries, one per row, or None if the file is of another format.
    """
    for delimiter in "\t|,;" if file.document is None else "":
        names = [cell.strip(' "').lower() for cell in file.first_line.split(delimiter)]
        if not (set(names).isdisjoint(IMAGE_COLUMNS) or set(names).isdisjoint(CAPTION_COLUMNS)):
            return _entries(file, delimiter, names)
    return None


def _entries(file: CaptionFile, delimiter: str, names: Sequence[str]) -> Iterator[Entry]:
    image = names.index(next(name for name in IMAGE_COLUMNS if name in names))
    caption = names.index(next(name for name in CAPTION_COLUMNS if name in names))
    split = names.index("split") if "split" in names else None
    rows = _piped_rows(file, len(names)) if delimiter == "|" else _quoted_rows(file, delimiter)
    next(rows)  # the names
    for number, cells in rows:
        if len(cells) > len(names) == caption + 1:  # the caption holds the delimiter, unquoted
            cells[caption:] = [delimiter.join(cells[caption:])]
        elif len(cells) == caption == len(names) - 1 > image + 1 and (glued := _GLUED.fullmatch(cells[-1])):
            cells[-1:] = glued.groups()
            file.warnings.append(f"{file.name}, line {number:,}: a separator is missing after {glued[1]!r}")
        if len(cells) != len(names):
            found = f"expected {len(names)} cells ({', '.join(names)}), found {len(cells)}"
            raise DataError(f"{file.name}, line {number:,}: {found}")
        yield Entry(cells[image], cells[image], [cells[caption]], None if split is None else cells[split])


def _piped_rows(file: CaptionFile, width: int) -> Iterator[tuple[int, list[str]]]:
    for number, line in file.filled_lines():
        yield number, [cell.removeprefix(" ") for cell in line.split("|", width - 1)]  # the separator is "| "


def _quoted_rows(file: CaptionFile, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    rows = csv.reader(file.lines(), delimiter=delimiter, strict=True)
    try:
        yield from ((rows.line_num, cells) for cells in rows if cells)
    except csv.Error as error:
        raise DataError(
            f"{file.name}, line {rows.line_num:,}: {error}; expected cells with quotes or line breaks to "
            'stand in double quotes, and quotes in them to be doubled ("")'
        ) from error
