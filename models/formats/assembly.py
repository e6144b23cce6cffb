"""From the tensors and settings that a file announces to a captioner, after everything has been checked."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.overrides import TorchFunctionMode

from models.captioner import Captioner
from models.decoder import DecoderConfig
from models.encoder import EncoderConfig
from models.errors import CheckpointError, one_line
from models.formats.content import Content, StoredTensor, check_size
from models.preprocessing import Preprocessing
from models.vocabulary import Vocabulary

_FLOATS = ("float32", "float64", "float16", "bfloat16")
_COUNTER = "num_batches_tracked"
"""Of batch normalisation; files of torch 0.4.0 and before lack it, and only training reads it."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file, read."""

    captioner: Captioner
    """On the CPU, in eval mode."""
    layout: str
    """A key of `models.formats.FORMATS`."""
    container: str
    """How the file keeps its numbers."""
    origin: str
    """Whose program writes such files."""
    notes: tuple[str, ...]
    """What is unusual about it, one sentence each."""
    warnings: tuple[str, ...]
    """Why its captions may be wrong."""
    training: dict[str, Any]
    """How it was trained, as far as the file says."""


def assemble(
    content: Content,
    tensors: Mapping[str, StoredTensor],
    *,
    encoder: EncoderConfig,
    decoder: DecoderConfig,
    vocabulary: Vocabulary,
    preprocessing: Preprocessing,
    max_steps: int,
    encoder_weights: str | None = None,
) -> Captioner:
    """Builds a captioner and fills it with a file's weights.

    Args:
        content: the file.
        tensors: its tensors under the names that our modules give them.
        encoder: which encoder.
        decoder: the decoder's switchboard.
        vocabulary: its words.
        preprocessing: how pictures become its input.
        max_steps: longest caption, in steps, that its own program decodes.
        encoder_weights: torchvision's name of weights for the encoder, where the file holds none.

    Returns:
        The captioner, on the CPU, in eval mode, in float32.

    Raises:
        CheckpointError: if vocabulary and output layer differ in size, a tensor is missing, left over, of another
            shape, larger than the file, not of floating-point numbers where those are expected, or not finite.
    """
    name = content.path.name
    if len(vocabulary) != decoder.vocabulary_size:
        raise CheckpointError(
            f"{name}: the vocabulary has {len(vocabulary)} words but the output layer {decoder.vocabulary_size} rows"
        )
    if not 0 <= decoder.dropout <= 1:
        raise CheckpointError(f"{name}: the decoder's dropout can't be {decoder.dropout}; expected 0 to 1")
    settings: tuple[Any, ...] = (encoder, decoder, vocabulary, preprocessing)
    # On the meta device tensors have shapes only: nothing announced costs memory before it is verified.
    with torch.device("meta"), Uninitialised():
        planned = Captioner(*settings)
    if planned.encoder.annotation_dim != decoder.annotation_dim:
        raise CheckpointError(
            f"{name}: its encoder, {encoder.name}, gives annotation vectors of {planned.encoder.annotation_dim} "
            f"numbers, but its decoder reads {decoder.annotation_dim}; they are not of one training"
        )
    expected = planned.state_dict()
    if encoder_weights is not None:
        expected = {key: tensor for key, tensor in expected.items() if not key.startswith("encoder.")}
    counters = {key for key in expected if key.endswith(_COUNTER)} - tensors.keys()
    for key in sorted((expected.keys() - counters) | tensors.keys()):
        shape = tuple(expected[key].shape) if key in expected else "none (no such tensor)"
        found = tensors[key].shape if key in tensors else "none (it is missing)"
        if shape != found:
            raise CheckpointError(
                f"{name}: tensor {key} has shape {found}, but the configuration calls for {shape}"
            )
        if (tensors[key].dtype in _FLOATS) == key.endswith(_COUNTER):
            raise CheckpointError(
                f"{name}: tensor {key} holds numbers of type {tensors[key].dtype}, which it can't"
            )
    check_size(content, set(tensors.values()) & set(content.tensors.values()))
    with Uninitialised():
        captioner = Captioner(*settings, encoder_weights=encoder_weights, max_steps=max_steps)
    weights = {key: tensor.read() for key, tensor in tensors.items()}
    for key, tensor in weights.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{name}: tensor {key} holds values that are not finite; the model is broken"
            )
    kept = captioner.state_dict() if encoder_weights is not None else {}
    captioner.load_state_dict(kept | weights | {key: torch.zeros((), dtype=torch.long) for key in counters})
    return captioner.eval()


def find_decoder(content: Content, marks: tuple[str, ...]) -> str | None:
    """Where in a file the decoder is.

    Args:
        content: the file.
        marks: names of tensors that a decoder of this layout holds, as in its own state dict.

    Returns:
        What stands before those names in the file, "" or ending in a dot; None if there is no such decoder.

    Raises:
        CheckpointError: if there are several.
    """
    roots = [path.removesuffix(marks[0]) for path in content.tensors if path.endswith(marks[0])]
    roots = [root for root in roots if all(root + mark in content.tensors for mark in marks)]
    roots = [root for root in roots if not root or root.endswith(".")]
    if len(roots) > 1:
        raise CheckpointError(
            f"{content.path.name} holds {len(roots)} decoders, at {', '.join(map(repr, roots))[:120]}; expected one"
        )
    return roots[0] if roots else None


def renamed(content: Content, root: str, names: Mapping[str, str]) -> dict[str, StoredTensor]:
    """A decoder's tensors under our names.

    Args:
        content: the file.
        root: from `find_decoder`.
        names: the layout's name of a module -> ours.

    Returns:
        By our name, as in a `Captioner`'s state dict.
    """
    found = {}
    for path, tensor in content.tensors.items():
        module, _, kind = path.removeprefix(root).rpartition(".")
        if path.startswith(root) and module in names:
            found[f"decoder.{names[module]}.{kind}"] = tensor
    return found


def decoder_config(
    file: str,
    tensors: Mapping[str, StoredTensor],
    *,
    attention_activation: Literal["tanh", "relu"],
    initial_state: Literal["linear", "tanh"],
    dropout: float,
) -> DecoderConfig:
    """The switchboard of a decoder with a plain output layer, every size read off its tensors.

    Args:
        file: the file's name, for messages.
        tensors: from `renamed`.
        attention_activation: as its program computes it.
        initial_state: as its program computes it.
        dropout: as it was trained, 0 to 1.

    Returns:
        The configuration. A tensor that should tell a size, but is missing or no matrix, is a `CheckpointError`.
    """

    def size(name: str, dimension: int) -> int:
        tensor = tensors.get(f"decoder.{name}.weight")
        if tensor is None or len(tensor.shape) != 2 or 0 in tensor.shape:
            shape = f"of shape {tensor.shape}" if tensor else "missing"
            raise CheckpointError(f"{file}: the decoder's {name} is {shape}; expected a matrix")
        return tensor.shape[dimension]

    gate: Literal["none", "scalar", "vector"] = "none"
    if "decoder.gate.weight" in tensors:
        gate = "scalar" if size("gate", 0) == 1 else "vector"
    return DecoderConfig(
        vocabulary_size=size("output", 0),
        annotation_dim=size("annotation_projection", 1),
        embedding_dim=size("embedding", 1),
        hidden_dim=size("output", 1),
        attention_dim=size("annotation_projection", 0),
        attention_activation=attention_activation,
        initial_state=initial_state,
        gate=gate,
        dropout=dropout,
    )


def peculiarities(content: Content, used: Mapping[str, StoredTensor]) -> list[str]:
    """What is unusual about a foreign file, one sentence each.

    Args:
        content: the file.
        used: the tensors that the captioner was made of.

    Returns:
        Sentences for `gazebench inspect`.
    """
    notes = []
    if content.sources:
        notes.append(f"it carries the source text of {content.sources} classes, which was not read")
    if devices := sorted({tensor.location[:20] for tensor in used.values() if tensor.location != "cpu"}):
        notes.append(f"saved from {', '.join(devices[:4])}; loaded on the CPU")
    if types := sorted({tensor.dtype for tensor in used.values() if tensor.dtype in _FLOATS[1:]}):
        notes.append(f"weights in {', '.join(types)}; computed in float32")
    if not any(name.endswith(_COUNTER) for name in used):
        notes.append("its batch normalisation has no step counters, as torch wrote it before 0.4.1")
    taken = set(used.values())
    if unused := [path for path, tensor in content.tensors.items() if tensor not in taken]:
        names = ", ".join(sorted(unused)[:4]) + (", …" if len(unused) > 4 else "")
        notes.append(f"{len(unused)} tensors play no part in captioning and were left out: {names}")
    return [one_line(note) for note in notes]


def facts(content: Content, keys: tuple[str, ...]) -> dict[str, Any]:
    """What a file says of its training: finite numbers and short texts.

    Args:
        content: the file.
        keys: what to look for.

    Returns:
        Those that it holds.
    """
    found = {key: content.values[key] for key in keys if key in content.values}
    return {
        key: one_line(value, 80) if isinstance(value, str) else value
        for key, value in found.items()
        if value is not None and (isinstance(value, str) or math.isfinite(value))
    }


class Uninitialised(TorchFunctionMode):
    """Skips the random initialisation of weights that are about to be replaced.

    It costs time, and on the meta device torch would load its compiler for it, which costs seconds.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return func(*args, **(kwargs or {}))
