"""Which container a file is: safetensors, or one of the two of torch.save. Anything else is named and refused."""

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.errors import CheckpointError
from models.formats.content import Content, StoredTensor
from models.formats.limits import memory_limit
from models.formats.pickles import PickleError
from models.formats.torch_save import open_legacy, open_zip

_MAX_HEADER = 32 << 20
"""Longest header of a safetensors file, in bytes; the tutorial's model has one of 300 kB. safetensors allows 100 MB."""

# How files begin that people mistake for checkpoints; the message says what they are.
_MISTAKEN = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run `git lfs pull`",
    b"<!doctype": "a web page; the download went wrong",
    b"<html": "a web page; the download went wrong",
    b"<?xml": "a web page; the download went wrong",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x89png": "a PNG picture",
    b"gif8": "a GIF picture",
    b"\x89hdf": "an HDF5 file, as Keras writes; only PyTorch checkpoints can be read",
    b"\x1f\x8b": "compressed by gzip; unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"rar!": "a RAR archive; unpack it first",
    b"pk\x05\x06": "an empty zip archive",
}
_TAR_MAGIC_AT = 257


def open_content(path: Path) -> Content:
    """Finds out what a checkpoint file holds; nothing is executed, and no numbers are read yet.

    Args:
        path: the file.

    Returns:
        Its content.

    Raises:
        CheckpointError: if it is no file, empty, of another kind, damaged, hostile, or too large in its structure.
    """
    try:
        if not path.is_file():
            kind = (
                "is a folder"
                if path.is_dir()
                else "is not a regular file"
                if path.exists()
                else "does not exist"
            )
            raise CheckpointError(f"checkpoint {path.absolute()} {kind}; give the path of a checkpoint file")
        if path.stat().st_size == 0:
            raise CheckpointError(f"checkpoint {path.name} is empty (0 bytes); copy or download it again")
        content = _open_known(path)
        if content is not None:
            return content
        with path.open("rb") as file:
            start = file.read(_TAR_MAGIC_AT + 5)
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} can't be read: {error.strerror or error}") from error
    for magic, what in _MISTAKEN.items():
        if start.lstrip().lower().startswith(magic):
            raise CheckpointError(f"checkpoint {path.name} is {what}")
    if start[_TAR_MAGIC_AT:] == b"ustar":
        raise CheckpointError(
            f"checkpoint {path.name} is a tar archive; unpack it and give the checkpoint that is inside "
            "(files of torch 0.1 can be saved again with torch 0.4)"
        )
    raise CheckpointError(
        f"checkpoint {path.name} is not of a known kind (it begins with {start[:12]!r}); expected safetensors, "
        "or a file of torch.save"
    )


def _open_known(path: Path) -> Content | None:
    with path.open("rb") as file:
        start = file.read(64)
    try:
        if len(start) > 8 and start[8:9] == b"{":
            return _open_safetensors(path, struct.unpack("<Q", start[:8])[0])
        with memory_limit(path.name):
            if start.startswith(b"PK\x03\x04"):
                return open_zip(path)
            if start[:1] == b"\x80":
                return open_legacy(path)
    except PickleError as error:
        raise CheckpointError(f"{path.name}: {error}") from error
    return None


def _open_safetensors(path: Path, header: int) -> Content | None:
    if header > path.stat().st_size and header > _MAX_HEADER:
        return None
    _check_header(path, header)

    with _named_damage(path):
        file: Any = safe_open(
            path, framework="pt", device="cpu"
        )  # stays open for as long as a tensor may be read
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        tensors = {
            name: StoredTensor(
                tuple(part.get_shape()),
                _SAFETENSORS_TYPES.get(part.get_dtype(), part.get_dtype()),
                "cpu",
                partial(_read_tensor, path, file, name),
            )
            for name, part in slices.items()
        }
        return Content(path, "safetensors", None, tensors, {}, {}, file.metadata() or {}, 0)


def _check_header(path: Path, length: int) -> None:
    """Reads the header under a memory limit before the library does, which would end the process where it meets one."""
    if length > _MAX_HEADER:
        raise CheckpointError(f"{path.name} has a header of {length:,} bytes; at most {_MAX_HEADER:,}")
    with memory_limit(path.name), path.open("rb") as file:
        file.seek(8)
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise CheckpointError(
                f"{path.name} is damaged or truncated: its header is not JSON; copy or download it again"
            ) from error
        if not isinstance(header, dict) or len(header) > _MAX_TENSORS:
            raise CheckpointError(
                f"{path.name} has a header of more than {_MAX_TENSORS:,} tensors, or none; it is refused"
            )


def _read_tensor(path: Path, file: Any, name: str) -> Tensor:
    with _named_damage(path):
        tensor: Tensor = file.get_tensor(name)
    return tensor


@contextmanager
def _named_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        raise CheckpointError(
            f"{path.name} is damaged or truncated: {error}; copy or download it again"
        ) from error


_MAX_TENSORS = 50_000
_SAFETENSORS_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
