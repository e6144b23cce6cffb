"""Which ResNet is this? Recognised from the shapes of its tensors; its tensors under our names.

Captioning projects cut torchvision's classifier off and keep the rest, either as it was (`conv1`, `layer3.5.conv2`) or
as a list of its children (`0`, `6.5.conv2`). He et al. 2015 (arXiv:1512.03385), table 1, has the plain ones.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from models.encoder import RESNET_CHILDREN
from models.errors import CheckpointError
from models.formats.containers import open_content
from models.formats.content import Content, StoredTensor, check_size


class Trunk(NamedTuple):
    """An encoder for a decoder that was found."""

    name: str
    """A key of `models.encoder.ENCODERS`."""
    tensors: dict[str, StoredTensor]
    """Under our names; empty if torchvision brings them."""
    torchvision_weights: str | None
    """Name of torchvision's weights, where they are to be used."""


def trunk_or_weights(content: Content, encoder_weights: str | None, annotation_dim: int, usual: str) -> Trunk:
    """The encoder inside a file, or else the one that the user names; one inside is never replaced.

    Args:
        content: the file.
        encoder_weights: a file, or torchvision's name of weights; None if the user named none.
        annotation_dim: length of the annotation vectors that the decoder reads.
        usual: the trunk that the layout's program uses.

    Returns:
        The trunk.

    Raises:
        CheckpointError: if there is none, or it is no ResNet.
    """
    name = content.path.name
    found = find_trunk(name, content.tensors)
    if encoder_weights is not None and Path(encoder_weights).suffix and not Path(encoder_weights).is_file():
        raise CheckpointError(
            f"--encoder-weights {encoder_weights} is no file, and no name of torchvision's weights"
        )
    if found is None and encoder_weights is not None and Path(encoder_weights).is_file():
        given = open_content(Path(encoder_weights))
        found = find_trunk(given.path.name, given.tensors)
        if found is None:
            raise CheckpointError(
                f"--encoder-weights {encoder_weights} holds no ResNet that could encode for {name}"
            )
        check_size(given, found[1].values())
    if found is not None:
        return Trunk(found[0], {f"encoder.{key}": tensor for key, tensor in found[1].items()}, None)
    if encoder_weights is None:
        raise CheckpointError(
            f"{name} holds no encoder; name the one it was trained with: --encoder-weights FILE, or torchvision's name "
            "of ImageNet weights (IMAGENET1K_V1 for most projects)"
        )
    if annotation_dim != _USUAL_DIM:
        raise CheckpointError(
            f"{name} holds no encoder, and its decoder reads vectors of {annotation_dim} numbers, where {usual} gives "
            f"{_USUAL_DIM}; give the encoder's weights with --encoder-weights FILE"
        )
    return Trunk(usual, {}, encoder_weights)


_USUAL_DIM = 2048

# Blocks of each stage, and the shape of the second convolution of the first block, which tells width and groups.
_RESNETS: dict[tuple[tuple[int, ...], tuple[int, ...]], str] = {
    ((2, 2, 2, 2), (64, 64)): "resnet18",
    ((3, 4, 6, 3), (64, 64)): "resnet34",  # and resnet50, which has a third convolution in each block
    ((3, 4, 23, 3), (64, 64)): "resnet101",
    ((3, 8, 36, 3), (64, 64)): "resnet152",
    ((3, 4, 6, 3), (128, 128)): "wide_resnet50_2",
    ((3, 4, 23, 3), (128, 128)): "wide_resnet101_2",
    ((3, 4, 6, 3), (128, 4)): "resnext50_32x4d",
    ((3, 4, 23, 3), (256, 8)): "resnext101_32x8d",
    ((3, 4, 23, 3), (256, 4)): "resnext101_64x4d",
}
_STEM = (64, 3, 7, 7)


def find_trunk(file: str, tensors: Mapping[str, StoredTensor]) -> tuple[str, dict[str, StoredTensor]] | None:
    """Looks for a ResNet trunk among a file's tensors.

    Args:
        file: the file's name, for messages.
        tensors: all tensors of the file, by dotted path.

    Returns:
        The name of its architecture, a key of `models.encoder.ENCODERS`, and its tensors under the names they have in a
        `TrunkEncoder`; None if there is no ResNet. A classifier is left out.

    Raises:
        CheckpointError: if there are two, or one of an unknown depth.
    """
    stems = [
        match.group(1)
        for path, tensor in tensors.items()
        if tensor.shape == _STEM and (match := re.fullmatch(r"(|.*\.)(?:0|conv1)\.weight", path, re.DOTALL))
    ]
    if not stems:
        return None
    if len(stems) > 1:
        raise CheckpointError(
            f"{file} holds {len(stems)} ResNets, at {', '.join(map(repr, stems))[:120]}; expected one"
        )
    trunk: dict[str, StoredTensor] = {}
    for path, tensor in tensors.items():
        if path.startswith(stems[0]):
            child, _, rest = path.removeprefix(stems[0]).partition(".")
            child = RESNET_CHILDREN.get(child, child)
            if child in RESNET_CHILDREN.values():
                trunk[f"trunk.{child}.{rest}"] = tensor
    blocks = tuple(
        len({path.split(".")[2] for path in trunk if path.startswith(f"trunk.{stage}.")}) for stage in "4567"
    )
    second = trunk.get("trunk.4.0.conv2.weight")
    name = _RESNETS.get((blocks, second.shape[:2])) if second is not None else None
    if name == "resnet34" and "trunk.4.0.conv3.weight" in trunk:
        name = "resnet50"
    if name is None:
        raise CheckpointError(
            f"{file} holds a ResNet with {blocks} blocks, which is none that torchvision has; "
            f"known ones: resnet50, {', '.join(_RESNETS.values())}"
        )
    return name, trunk
