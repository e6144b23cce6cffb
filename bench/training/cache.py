"""Rows that are computed once and then read from disk: pictures as pixels, or what a frozen encoder makes of them.

A cache is a folder of blocks. A block is written whole under another name and then renamed, and what says that it is
there, with its SHA-256, is written after it. So whatever ends the work loses the block that was being computed, and any
number of processes can compute different blocks. What a cache holds follows from its key, and its folder is named after
that: other weights or pictures go elsewhere, and nothing stale is ever read.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.config import digest
from bench.errors import DataError
from bench.progress import say, track
from bench.provenance import file_sha256

BLOCK = 16
"""Rows of a block, which is what a kill can cost: 8 MB of a ResNet's maps, 3 MB of pixels."""
_MANY = 256
"""Blocks whose checking takes so long that progress is shown."""


class Produced(NamedTuple):
    """Some rows, computed."""

    rows: np.ndarray
    """In the order asked for; anything where a row could not be computed."""
    failed: Mapping[int, str]
    """Row -> why it could not be computed."""


class BlockCache:
    """Rows of one shape, on disk.

    Args:
        folder: of all caches; this one's is named in it.
        key: everything that decides the rows, as JSON values; `kind` names it.
        count: of rows.
        row_shape: of each.
        dtype: of their numbers.

    Raises:
        DataError: if its folder holds something else.
    """

    def __init__(
        self, folder: Path, key: Mapping[str, object], count: int, row_shape: Sequence[int], dtype: str
    ) -> None:
        self.count, self.row_shape, self.dtype = count, tuple(row_shape), np.dtype(dtype)
        whole = {**key, "count": count, "row_shape": list(row_shape), "dtype": self.dtype.str, "block": BLOCK}
        self.folder = folder / f"{key['kind']}-{digest(whole)[:16]}"
        text = json.dumps(whole, indent=1, sort_keys=True) + "\n"
        about = self.folder / "key.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        if not about.is_file():
            _write(about, text.encode())
        elif about.read_text(errors="replace") != text:
            raise DataError(
                f"{self.folder} holds another cache, or a damaged key.json; delete it, or name another --cache"
            )

    def fill(
        self,
        produce: Callable[[Sequence[int]], Produced],
        *,
        rank: int = 0,
        size: int = 1,
        label: str,
    ) -> int:
        """Checks this process's blocks, and computes those that are missing or damaged.

        Args:
            produce: computes the rows with these numbers; always called with those of one whole block.
            rank: this process's number, from 0.
            size: how many processes share the work.
            label: says what is being done, for the progress line.

        Returns:
            How many rows were computed. A disk without room for them is a `DataError`.
        """
        mine = range(rank, self._blocks, size)
        checked = (
            track(mine, total=len(mine), label=f"{label}: checking", unit="blocks")
            if len(mine) > _MANY
            else mine
        )
        missing = [block for block in checked if not self._is_whole(block)]
        rows = sum(len(self._rows_of(block)) for block in missing)
        if missing:
            self._check_room()
            for _ in track(self._compute(missing, produce), total=rows, label=label, unit="images"):
                pass
        return rows

    def rows(self, indices: Sequence[int]) -> np.ndarray:
        """Copies of rows; of each block only the rows asked for are read, and nothing stays in memory.

        Args:
            indices: row numbers, in any order.

        Returns:
            An array of shape (index, *row_shape).
        """
        result = np.empty((len(indices), *self.row_shape), dtype=self.dtype)
        places = np.asarray(indices, dtype=np.int64)
        for block in np.unique(places // BLOCK).tolist():
            here = np.flatnonzero(places // BLOCK == block)
            shape = (len(self._rows_of(block)), *self.row_shape)
            stored = np.memmap(self._file(block), dtype=self.dtype, mode="r", shape=shape)
            for place in here.tolist():
                result[place] = stored[places[place] - block * BLOCK]
        return result

    def failed(self) -> dict[int, str]:
        """The rows that could not be computed, by number, and why."""
        found: dict[int, str] = {}
        for block in range(self._blocks):
            about = self._about(block) or {"failed": {}}
            found |= {block * BLOCK + int(row): str(reason) for row, reason in about["failed"].items()}
        return found

    @property
    def _blocks(self) -> int:
        return -(-self.count // BLOCK)

    def _rows_of(self, block: int) -> range:
        return range(block * BLOCK, min((block + 1) * BLOCK, self.count))

    def _file(self, block: int) -> Path:
        return self.folder / f"block-{block:06d}.bin"

    def _about(self, block: int) -> dict[str, Any] | None:
        try:
            about = json.loads(self._file(block).with_suffix(".json").read_bytes())
            return about if isinstance(about["sha256"], str) and isinstance(about["failed"], dict) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _bytes(self, block: int) -> int:
        return len(self._rows_of(block)) * prod(self.row_shape) * self.dtype.itemsize

    def _is_whole(self, block: int) -> bool:
        file, about = self._file(block), self._about(block)
        if about is None:
            return False
        try:
            if file.stat().st_size == self._bytes(block) and file_sha256(file) == about["sha256"]:
                return True
        except OSError:
            pass
        say(f"{file} is damaged; its rows are computed again")
        file.with_suffix(".json").unlink(missing_ok=True)
        return False

    def _check_room(self) -> None:
        need = sum(
            self._bytes(b) for b in range(self._blocks) if not self._file(b).with_suffix(".json").exists()
        )
        free = shutil.disk_usage(self.folder).free
        if need > free:
            raise self._no_room(f"needs {need / 1e9:,.1f} GB more, and {free / 1e9:,.1f} GB are free")

    def _no_room(self, how: str) -> DataError:
        return DataError(
            f"the cache in {self.folder} {how}; make room, or name a folder elsewhere with --cache"
        )

    def _compute(self, blocks: Sequence[int], produce: Callable[[Sequence[int]], Produced]) -> Iterator[int]:
        for block in blocks:
            rows = self._rows_of(block)
            produced = produce(rows)
            assert produced.rows.shape == (len(rows), *self.row_shape), produced.rows.shape
            content = produced.rows.astype(self.dtype, copy=False).tobytes()
            failed = {str(row - rows.start): reason for row, reason in produced.failed.items()}
            file = self._file(block)
            try:
                _write(file, content)
                about = {"sha256": hashlib.sha256(content).hexdigest(), "failed": failed}
                _write(file.with_suffix(".json"), json.dumps(about).encode())
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise self._no_room("found the disk full") from error
                raise
            yield from rows


def _write(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
