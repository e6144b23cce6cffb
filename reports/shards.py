"""What several processes write of one run: each appends to files of its own, and in the end one file holds it all.

Files of captions and of failures are called KIND.RANK.ATTEMPT.jsonl. Nobody ever appends to the file of another
process, or to one of an earlier attempt, whose last line may be torn.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Literal, Self

import numpy as np
from jaxtyping import Bool

from reports.files import decode_json, encode_json, write_atomically
from reports.records import CaptionRow, Failure, RunError, to_json

Kind = Literal["captions", "failures"]

_MAX_LINE = 4 << 20  # bytes; far above what a caption takes
_SHARD = re.compile(r"(captions|failures)\.(\d{1,9})\.(\d{1,9})\.jsonl")


def shards(folder: Path, kind: Kind | None = None) -> list[Path]:
    """The files that processes have written to and that were not merged yet, oldest attempts first."""
    found = []
    for path in folder.glob("*.jsonl"):
        name = _SHARD.fullmatch(path.name)
        if name is not None and kind in (None, name[1]):
            found.append((int(name[3]), int(name[2]), path))
    return [path for *_, path in sorted(found)]


class Shard:
    """The files of one process in one attempt at a run; each is made when something is first written to it."""

    def __init__(self, folder: Path, rank: int) -> None:
        earlier = [path.name.split(".") for path in shards(folder)]
        attempt = 1 + max((int(name[2]) for name in earlier if int(name[1]) == rank), default=0)
        self._folder, self._end = folder, f"{rank}.{attempt}.jsonl"
        self._files: dict[Kind, IO[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for file in self._files.values():
            file.close()

    def append(self, kind: Kind, rows: Sequence[CaptionRow] | Sequence[Failure]) -> None:
        """Appends whole lines, which are on the disk when this returns."""
        lines = memoryview(b"".join(encode_json(to_json(row), kind) + b"\n" for row in rows))
        if not lines:
            return
        if kind not in self._files:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Unbuffered: what a full disk refuses must not be tried again when the file is closed.
            self._files[kind] = (self._folder / f"{kind}.{self._end}").open("xb", buffering=0)
        file = self._files[kind]
        while lines:
            lines = lines[file.write(lines) :]
        os.fsync(file.fileno())


def whole_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with the places where they begin, without a last one that is torn.

    Args:
        path: the file.

    Yields:
        Offset in bytes, and the line with its end.

    Raises:
        RunError: if a line is too long to be a run's.
    """
    offset = 0
    with path.open("rb") as file:
        # Only \n ends a line: captions may hold any other line break.
        for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE), b""), start=1):
            if not line.endswith(b"\n"):
                if len(line) == _MAX_LINE:
                    raise RunError(
                        f"{path}, line {number} is longer than {_MAX_LINE:,} bytes; start over with --fresh"
                    )
                return  # torn: the program ended while writing it
            yield offset, line
            offset += len(line)


class Places:
    """Where the caption of each picture at each beam size stands, in 14 bytes for each.

    Args:
        image_ids: all pictures of the run, in order.
        beam_sizes: all that are decoded.
    """

    def __init__(self, image_ids: Sequence[str], beam_sizes: Sequence[int]) -> None:
        self._rows = {image_id: row for row, image_id in enumerate(image_ids)}
        self._columns = {size: column for column, size in enumerate(beam_sizes)}
        self._order = sorted(range(len(beam_sizes)), key=beam_sizes.__getitem__)
        shape = (len(image_ids), len(beam_sizes))
        self._sources: list[Path] = []
        self._source = np.full(shape, -1, np.int16)
        self._offset = np.zeros(shape, np.int64)
        self._length = np.zeros(shape, np.int32)
        self._surplus = 0

    @property
    def done(self) -> Bool[np.ndarray, "image size"]:
        """Which captions there are, in the order of the pictures and beam sizes given."""
        found: Bool[np.ndarray, "image size"] = self._source >= 0
        return found

    def add(self, path: Path) -> None:
        """Notes what a file holds, of which files that were added before lack it.

        Args:
            path: a file of captions.

        Raises:
            RunError: if a line of it is damaged, or is of a picture or beam size that the run does not have.
        """
        self._sources.append(path)
        for number, (offset, line) in enumerate(whole_lines(path), start=1):
            where = f"{path}, line {number}"
            content = decode_json(line, where)
            named: Any = content if isinstance(content, dict) else {}
            image_id, size = named.get("image_id"), named.get("beam_size")
            if not isinstance(image_id, str) or not isinstance(size, int):
                raise RunError(f"{where} is no caption of a picture; start over with --fresh")
            if image_id not in self._rows or size not in self._columns:
                raise RunError(
                    f"{where} is of picture {image_id!r:.80} at beam size {size}, which this run does not have; "
                    "start over with --fresh"
                )
            place = self._rows[image_id], self._columns[size]
            if self._source[place] >= 0:
                self._surplus += 1
                continue
            self._source[place] = len(self._sources) - 1
            self._offset[place], self._length[place] = offset, len(line)

    def is_merged(self) -> bool:
        """Whether one file holds all captions, each once and in order."""
        offsets = self._offset[:, self._order].ravel()
        return len(self._sources) == 1 and not self._surplus and bool((np.diff(offsets) > 0).all())

    def merge(self, out: Path) -> None:
        """Writes every caption once, by picture and then by beam size, smallest first.

        Args:
            out: the file, which may be one of those that are read.

        Raises:
            RunError: if a caption is missing.
        """
        if lacking := int((~self.done).sum()):
            raise RunError(
                f"{out.parent} lacks {lacking:,} of {self.done.size:,} captions; run the same command again"
            )
        with ExitStack() as stack, write_atomically(out) as merged:
            files = [stack.enter_context(path.open("rb")) for path in self._sources]
            for row in range(len(self.done)):
                for column in self._order:
                    file = files[self._source[row, column]]
                    file.seek(self._offset[row, column])
                    merged.write(file.read(self._length[row, column]))
