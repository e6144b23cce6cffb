"""Files that appear whole or not at all, and JSON as every file of a run has it."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from reports.records import RunError, refuse_constant


@contextmanager
def write_atomically(path: Path, *, sync: bool = True) -> Iterator[IO[bytes]]:
    """A file that appears at `path` whole, or not at all; without `sync` a power failure can leave it empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        Path(name).chmod(0o644)  # temporary files are made private
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def encode_json(value: object, where: str, *, indent: int | None = None) -> bytes:
    """JSON in UTF-8; raises `RunError`, which names `where`, if there is NaN or an infinity in it."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    except ValueError as error:
        raise RunError(f"{where} can't hold NaN or an infinity ({error}); use None and a reason") from error
    return text.encode("utf-8", "backslashreplace")  # a lone surrogate becomes \udc80, as JSON writes it


def decode_json(content: bytes, where: str) -> object:
    """What `encode_json` wrote; raises `RunError`, which names `where`, if it is something else."""
    try:
        return json.loads(content.decode("utf-8"), parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RunError(
            f"{where} is not JSON ({error}); the run may be damaged: start over with --fresh"
        ) from error
