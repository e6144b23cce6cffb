"""What a stage that is not finished has found so far, so that a run that is broken off does not find it again."""

import hashlib
import json
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from reports.files import write_atomically

FOLDER = "unfinished"
"""Of a run directory, holds these tables until the stages they belong to are finished."""


class Unfinished:
    """Tables of numbers that belong to a run, each under what was asked for.

    Args:
        run: the run directory.
    """

    def __init__(self, run: Path) -> None:
        self._folder = run / FOLDER

    def read(self, *asked: object) -> pd.DataFrame | None:
        """The table that was found when just this was asked; None if there is none, or no readable one.

        Args:
            *asked: JSON values: all that decides what is found, apart from what makes the run this run.

        Returns:
            The table as it was given to `write`, its rows numbered from 0.
        """
        try:
            table: pd.DataFrame = pq.read_table(self._path(asked)).to_pandas()
        except (OSError, ValueError, pa.ArrowException):
            return None
        return table

    def write(self, table: pd.DataFrame, *asked: object) -> None:
        """Stores a table under what was asked; it appears whole.

        Args:
            table: numbers, under names.
            *asked: as for `read`.
        """
        with write_atomically(self._path(asked)) as file:
            pq.write_table(pa.Table.from_pandas(table, preserve_index=False), file)

    def clear(self) -> None:
        """Removes them all."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, asked: tuple[object, ...]) -> Path:
        digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
        return self._folder / f"{digest[:32]}.parquet"
