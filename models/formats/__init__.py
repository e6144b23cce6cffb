"""Checkpoint files: each layout is one module, recognised from content."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.captioner import Captioner
from models.errors import CheckpointError
from models.formats import native


@dataclass(frozen=True)
class Format:
    """One checkpoint layout."""

    recognise: Callable[[Path], bool]
    """Whether a file is of this layout, judged by its first bytes."""
    load: Callable[[Path], tuple[Captioner, dict[str, Any]]]
    """The captioner, and how it was trained; raises CheckpointError."""


FORMATS: dict[str, Format] = {"native": Format(native.recognise, native.load_native)}
"""Name -> layout, in the order in which they are tried."""

# How files begin that people mistake for checkpoints; the message says what they are.
_MISTAKEN = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run `git lfs pull`",
    b"<!DOCTYPE": "a web page; the download went wrong",
    b"<html": "a web page; the download went wrong",
    b"PK\x03\x04": "a zip archive, perhaps of torch.save; this version reads .safetensors checkpoints",
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19": "written by torch.save; this version reads .safetensors checkpoints",
}


def load_captioner(path: Path) -> tuple[Captioner, dict[str, Any]]:
    """Loads a checkpoint of any known layout. Nothing in the file is executed.

    Args:
        path: the checkpoint.

    Returns:
        The captioner, on the CPU and in eval mode, and how it was trained as far as the file says.

    Raises:
        CheckpointError: if there is no such file, or it is not a usable checkpoint.
    """
    try:
        if not path.is_file():
            kind = "is a folder" if path.is_dir() else "does not exist"
            raise CheckpointError(
                f"checkpoint {path.absolute()} {kind}; give the path of a .safetensors file"
            )
        if path.stat().st_size == 0:
            raise CheckpointError(f"checkpoint {path.name} is empty (0 bytes); copy or download it again")
        for layout in FORMATS.values():
            if layout.recognise(path):
                return layout.load(path)
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} can't be read: {error.strerror}") from error
    for magic, what in _MISTAKEN.items():
        if start.startswith(magic):
            raise CheckpointError(f"checkpoint {path.name} is {what}")
    raise CheckpointError(
        f"checkpoint {path.name} is not of a known kind (it begins with {start[:12]!r}); "
        f"known kinds: {', '.join(FORMATS)}"
    )
