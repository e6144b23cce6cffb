"""The native checkpoint: one safetensors file whose header also holds everything that is not a tensor, as JSON.

Nothing in such a file can be executed: safetensors is a header and raw numbers, and the JSON is checked field by field.
"""

import errno
import json
import math
import os
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from models.captioner import MAX_STEPS, Captioner
from models.decoder import DecoderConfig
from models.encoder import EncoderConfig
from models.errors import CheckpointError
from models.formats.assembly import Checkpoint, assemble
from models.formats.content import Content
from models.formats.limits import memory_limit
from models.preprocessing import Preprocessing
from models.vocabulary import Vocabulary

FORMAT_VERSION = 1
STATE = "state."
"""How the names begin of tensors that only training goes on from."""
_KEY = "gazebench"
_LIMITS = {"grid": 64, "size": 2048, "max_steps": 1000, "initial_layers": 8, "attention_layers": 8}
"""Largest values of the fields that cost memory without a tensor in the file to vouch for them."""
_LARGEST_DIM = 2**20
"""Largest value of any other whole number."""

T = TypeVar("T")


def recognise(content: Content) -> bool:
    """Whether the header of a safetensors file holds our description."""
    return _KEY in content.metadata


def save_native(
    captioner: Captioner, path: Path, *, training: dict[str, Any], state: Mapping[str, Tensor] | None = None
) -> None:
    """Writes a checkpoint, whole or not at all.

    Args:
        captioner: what to save.
        path: where; replaced if it exists.
        training: how it was trained, as JSON values.
        state: what only training goes on from, by name: the optimizer's numbers. `load` passes over it.

    Raises:
        OSError: if it can't be written.
    """
    about = {
        "format_version": FORMAT_VERSION,
        "encoder": asdict(captioner.encoder_config),
        "decoder": asdict(captioner.decoder.config),
        "preprocessing": asdict(captioner.preprocessing),
        "max_steps": captioner.max_steps,
        "vocabulary": {
            "words": captioner.vocabulary.words,
            **{role: getattr(captioner.vocabulary, role) for role in ("pad", "start", "end", "unk")},
        },
        "training": training,
    }
    tensors = captioner.state_dict() | {STATE + name: tensor for name, tensor in (state or {}).items()}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {_KEY: json.dumps(about, allow_nan=False, sort_keys=True)}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    try:
        save_file(plain, unfinished, metadata=metadata)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.chmod(0o644)  # the library makes it private
        unfinished.replace(path)
    except SafetensorError as error:  # the disk is full, or can't be written to
        code = errno.ENOSPC if f"os error {errno.ENOSPC}" in str(error) else errno.EIO
        raise OSError(code, os.strerror(code), str(path)) from error
    finally:
        unfinished.unlink(missing_ok=True)


def load(content: Content, word_map: Path | None, encoder_weights: str | None) -> Checkpoint:  # noqa: ARG001
    """Reads a checkpoint.

    Args:
        content: a file written by `save_native`.
        word_map: must be None; a native checkpoint holds its words.
        encoder_weights: of no use; a native checkpoint holds its encoder.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: if the file is of a newer version, inconsistent, or a word map was given.
    """
    path = content.path
    if word_map is not None:
        raise CheckpointError(f"{path.name} holds its own words; leave --word-map out")
    about = _about(path, content.metadata)
    captioner = assemble(
        content,
        {name: tensor for name, tensor in content.tensors.items() if not name.startswith(STATE)},
        encoder=_checked(path, EncoderConfig, about.get("encoder")),
        decoder=_checked(path, DecoderConfig, about.get("decoder")),
        preprocessing=_checked(path, Preprocessing, about.get("preprocessing")),
        vocabulary=_vocabulary(path, about.get("vocabulary")),
        max_steps=_max_steps(path, about.get("max_steps", MAX_STEPS)),
    )
    training = about.get("training", {})
    training = training if isinstance(training, dict) else {}
    origin = "gazebench convert" if "layout" in training else "gazebench train"
    return Checkpoint(captioner, "native", content.container, origin, (), (), training)


def _about(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        with memory_limit(path.name):
            about = json.loads(metadata[_KEY])
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path.name}: the description in its header is not JSON: {error}") from error
    version = about.get("format_version") if isinstance(about, dict) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path.name} has format version {version!r}; this gazebench reads version {FORMAT_VERSION}: upgrade it"
        )
    assert isinstance(about, dict)
    return about


def _max_steps(path: Path, value: object) -> int:
    if type(value) is not int or not 1 <= value <= _LIMITS["max_steps"]:
        raise CheckpointError(f"{path.name}: max_steps can't be {value!r:.80}")
    return value


def _vocabulary(path: Path, value: object) -> Vocabulary:
    if not isinstance(value, dict) or not isinstance(value.get("words"), list):
        raise CheckpointError(f"{path.name}: the vocabulary is missing or not a list of words")
    ids: dict[str, Any] = {role: value.get(role) for role in ("pad", "start", "end", "unk")}
    if not all(isinstance(word, str) for word in value["words"]) or not all(
        isinstance(i, int) or (i is None and role == "unk") for role, i in ids.items()
    ):
        raise CheckpointError(
            f"{path.name}: the vocabulary needs words as text and special tokens as numbers"
        )
    return Vocabulary(tuple(value["words"]), **ids)


def _checked(path: Path, kind: type[T], value: object) -> T:
    """A configuration dataclass from JSON: every field known, of its type, in its range."""
    if not isinstance(value, dict):
        raise CheckpointError(f"{path.name}: the {kind.__name__} part is missing")
    types = get_type_hints(kind)
    required = {f.name for f in fields(kind) if f.default is MISSING}  # type: ignore[arg-type]
    unknown, missing = sorted(value.keys() - types.keys()), sorted(required - value.keys())
    if unknown or missing:
        raise CheckpointError(
            f"{path.name}: {kind.__name__} has unknown fields {unknown} and lacks {missing}"
        )
    converted = {}
    for name, given in value.items():
        converted[name] = _value(types[name], given)
        too_large = (
            types[name] is int and converted[name] is not None and given > _LIMITS.get(name, _LARGEST_DIM)
        )
        if converted[name] is None or too_large:
            raise CheckpointError(f"{path.name}: {kind.__name__}.{name} can't be {given!r:.80}")
    return kind(**converted)


def _value(kind: Any, given: object) -> Any:
    """`given` as a value of the field's type, or None if it can't be one."""
    if get_origin(kind) is Literal:
        return given if given in get_args(kind) else None
    if get_origin(kind) is tuple:
        parts = [_value(float, part) for part in given] if isinstance(given, list) else []
        return tuple(parts) if len(parts) == len(get_args(kind)) and None not in parts else None
    if kind is int:
        return given if isinstance(given, int) and not isinstance(given, bool) and given >= 1 else None
    if kind is float:
        if isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given):
            return float(given)
        return None
    return given if isinstance(given, str) else None
