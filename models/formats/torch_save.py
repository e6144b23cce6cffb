"""The two containers of torch.save: a zip archive since torch 1.6, a stream of pickles before ("legacy").

In the archive every storage of numbers is an entry of its own; in the stream they follow the pickles, each after its
length. Every size that a file announces is compared with the bytes that are there before memory is taken for it.
"""

import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.errors import CheckpointError
from models.formats.content import Content, Scalar, StoredTensor, item_size
from models.formats.pickles import (
    MAX_BYTES,
    Budget,
    Name,
    Object,
    Pickle,
    TensorView,
    read_pickle,
)

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_MAX_PARTS = 1_000_000
"""Most things that are looked at to list what a file holds; the tutorial's hold 3,000, its vocabulary 10,000."""
_MAX_DEPTH = 40
_MAX_NAME = 300
_MAX_DIRECTORY = 8 << 20
"""Longest directory of a zip archive, in bytes; the tutorial's have 60 kB."""
_MODULE_PARTS = ("_parameters", "_buffers", "_modules")


class _Place(NamedTuple):
    """Where a storage's numbers lie in the file."""

    start: int
    length: int
    crc: int | None
    """The zip archive's checksum; streams have none."""


def open_zip(path: Path) -> Content:
    """Takes a zip archive apart.

    Args:
        path: a file that starts as zip archives do.

    Returns:
        What it holds. A pickle that is damaged or asks for what no checkpoint needs is a `PickleError`.

    Raises:
        CheckpointError: if it is damaged, compressed, no archive of torch.save, or a program (TorchScript).
    """
    if _directory_bytes(path) > _MAX_DIRECTORY:
        raise CheckpointError(
            f"{path.name} is a zip archive with far more entries than a checkpoint has; it is refused"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            folder = _folder_of_pickle(path, entries)
            data = archive.read(f"{folder}data.pkl")
            byteorder = f"{folder}byteorder"
            is_little = byteorder not in archive.NameToInfo or archive.read(byteorder).strip() == b"little"
        places = dict(_places_in_zip(path, entries, f"{folder}data/"))
    except CheckpointError:
        raise
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        struct.error,
    ) as error:
        raise CheckpointError(_damaged(path, str(error)[:80])) from error
    if not is_little:
        raise CheckpointError(f"{path.name} was written on a big-endian machine; save it again on another")
    return _take_apart(
        path, "zip archive of torch.save (torch 1.6 or later)", read_pickle(data, Budget()), places
    )


def _directory_bytes(path: Path) -> int:
    """What the archive's last bytes say of the size of its directory, 0 if nothing (APPNOTE 4.3.14, 4.3.16)."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 16) - 22))
        tail = file.read()
    found = [0]
    for magic, place, size in ((b"PK\x05\x06", 12, "<I"), (b"PK\x06\x06", 40, "<Q")):
        at = tail.rfind(magic)
        if at >= 0 and at + place + struct.calcsize(size) <= len(tail):
            found.append(struct.unpack_from(size, tail, at + place)[0])
    return max(size for size in found if size != 0xFFFFFFFF)


def _damaged(path: Path, how: str) -> str:
    return f"{path.name} is damaged or cut off ({how}); copy or download it again"


def _folder_of_pickle(path: Path, entries: Sequence[zipfile.ZipInfo]) -> str:
    """The folder inside the archive that holds data.pkl, after checking that torch.save can have written it."""
    sizes = {entry.filename: entry.file_size for entry in entries}
    if len(sizes) != len(entries):
        raise CheckpointError(
            f"{path.name} is a zip archive that holds two entries of one name; it is refused"
        )
    size = path.stat().st_size
    for entry in entries:
        if entry.filename.startswith("/") or ".." in entry.filename.split("/") or "\\" in entry.filename:
            raise CheckpointError(
                f"{path.name} holds an entry that leads out of the archive, {entry.filename!r:.80}; it is refused"
            )
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise CheckpointError(
                f"{path.name} is a compressed zip archive, which torch.save never writes; unpack it and give the "
                "checkpoint that is inside"
            )
        if entry.header_offset + entry.file_size > size:
            raise CheckpointError(_damaged(path, f"it announces {entry.file_size:,} bytes in one entry"))
    folders = [
        name.removesuffix("data.pkl") for name in sizes if name == "data.pkl" or name.endswith("/data.pkl")
    ]
    if any(f"{folder}constants.pkl" in sizes for folder in folders):
        raise CheckpointError(
            f"{path.name} is a TorchScript archive, a program; give the checkpoint that training wrote with torch.save"
        )
    if len(folders) != 1:
        raise CheckpointError(
            f"{path.name} is a zip archive, but not one of torch.save: it holds no data.pkl"
        )
    if sizes[f"{folders[0]}data.pkl"] > MAX_BYTES:
        raise CheckpointError(f"{path.name} has a pickle of more than {MAX_BYTES:,} bytes; it is refused")
    return folders[0]


def _places_in_zip(
    path: Path, entries: Sequence[zipfile.ZipInfo], folder: str
) -> Iterator[tuple[str, _Place]]:
    with path.open("rb") as file:
        for entry in entries:
            if entry.filename.startswith(folder):
                file.seek(entry.header_offset + _ZIP_LENGTHS_AT)
                name, extra = struct.unpack("<HH", file.read(4))
                start = entry.header_offset + _ZIP_LENGTHS_AT + 4 + name + extra
                yield entry.filename.removeprefix(folder), _Place(start, entry.file_size, entry.CRC)


_ZIP_LENGTHS_AT = 26
"""Where a local header says how long its name and its extra field are (PKWARE APPNOTE 4.3.7)."""


def open_legacy(path: Path) -> Content:
    """Takes a stream of pickles apart.

    Args:
        path: a file that starts as pickles do.

    Returns:
        What it holds. A pickle that is damaged or asks for what no checkpoint needs is a `PickleError`.

    Raises:
        CheckpointError: if it is damaged, cut off, or some other pickle.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES)
    budget = Budget()
    magic = read_pickle(data, budget)
    if magic.value != _LEGACY_MAGIC:
        raise CheckpointError(
            f"{path.name} is a Python pickle, but not one of torch.save; nothing in it was run"
        )
    version = read_pickle(data, budget, magic.end)
    if version.value != _LEGACY_VERSION:
        raise CheckpointError(
            f"{path.name} is a stream of torch.save of an unknown version; save it with torch 1.6"
        )
    system = read_pickle(data, budget, version.end)
    if isinstance(system.value, dict) and system.value.get("little_endian") is False:
        raise CheckpointError(f"{path.name} was written on a big-endian machine; save it again on another")
    pickle = read_pickle(data, budget, system.end)
    keys = read_pickle(data, budget, pickle.end)
    if not isinstance(keys.value, list) or not all(isinstance(key, str | int) for key in keys.value):
        raise CheckpointError(_damaged(path, "its list of storages is not a list of keys"))
    places = dict(_places_in_stream(path, [str(key) for key in keys.value], pickle, keys.end))
    return _take_apart(path, "legacy stream of torch.save (torch 1.5 or earlier)", pickle, places)


def _places_in_stream(
    path: Path, keys: Sequence[str], pickle: Pickle, start: int
) -> Iterator[tuple[str, _Place]]:
    """Each storage is its number of items in eight bytes, then the items."""
    size = path.stat().st_size
    with path.open("rb") as file:
        for key in keys:
            file.seek(start)
            header = file.read(8)
            if key not in pickle.storages or len(header) < 8:
                raise CheckpointError(_damaged(path, f"at storage {key[:40]!r}"))
            length = struct.unpack("<q", header)[0] * item_size(pickle.storages[key].dtype)
            if not 0 <= length <= size - start - 8:
                raise CheckpointError(
                    _damaged(path, f"it announces {length:,} bytes of numbers in one place")
                )
            yield key, _Place(start + 8, length, None)
            start += 8 + length


class _Storages:
    """The numbers of a file; each storage is read at most once."""

    def __init__(self, path: Path, places: Mapping[str, _Place]) -> None:
        self.path = path
        self.places = places
        self._read: dict[str, bytearray] = {}

    def check(self, view: TensorView, name: str) -> None:
        """Compares what a tensor announces with the bytes that are there; raises CheckpointError."""
        place, item = self.places.get(view.storage.key), item_size(view.dtype)
        count = math.prod(view.shape)
        last = view.offset + sum((n - 1) * s for n, s in zip(view.shape, view.stride, strict=True))
        if place is None:
            problem = "has no numbers in the file"
        elif count * item > place.length:
            problem = f"announces {count:,} numbers, but its storage holds {place.length // item:,}"
        elif count and (last + 1) * item > place.length:
            problem = "reaches beyond its storage"
        else:
            return
        raise CheckpointError(
            f"{self.path.name}: tensor {name[:120]} {problem}; the file is damaged or forged"
        )

    def tensor(self, view: TensorView) -> Tensor:
        """The numbers of a view that `check` has passed; only to be read, as other tensors may share them."""
        kind = getattr(torch, view.dtype)
        if 0 in view.shape:
            return torch.empty(view.shape, dtype=kind)
        buffer = self._read.get(view.storage.key)
        if buffer is None:
            buffer = self._read[view.storage.key] = self._storage(self.places[view.storage.key])
        items = torch.frombuffer(buffer, dtype=kind, count=len(buffer) // kind.itemsize)
        return items.as_strided(view.shape, view.stride, view.offset).contiguous()

    def _storage(self, place: _Place) -> bytearray:
        buffer = bytearray(place.length)
        with self.path.open("rb") as file:
            file.seek(place.start)
            if file.readinto(buffer) < place.length or place.crc not in (None, zlib.crc32(buffer)):
                raise CheckpointError(_damaged(self.path, "numbers do not match their checksum"))
        return buffer


def _take_apart(path: Path, container: str, pickle: Pickle, places: Mapping[str, _Place]) -> Content:
    """Lists what a pickled value holds by dotted path, modules as their state dicts do, without optimizers."""
    storages = _Storages(path, places)
    tensors: dict[str, StoredTensor] = {}
    values: dict[str, Scalar] = {}
    objects: dict[str, Object] = {}
    parts = 0
    todo: list[tuple[str, Any, int]] = [("", pickle.value, 0)]
    while todo:
        name, part, depth = todo.pop()
        parts += 1 + (len(part) if isinstance(part, dict | list | tuple) else 0)
        if parts > _MAX_PARTS or depth > _MAX_DEPTH or len(name) > _MAX_NAME:
            raise CheckpointError(
                f"{path.name} holds more parts, deeper down, than a captioner has; it is refused"
            )
        if isinstance(part, TensorView):
            storages.check(part, name)
            tensors[name] = StoredTensor(
                part.shape, part.dtype, part.storage.location, partial(storages.tensor, part)
            )
        elif isinstance(part, str | int | float | None):
            values[name] = part
        elif isinstance(part, Object) and not part.kind.module.startswith("torch.optim"):
            if not part.kind.module.startswith(("torch.", "torchvision.")):
                objects[name] = part
            parts += len(part.attributes)
            todo.extend((_join(name, key), value, depth + 1) for key, value in _attributes(part))
        elif isinstance(part, dict) and "param_groups" not in part and not _is_word_list(part):
            named = ((key, value) for key, value in part.items() if isinstance(key, str | int))
            todo.extend((_join(name, key), value, depth + 1) for key, value in named)
        elif isinstance(part, list | tuple) and not isinstance(part, Name) and len(part) <= _MAX_DEPTH:
            todo.extend((_join(name, index), value, depth + 1) for index, value in enumerate(part))
    return Content(path, container, pickle.value, tensors, values, objects, {}, pickle.sources)


def _join(name: str, key: str | int) -> str:
    joined = f"{name}.{key}" if name else str(key)
    return joined[: _MAX_NAME + 1]  # longer ones are refused when their turn comes


def _attributes(part: Object) -> Iterator[tuple[str, Any]]:
    """An instance's attributes; those of a module as its state dict names them."""
    for key, value in part.attributes.items():
        if key in _MODULE_PARTS and isinstance(value, dict):
            yield from ((str(name), item) for name, item in value.items())
        elif not key.startswith("_"):
            yield key, value


def _is_word_list(part: dict[Any, Any]) -> bool:
    """Whether a dictionary maps words to numbers or numbers to words, not names to parts of a model."""
    return len(part) > 3 and (
        all(type(value) is int for value in part.values())
        or all(type(key) is int and isinstance(value, str) for key, value in part.items())
    )
