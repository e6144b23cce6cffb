"""What explaining writes: a file for each image as soon as it is explained, and in the end the run's own files."""

import hashlib
import io
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from reports.files import decode_json, encode_json, write_atomically
from reports.maps import Map, MapsWriter
from reports.records import (
    AGREEMENT,
    EXTRAS,
    FAITHFULNESS,
    GATE,
    LOCALISATION,
    NULLS,
    OPERATORS,
    PATHS,
    TRIAL_DISTANCES,
    TRIAL_DROPS,
    ImageExplained,
    RunError,
    from_json,
    to_json,
)

FOLDER = "explained"
"""Of a run directory, holds the files of single images until they are merged."""
WHOLE = ("beam_size", "word_index", "order")
"""Columns of whole numbers."""
ATTRIBUTION_KEYS = ("image_id", "beam_size", "word_index", "method", "word", "word_class")
NUMBERS = (
    *AGREEMENT, *(f"{name}_{null}" for name in AGREEMENT for null in NULLS),
    *LOCALISATION, *(f"{name}_{mark}" for name in LOCALISATION for mark in ("null", "ceiling")),
    *(f"{name}_{operator}" for operator in OPERATORS for name in FAITHFULNESS), *EXTRAS,
    "completeness_error", *PATHS, "path_sum_error", *TRIAL_DROPS, *TRIAL_DISTANCES, GATE,
)  # fmt: skip
"""Columns of attributions.parquet that measure something."""
_ATTRIBUTIONS = pa.schema(
    [(name, pa.int64() if name in WHOLE else pa.string()) for name in (*ATTRIBUTION_KEYS, "region", "reason")]
    + [(name, pa.float64()) for name in NUMBERS]
)
_SANITY = pa.schema(
    [(name, pa.string()) for name in ("image_id", "test", "method", "stage")]
    + [("order", pa.int64())]
    + [(name, pa.float64()) for name in ("cosine", "spearman", "entropy_rise")]
    + [("words", pa.int64()), ("reason", pa.string())]
)
_ROWS_AT_A_TIME = 20_000  # of attributions.parquet; every group of rows has a description of each column
_MAX_PART = 256 << 20  # bytes; above what 1,000 words and 40 methods take
_DAMAGES = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError)
_TABLES = {"attributions.parquet": _ATTRIBUTIONS, "sanity.parquet": _SANITY}
_MAPS, _ABOUT, _SURVEY = "maps.npz", "image.json", "survey.npz"
_T = TypeVar("_T")

Rows = Sequence[Mapping[str, object]]


class Explanations:
    """Tables and maps that are written image by image, so that their memory does not grow with the number of images."""

    def __init__(self, tables: Sequence[pq.ParquetWriter], archive: MapsWriter) -> None:
        self._tables, self._archive = tables, archive
        self._rows: list[tuple[pa.Table, ...]] = []

    def append(self, rows: Rows, maps: Mapping[str, Map], sane: Rows = ()) -> None:
        """Adds an image.

        Args:
            rows: of attributions.parquet; NaN and what is missing become null.
            maps: by key.
            sane: rows of sanity.parquet.
        """
        self._append(_table(rows, _ATTRIBUTIONS), _table(sane, _SANITY))
        for key, map_ in maps.items():
            self._archive.add(key, map_)

    def append_part(self, path: Path) -> ImageExplained:
        """Adds an image from the file that `Parts.write` made of it; a `RunError` if it is damaged.

        Args:
            path: the file.

        Returns:
            What else is in there.
        """
        with _opened(path) as archive:
            found = {name: archive.read(name) for name in (*_TABLES, _MAPS, _ABOUT)}
            tables = [_read_table(found[name], schema) for name, schema in _TABLES.items()]
            about = from_json(ImageExplained, decode_json(found[_ABOUT], f"{path}/{_ABOUT}"), str(path))
            self._append(*tables)
            self._archive.copy(io.BytesIO(found[_MAPS]))
        return about

    def _append(self, *tables: pa.Table) -> None:
        self._rows.append(tables)
        if sum(len(rows) for rows, _ in self._rows) >= _ROWS_AT_A_TIME:
            self.flush()

    def flush(self) -> None:
        """Writes the rows that are still held."""
        for writer, tables in zip(self._tables, zip(*self._rows, strict=True), strict=False):
            writer.write_table(pa.concat_tables(tables).combine_chunks())
        self._rows.clear()


@contextmanager
def writing_explanations(folder: Path) -> Iterator[Explanations]:
    """Writes attributions.parquet, sanity.parquet and maps.npz; they appear when all is written."""
    with (
        write_atomically(folder / "attributions.parquet") as rows,
        write_atomically(folder / "sanity.parquet") as sane,
        write_atomically(folder / "maps.npz") as maps,
        pq.ParquetWriter(rows, _ATTRIBUTIONS) as attributions,
        pq.ParquetWriter(sane, _SANITY) as sanity,
        MapsWriter(maps) as archive,
    ):
        explanations = Explanations((attributions, sanity), archive)
        yield explanations
        explanations.flush()


class ExplainedImage(NamedTuple):
    """All that was found of one image."""

    about: ImageExplained
    rows: Rows = ()
    """Of attributions.parquet."""
    maps: Mapping[str, Map] = {}
    sane: Rows = ()
    """Of sanity.parquet."""


@dataclass(frozen=True)
class Chosen:
    """Which images a run explains."""

    explained: tuple[str, ...]
    """Ids, in order."""
    others: tuple[str, ...]
    """Ids of some that may stand for the data set beside them."""


class Parts:
    """The files of single images of a run, which several processes may write at once. Each appears whole.

    Args:
        run: the run directory.
    """

    def __init__(self, run: Path) -> None:
        self._folder = run / FOLDER

    def path(self, number: int, image_id: str) -> Path:
        """The file of an image with this id, which has this place among those that are explained."""
        digest = hashlib.sha256(image_id.encode("utf-8", "backslashreplace")).hexdigest()
        return self._folder / f"{number:06d}-{digest[:16]}.zip"

    def write(self, number: int, found: ExplainedImage) -> None:
        """Stores what was found of an image."""
        path = self.path(number, found.about.image_id)
        with write_atomically(path) as file, zipfile.ZipFile(file, "w") as archive:
            for (name, schema), rows in zip(_TABLES.items(), (found.rows, found.sane), strict=True):
                content = io.BytesIO()
                pq.write_table(_table(rows, schema), content)
                archive.writestr(name, content.getvalue())
            content = io.BytesIO()
            with MapsWriter(content) as maps:
                for key, map_ in found.maps.items():
                    maps.add(key, map_)
            archive.writestr(_MAPS, content.getvalue())
            archive.writestr(_ABOUT, encode_json(to_json(found.about), _ABOUT))

    def note(self, name: str, value: object) -> None:
        """Stores a JSON value beside them, over what was stored under this name before."""
        with write_atomically(self._folder / f"{name}.json") as file:
            file.write(encode_json(value, name))

    def noted(self, kind: type[_T], name: str) -> _T | None:
        """What `note` stored, as a record or another type that `from_json` can read; None if there is nothing."""
        path = self._folder / f"{name}.json"
        return (
            from_json(kind, decode_json(path.read_bytes(), str(path)), str(path)) if path.is_file() else None
        )

    def write_survey(self, state: Mapping[str, np.ndarray]) -> None:
        """Stores how far looking at all images has come, over what was stored of it before."""
        with write_atomically(self._folder / _SURVEY, sync=False) as file:
            np.savez(file, **state)  # type: ignore[arg-type]  # of a keyword that no state is named after

    def read_survey(self) -> Mapping[str, np.ndarray]:
        """What `write_survey` stored last; empty if there is nothing, or nothing whole."""
        try:
            with (self._folder / _SURVEY).open("rb") as file, np.load(file, allow_pickle=False) as stored:
                return dict(stored)
        except _DAMAGES:
            return {}

    def clear(self) -> None:
        """Removes them all."""
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        if path.stat().st_size > _MAX_PART:
            raise ValueError(f"it has {path.stat().st_size:,} bytes; at most {_MAX_PART:,} are read")
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _MAX_PART:
                raise ValueError("it unpacks to more than is read")
            yield archive
    except RunError:
        raise
    except (*_DAMAGES, pa.ArrowException, KeyError) as error:
        raise RunError(f"{path} is damaged ({error}); remove it and run the same command again") from error


def _table(rows: Rows, schema: pa.Schema) -> pa.Table:
    frame = pd.DataFrame([_writable(row) for row in rows], columns=schema.names)
    return pa.Table.from_pandas(frame, schema, preserve_index=False).replace_schema_metadata()


def _read_table(content: bytes, schema: pa.Schema) -> pa.Table:
    table = pq.read_table(io.BytesIO(content))
    if table.schema != schema:
        raise ValueError("its tables have other columns")
    return table


def _writable(row: Mapping[str, object]) -> dict[str, object]:
    """A row without halves of characters, which a file's name can hold and parquet can't."""
    return {
        name: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
        for name, value in row.items()
    }
