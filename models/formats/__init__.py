"""Checkpoint files: each layout is one module, recognised from content. Nothing in a file is ever executed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from models.errors import CheckpointError
from models.formats import mrfahrenhiet, native, sgrvinod
from models.formats.assembly import Checkpoint
from models.formats.containers import open_content
from models.formats.content import Content, check_size

__all__ = ["FORMATS", "Checkpoint", "checkpoint_file", "encoder_weights", "load_checkpoint"]

BEST = "best.safetensors"
"""The checkpoint of a training directory that stands for it."""


@dataclass(frozen=True)
class Format:
    """One checkpoint layout."""

    recognise: Callable[[Content], bool]
    """Whether a file is of this layout."""
    load: Callable[[Content, Path | None, str | None], Checkpoint]
    """From the content, a word map and encoder weights; raises CheckpointError."""


FORMATS: dict[str, Format] = {
    "native": Format(native.recognise, native.load),
    "sgrvinod": Format(sgrvinod.recognise, sgrvinod.load),
    "mrfahrenhiet": Format(mrfahrenhiet.recognise, mrfahrenhiet.load),
}
"""Name -> layout, in the order in which they are tried."""


def load_checkpoint(
    path: Path, *, word_map: Path | None = None, encoder_weights: str | None = None
) -> Checkpoint:
    """Loads a checkpoint of any known layout. Nothing in the file is executed or imported.

    Args:
        path: the checkpoint, or a training directory.
        word_map: the word map of a checkpoint that does not hold its words; None to look beside it.
        encoder_weights: a file of ResNet weights, or torchvision's name of them, used only for a checkpoint without an
            encoder.

    Returns:
        The captioner, and what is known of the file.

    Raises:
        CheckpointError: if there is no such file, or it is not a usable checkpoint.
    """
    path = checkpoint_file(path)
    content = open_content(path)
    for layout in FORMATS.values():
        if layout.recognise(content):
            return layout.load(content, word_map, encoder_weights)
    if not content.tensors:
        raise CheckpointError(f"{path.name} holds no tensors, so it is no checkpoint of a captioner")
    if content.container == "safetensors":
        raise CheckpointError(
            f"{path.name} is a safetensors file without a gazebench description or a decoder of a known layout; "
            "expected a file written by `gazebench train` or `gazebench convert`"
        )
    names = sorted(content.tensors)
    some = ", ".join(names[:: max(1, len(names) // 4)][:4])
    raise CheckpointError(
        f"{path.name} holds {len(names)} tensors ({some:.150}), but no decoder of a known layout; known layouts: "
        f"{', '.join(FORMATS)}"
    )


def checkpoint_file(path: Path) -> Path:
    """The file that a checkpoint is in.

    Args:
        path: a checkpoint, or a directory that `gazebench train` has written.

    Returns:
        Of such a directory, its best checkpoint; anything else, as it is.
    """
    try:
        return path / BEST if (path / BEST).is_file() else path
    except OSError:  # a name that no file can have; opening it says so
        return path


def encoder_weights(path: Path) -> dict[str, Tensor]:
    """Reads the weights of an encoder, saved as torchvision saves them or as safetensors; nothing is executed.

    Args:
        path: a state dict.

    Returns:
        Its tensors by name.

    Raises:
        CheckpointError: if it can't be read, or holds numbers that are not finite.
    """
    content = open_content(path)
    check_size(content, content.tensors.values())
    tensors = {name: tensor.read() for name, tensor in content.tensors.items()}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path.name}: tensor {name} holds values that are not finite")
    return tensors
