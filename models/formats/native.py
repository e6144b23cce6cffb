"""The native checkpoint: one safetensors file whose header also holds everything that is not a tensor, as JSON.

Nothing in such a file can be executed: safetensors is a header and raw numbers, and the JSON is checked field by field.
"""

import json
import math
import struct
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch.overrides import TorchFunctionMode

from models.captioner import Captioner
from models.decoder import DecoderConfig
from models.encoder import EncoderConfig
from models.errors import CheckpointError
from models.preprocessing import Preprocessing
from models.vocabulary import Vocabulary

FORMAT_VERSION = 1
_KEY = "gazebench"
_MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit
_LIMITS = {"grid": 64, "size": 2048}
"""Largest values of the fields that cost memory without a tensor in the file to vouch for them."""
_LARGEST_DIM = 2**20
"""Largest value of any other whole number."""

T = TypeVar("T")


def recognise(path: Path) -> bool:
    """Whether a file starts as safetensors does: eight bytes of header length, then a JSON object."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and struct.unpack("<Q", start[:8])[0] <= _MAX_HEADER_BYTES


def save_native(captioner: Captioner, path: Path, *, training: dict[str, Any]) -> None:
    """Writes a checkpoint, whole or not at all.

    Args:
        captioner: what to save.
        path: where; replaced if it exists.
        training: how it was trained, as JSON values.
    """
    about = {
        "format_version": FORMAT_VERSION,
        "encoder": asdict(captioner.encoder_config),
        "decoder": asdict(captioner.decoder.config),
        "preprocessing": asdict(captioner.preprocessing),
        "vocabulary": {
            "words": captioner.vocabulary.words,
            **{role: getattr(captioner.vocabulary, role) for role in ("pad", "start", "end", "unk")},
        },
        "training": training,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in captioner.state_dict().items()}
    metadata = {_KEY: json.dumps(about, allow_nan=False, sort_keys=True)}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_bytes(save(tensors, metadata=metadata))
    unfinished.replace(path)


def load_native(path: Path) -> tuple[Captioner, dict[str, Any]]:
    """Reads a checkpoint.

    Args:
        path: a file written by `save_native`.

    Returns:
        The captioner, on the CPU, in eval mode, and how it was trained.

    Raises:
        CheckpointError: if the file is damaged, of a newer version, not a captioner, or inconsistent.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            about = _about(path, file.metadata())
            names = list(file.keys())
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            captioner = _build(path, about, shapes)
            tensors = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise CheckpointError(
            f"{path.name} is damaged or truncated: {error}; copy or download it again"
        ) from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{path.name}: tensor {name} holds values that are not finite; the model is broken"
            )
    captioner.load_state_dict(tensors)
    training = about.get("training", {})
    return captioner.eval(), training if isinstance(training, dict) else {}


def _about(path: Path, metadata: dict[str, str] | None) -> dict[str, Any]:
    if not metadata or _KEY not in metadata:
        raise CheckpointError(
            f"{path.name} is a safetensors file without a gazebench description; expected a file written by "
            "`gazebench train`, which holds the vocabulary and the configuration beside the weights"
        )
    try:
        about = json.loads(metadata[_KEY])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name}: the description in its header is not JSON: {error}") from error
    version = about.get("format_version") if isinstance(about, dict) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path.name} has format version {version!r}; this gazebench reads version {FORMAT_VERSION}: upgrade it"
        )
    assert isinstance(about, dict)
    return about


def _build(path: Path, about: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> Captioner:
    """Builds the captioner, after making sure that the file really holds tensors of the sizes it announces."""
    encoder = _checked(path, EncoderConfig, about.get("encoder"))
    decoder = _checked(path, DecoderConfig, about.get("decoder"))
    preprocessing = _checked(path, Preprocessing, about.get("preprocessing"))
    vocabulary = _vocabulary(path, about.get("vocabulary"))
    if len(vocabulary) != decoder.vocabulary_size:
        raise CheckpointError(
            f"{path.name}: the vocabulary has {len(vocabulary)} words "
            f"but the output layer {decoder.vocabulary_size} rows"
        )
    # On the meta device tensors have shapes only: nothing announced costs memory before it is verified.
    with torch.device("meta"), _Uninitialised():
        expected = {
            name: tuple(tensor.shape)
            for name, tensor in Captioner(encoder, decoder, vocabulary, preprocessing).state_dict().items()
        }
    for name in sorted(expected.keys() | shapes.keys()):
        if expected.get(name) != shapes.get(name):
            raise CheckpointError(
                f"{path.name}: tensor {name} has shape {shapes.get(name, 'none (it is missing)')}, "
                f"but the configuration calls for {expected.get(name, 'none (no such tensor)')}"
            )
    with _Uninitialised():
        return Captioner(encoder, decoder, vocabulary, preprocessing)


class _Uninitialised(TorchFunctionMode):
    """Skips the random initialisation of weights that are about to be replaced.

    It costs time, and on the meta device torch would load its compiler for it, which costs seconds.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return func(*args, **(kwargs or {}))


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
