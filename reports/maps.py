"""maps.npz: entries named by anything a data set calls its images, and nothing in them but float16 arrays."""

import io
import math
import re
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Self

import numpy as np
from jaxtyping import Float16

from reports.records import RunError

Map = Float16[np.ndarray, "words rows columns"]
_MAX_BYTES = 4 << 20  # 5,000 words on a 20 x 20 grid
# What numpy.save writes for such an array. Matching it takes no parser that a stranger's file could provoke.
_NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '<f2', 'fortran_order': False, "
    rb"'shape': \((\d{1,6}), (\d{1,6}), (\d{1,6})\), \} *\n",
    re.DOTALL,
)


def map_key(image_id: str, beam_size: int, method: str) -> str:
    """The name of one caption's maps in maps.npz."""
    return f"{image_id}/{beam_size}/{method}"


class MapsWriter:
    """Writes maps, one after the other, so that `numpy.load` can read them; equal maps give equal bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._archive = zipfile.ZipFile(file, "w")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._archive.close()

    def add(self, key: str, array: Map) -> None:
        """Adds a map under a key that `map_key` made."""
        content = io.BytesIO()
        np.save(content, np.ascontiguousarray(array, dtype="<f2"), allow_pickle=False)
        self._write(_entry(key), content.getvalue())

    def copy(self, file: IO[bytes]) -> None:
        """Adds all maps of another such file, in its order; raises `ValueError` if one of them is something else."""
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                _read(archive, entry)
                self._write(entry.filename, archive.read(entry))

    def _write(self, name: str, content: bytes) -> None:
        entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
        self._archive.writestr(entry, content, zipfile.ZIP_DEFLATED)


def read_maps(path: Path, keys: Iterable[str]) -> dict[str, Map]:
    """Reads some maps.

    Args:
        path: a file that `MapsWriter` wrote, or a stranger says so.
        keys: as `map_key` makes them.

    Returns:
        Key -> array; keys that are not there are left out.

    Raises:
        RunError: if the file or an entry is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            known = {entry.filename: entry for entry in archive.infolist()}
            return {key: _read(archive, known[_entry(key)]) for key in keys if _entry(key) in known}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError) as error:
        raise RunError(f"{path} is damaged ({error}); explain the run again") from error


def _entry(key: str) -> str:
    """The name inside the zip file, which can hold neither NUL nor a lone surrogate."""
    return key.replace("\0", "\ufffd").encode("utf-8", "replace").decode() + ".npy"


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Map:
    packed_plainly = (
        entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) and not entry.flag_bits & 1
    )
    if entry.file_size > _MAX_BYTES or not packed_plainly:  # before anything of that size is made
        raise ValueError(f"{entry.filename!r:.80} is too large, encrypted or oddly packed")
    content = archive.read(entry)
    header = _NPY_HEADER.match(content)
    shape = tuple(int(n) for n in header.groups()) if header else ()
    if header is None or not all(shape[1:]) or 2 * math.prod(shape) != len(content) - header.end():
        raise ValueError(f"{entry.filename!r:.80} is not a float16 array of words, rows and columns")
    return np.frombuffer(content, dtype="<f2", offset=header.end()).reshape(shape)
