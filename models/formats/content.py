"""What a checkpoint file holds, whatever its container and layout."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.errors import CheckpointError
from models.formats.pickles import Object

Scalar = str | int | float | bool | None


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor that lies in a file: what is known of it before its numbers are read."""

    shape: tuple[int, ...]
    dtype: str
    location: str
    """The device it was saved from."""
    read: Callable[[], Tensor]
    """Reads it, on the CPU, only to be copied from; raises CheckpointError if the file holds fewer numbers."""

    @property
    def bytes(self) -> int:
        """Its size in memory."""
        return math.prod(self.shape) * item_size(self.dtype)


@dataclass(frozen=True)
class Content:
    """A checkpoint file, taken apart."""

    path: Path
    container: str
    root: Any
    """The pickled value; None for safetensors."""
    tensors: Mapping[str, StoredTensor]
    """By dotted path, a module's as in its state dict; those of optimizers are left out."""
    values: Mapping[str, Scalar]
    """Numbers and texts beside the tensors, by dotted path."""
    objects: Mapping[str, Object]
    """Instances of an author's classes, by dotted path."""
    metadata: Mapping[str, str]
    """Of safetensors."""
    sources: int
    """How many classes' source text the file carries; never looked at."""


def item_size(dtype: str) -> int:
    """Bytes of one number of a type, by torch's name for it; 1 for types that torch doesn't have."""
    kind = getattr(torch, dtype, None)
    return kind.itemsize if isinstance(kind, torch.dtype) else 1


def check_size(content: Content, tensors: Collection[StoredTensor]) -> None:
    """Makes sure that tensors which share their numbers don't take far more memory than their file.

    Args:
        content: the file.
        tensors: those of the file that will be read.

    Raises:
        CheckpointError: if they take more than twice the file's size; tied weights take a little more than once.
    """
    announced, size = sum(tensor.bytes for tensor in tensors), content.path.stat().st_size
    if announced > 2 * size:
        raise CheckpointError(
            f"{content.path.name} announces {announced:,} bytes of numbers but has only {size:,}; "
            "it is damaged or forged"
        )
