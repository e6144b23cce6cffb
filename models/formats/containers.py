"""Which container a file is: safetensors, or one of the two of torch.save. Anything else is named and refused."""

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.errors import CheckpointError
from models.formats.content import Content, StoredTensor
from models.formats.pickles import PickleError
from models.formats.torch_save import open_legacy, open_zip

_STRUCTURE_MEMORY = 768 << 20
"""Memory that finding out what a file holds may take, in bytes; the tutorial's files need 30 MB."""
_MAX_SAFETENSORS_HEADER = 100_000_000  # safetensors' own limit

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
        with _memory_limit():
            if (
                len(start) > 8
                and start[8:9] == b"{"
                and struct.unpack("<Q", start[:8])[0] <= _MAX_SAFETENSORS_HEADER
            ):
                return _open_safetensors(path)
            if start.startswith(b"PK\x03\x04"):
                return open_zip(path)
            if start[:1] == b"\x80":
                return open_legacy(path)
    except PickleError as error:
        raise CheckpointError(f"{path.name}: {error}") from error
    except (MemoryError, RecursionError) as error:
        raise CheckpointError(
            f"{path.name} needs more than {_STRUCTURE_MEMORY >> 20} MB just to say what it holds; it is refused"
        ) from error
    return None


@contextmanager
def _memory_limit() -> Iterator[None]:
    """Has the system refuse more than `_STRUCTURE_MEMORY` of new memory, where it can (Linux)."""
    try:
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError, ValueError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [used + _STRUCTURE_MEMORY, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _open_safetensors(path: Path) -> Content:
    def reader(name: str) -> Callable[[], Tensor]:
        def read() -> Tensor:
            with _safetensors(path) as file:
                tensor: Tensor = file.get_tensor(name)
            return tensor

        return read

    with _safetensors(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        tensors = {
            name: StoredTensor(
                tuple(part.get_shape()),
                _SAFETENSORS_TYPES.get(part.get_dtype(), part.get_dtype()),
                "cpu",
                reader(name),
            )
            for name, part in slices.items()
        }
        return Content(path, "safetensors", None, tensors, {}, {}, file.metadata() or {}, 0)


@contextmanager
def _safetensors(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except SafetensorError as error:
        raise CheckpointError(
            f"{path.name} is damaged or truncated: {error}; copy or download it again"
        ) from error


_SAFETENSORS_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
