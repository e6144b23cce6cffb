"""Tables of a run, written piece by piece and read no further than is needed."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reports.explained import WHOLE
from reports.records import RunError

_MAX_BYTES = 4 << 30
"""Of the columns that are read, eight a number: 16,000 explained images, or a million scored ones."""


class FrameWriter:
    """Writes a table whose rows come in pieces. The first one decides which columns there are.

    Args:
        file: to write to.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._writer: pq.ParquetWriter | None = None

    def append(self, frame: pd.DataFrame) -> None:
        """Adds rows: whole numbers in the columns of `WHOLE`, texts, and floats in all others; NaN becomes null."""
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._file, _schema(frame))
        schema = self._writer.schema
        assert set(frame) <= set(schema.names), "the first rows decide which columns there are"
        self._writer.write_table(
            pa.Table.from_pandas(frame.reindex(columns=schema.names), schema, preserve_index=False)
        )

    def close(self) -> None:
        """Ends the file; without a row, it has no column either."""
        writer = self._writer or pq.ParquetWriter(self._file, pa.schema([]))
        writer.close()


def _schema(frame: pd.DataFrame) -> pa.Schema:
    def kind(name: str) -> pa.DataType:
        if name in WHOLE:
            return pa.int64()
        return pa.float64() if pd.api.types.is_numeric_dtype(frame[name]) else pa.string()

    return pa.schema([(name, kind(name)) for name in map(str, frame)])


def read_frame(
    path: Path,
    keys: Sequence[str],
    numbers: Sequence[str],
    *,
    wanted: Callable[[str], bool] | None = None,
    beam_size: int | None = None,
) -> pd.DataFrame | None:
    """Reads a table that a run wrote, or a stranger says so.

    Args:
        path: the file.
        keys: columns that it must have.
        numbers: columns of floats that it may lack, and which are then NaN; if none are given, all others are such.
        wanted: of all others those that are read; None for all.
        beam_size: of which rows are wanted; None for all.

    Returns:
        The table; None if it has no such row.

    Raises:
        RunError: if it is damaged, too large, or holds values of another kind.
    """
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if missing := [key for key in keys if names.count(key) != 1]:
                if not file.metadata.num_rows:
                    return None
                raise RunError(f"{path} lacks the columns {', '.join(missing)}; score the run again")
            chosen = [n for n in dict.fromkeys(names) if n in keys or wanted is None or wanted(n)]
            if 8 * file.metadata.num_rows * len(chosen) > _MAX_BYTES:
                raise RunError(f"{path} claims {file.metadata.num_rows:,} rows; more than is read")
            frame = _read(file, chosen, beam_size)
    except RunError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RunError(f"{path} is not a readable parquet file ({error}); score the run again") from error
    return None if frame.empty else _checked(frame, path, keys, numbers)


def _read(file: pq.ParquetFile, columns: Sequence[str], beam_size: int | None) -> pd.DataFrame:
    """The table, its floats written straight to where they stay: Arrow would hold them all a second time."""
    empty = file.schema_arrow.empty_table().select(list(columns))
    floats = {
        field.name: np.empty(file.metadata.num_rows) for field in empty.schema if field.type == pa.float64()
    }
    others, rows = [name for name in columns if name not in floats], 0
    parts = [empty.select(others)]
    for table in _groups(file, columns, beam_size):
        for name, values in floats.items():
            values[rows : rows + len(table)] = table[name].to_numpy()
        rows += len(table)
        parts.append(table.select(others))
    rest = pa.concat_tables(parts).to_pandas(ignore_metadata=True)
    every = {name: floats[name][:rows] if name in floats else rest[name] for name in columns}
    return pd.DataFrame(every, copy=False)


def _groups(file: pq.ParquetFile, columns: Sequence[str], beam_size: int | None) -> Iterator[pa.Table]:
    """The groups of rows, without rows of other beam sizes."""
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, columns=list(columns))
        if beam_size is not None:
            table = table.filter(pc.equal(table["beam_size"], beam_size))
        yield table


def _checked(frame: pd.DataFrame, path: Path, keys: Sequence[str], numbers: Sequence[str]) -> pd.DataFrame:
    """The table with floats, whole numbers and texts where they belong."""
    frame = frame.loc[:, ~frame.columns.duplicated()]
    try:
        for column in numbers or frame.columns.difference(list(keys)):
            if column not in frame:
                frame[column] = np.nan
            elif frame[column].dtype != np.float64:
                frame[column] = frame[column].astype("float64")
        for column in keys:
            if column in WHOLE:
                frame[column] = frame[column].astype("int64")
            elif not frame[column].map(lambda value: isinstance(value, str)).all():
                raise TypeError(f"expected text in every row of {column}")
    except (TypeError, ValueError) as error:
        raise RunError(f"{path} holds values of another kind than a run's ({error})") from error
    return frame
