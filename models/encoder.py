"""Encoders: from an image to a grid of annotation vectors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.errors import CheckpointError
from models.folding import FoldedTwin


@dataclass(frozen=True)
class EncoderConfig:
    """Which encoder, and how fine its grid is."""

    name: str
    """A key of `ENCODERS`."""
    grid: int = 14
    """Rows and columns of the annotation grid; a trunk whose own grid differs is pooled to this one."""


class SceneEncoder(nn.Module):
    """A small convolutional encoder for the drawn scenes: stride 8 in all, 31 pixels of sight per cell.

    A small field of view makes "this cell" mean "this place", which is what the explanation measures need.
    Fixed Fourier features of the cell's position are appended to each annotation vector, because a cell that
    sees 31 pixels can't know where it is, and relation words ("left of") need places. Each ReLU is a module
    of its own, so that attribution methods that hook modules reach all of them.
    """

    CHANNELS = 64
    FREQUENCIES = 4
    annotation_dim = CHANNELS + 4 * FREQUENCIES
    positions: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        c = self.CHANNELS
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, kernel_size=7, stride=4, padding=3),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, c, kernel_size=3, stride=2, padding=1),
            nn.BatchNorm2d(c),
            nn.ReLU(),
            nn.Conv2d(c, c, kernel_size=3, padding=1),
            nn.BatchNorm2d(c),
            nn.ReLU(),
        )
        self.register_buffer("positions", fourier_positions(config.grid, self.FREQUENCIES), persistent=False)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim rows cols"]:
        """Annotation vectors on the grid."""
        features = on_grid(self.layers(images), self.positions.shape[2])
        return torch.cat([features, self.positions.expand(features.shape[0], -1, -1, -1)], dim=1)


def fourier_positions(grid: int, frequencies: int) -> Float[Tensor, "1 dim rows cols"]:
    """Sines and cosines of the cell centres' coordinates, at 1/2, 1, 2, … periods across the image."""
    centres = (np.arange(grid) + 0.5) / grid
    axes = np.meshgrid(centres, centres, indexing="ij")  # y, then x
    waves = [
        wave(np.pi * 2**k * axis) for axis in axes for k in range(frequencies) for wave in (np.sin, np.cos)
    ]
    return torch.from_numpy(np.stack(waves)[None].astype(np.float32))


class TrunkEncoder(nn.Module):
    """A torchvision network without its pooling and classifier, its map pooled to the grid.

    The tutorial's 14 x 14 grid is an 8 x 8 map of ResNet-101 pooled *up*: it carries 8 x 8 cells' worth of sight.
    Without gradients, a folded copy of the trunk computes the same faster, unless `exact` is set.
    """

    exact: bool = False
    """Whether the trunk's own modules compute in any case, bit for bit as in the program that a checkpoint is from."""

    def __init__(self, config: EncoderConfig, trunk: nn.Module, annotation_dim: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.annotation_dim = annotation_dim
        self.name = config.name
        self.grid = config.grid
        self._folded = FoldedTwin(trunk)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim rows cols"]:
        """Annotation vectors on the grid."""
        return on_grid(self.trunk_map(images), self.grid)

    def trunk_map(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch dim rows cols"]:
        """The trunk's own map, before it is pooled to the grid."""
        features: Tensor
        if self.exact or self.training or torch.is_grad_enabled():
            features = self.trunk(images)
            return features
        device = images.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
        features = self._folded(images, dtype).float()
        return features

    def train(self, mode: bool = True) -> "TrunkEncoder":
        """Switches between training and evaluation, as `torch.nn.Module.train` does."""
        self._folded.forget()  # fused optimisers change weights without a trace
        return super().train(mode)


def on_grid(
    features: Float[Tensor, "batch dim height width"], grid: int
) -> Float[Tensor, "batch dim rows cols"]:
    """A map pooled to rows and columns of the annotation grid; means of what each cell covers."""
    if features.shape[2:] == (grid, grid):
        return features
    return nn.functional.adaptive_avg_pool2d(features, grid)


def _torchvision_model(name: str, weights: str | None) -> nn.Module:
    # Imported here because torchvision loads torch's compiler, seconds that the scene encoder need not wait for.
    from torchvision.models import get_model, get_model_weights

    known = get_model_weights(name).__members__
    if weights is not None and weights not in known:
        raise CheckpointError(
            f"there are no weights {weights!r} of {name}, neither a file nor one of torchvision's; "
            f"torchvision has {', '.join(known)}"
        )
    try:
        network: nn.Module = get_model(name, weights=weights)
    except (OSError, RuntimeError) as error:  # no network, or the file arrived damaged
        raise CheckpointError(
            f"the weights {weights!r} of {name} could not be downloaded ({error}); download them where there is a "
            "network, then give the file with --encoder-weights FILE"
        ) from error
    return network


def _resnet(name: str, annotation_dim: int) -> Callable[[EncoderConfig, str | None], nn.Module]:
    def build(config: EncoderConfig, weights: str | None) -> nn.Module:
        network = _torchvision_model(name, weights)
        return TrunkEncoder(config, nn.Sequential(*list(network.children())[:-2]), annotation_dim)

    return build


def _vgg19(config: EncoderConfig, weights: str | None) -> nn.Module:
    # Without the last max-pooling: 224 pixels give the paper's 14 x 14 x 512.
    features = _torchvision_model("vgg19", weights).get_submodule("features")
    return TrunkEncoder(config, nn.Sequential(*list(features.children())[:-1]), 512)


def _scenes(config: EncoderConfig, weights: str | None) -> nn.Module:
    if weights is not None:
        raise CheckpointError(f"the scene encoder has no published weights, but {weights!r} was asked for")
    return SceneEncoder(config)


ENCODERS: dict[str, Callable[[EncoderConfig, str | None], nn.Module]] = {
    "scenes": _scenes,
    "resnet18": _resnet("resnet18", 512),
    "resnet34": _resnet("resnet34", 512),
    "resnet50": _resnet("resnet50", 2048),
    "resnet101": _resnet("resnet101", 2048),
    "resnet152": _resnet("resnet152", 2048),
    "wide_resnet50_2": _resnet("wide_resnet50_2", 2048),
    "wide_resnet101_2": _resnet("wide_resnet101_2", 2048),
    "resnext50_32x4d": _resnet("resnext50_32x4d", 2048),
    "resnext101_32x8d": _resnet("resnext101_32x8d", 2048),
    "resnext101_64x4d": _resnet("resnext101_64x4d", 2048),
    "vgg19": _vgg19,
}
"""Name -> builder. A new encoder is one line here; its module needs `annotation_dim` and a (B, D, H_g, W_g) output."""


def build_encoder(config: EncoderConfig, *, weights: str | None = None) -> nn.Module:
    """Builds an encoder by name.

    Args:
        config: which one, and its grid.
        weights: a file of torchvision weights, or torchvision's name of them ("IMAGENET1K_V1", "DEFAULT"), which it
            downloads on first use; None for random initialisation. A checkpoint's own weights replace either.

    Returns:
        A module from (B, 3, H, W) to (B, D, H_g, W_g) with the attribute `annotation_dim`.

    Raises:
        CheckpointError: if no encoder has this name, or the weights can't be had or are another network's.
    """
    if config.name not in ENCODERS:
        raise CheckpointError(f"there is no encoder {config.name!r}; known encoders: {', '.join(ENCODERS)}")
    if weights is None or not Path(weights).is_file():
        return ENCODERS[config.name](config, weights)
    from models.formats import encoder_weights

    encoder = ENCODERS[config.name](config, None)
    load_trunk(encoder, encoder_weights(Path(weights)))
    return encoder


RESNET_CHILDREN = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
"""torchvision's names of a ResNet's children -> their places in a list of them, which are the trunk's names."""


def load_trunk(encoder: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Fills an encoder's trunk with a network's weights.

    Args:
        encoder: from `build_encoder`.
        tensors: the network's state dict as torchvision names it; its classifier is passed over, and so are missing
            counters of batch normalisation, which only training reads.

    Raises:
        CheckpointError: if they are the weights of another network.
    """
    if not isinstance(encoder, TrunkEncoder):
        raise CheckpointError("the scene encoder has no published weights; leave --encoder-weights out")
    trunk = {}
    for path, tensor in tensors.items():
        child, _, rest = path.partition(".")
        if child in RESNET_CHILDREN:
            trunk[f"{RESNET_CHILDREN[child]}.{rest}"] = tensor
        elif child == "features":
            trunk[rest] = tensor
    if _shapes(trunk) != _shapes(encoder.trunk.state_dict()):
        raise CheckpointError(
            f"the encoder weights are those of {_whose(trunk)}, but the model's encoder is {encoder.name}; "
            f"give weights of {encoder.name}"
        )
    encoder.trunk.load_state_dict(trunk, strict=False)  # all but the counters has been compared


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {
        name: tensor.shape for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")
    }


def _whose(trunk: Mapping[str, Tensor]) -> str:
    """The encoder that has such a trunk."""
    for name in ENCODERS:
        with torch.device("meta"):  # shapes without numbers
            encoder = build_encoder(EncoderConfig(name))
        if isinstance(encoder, TrunkEncoder) and _shapes(encoder.trunk.state_dict()) == _shapes(trunk):
            return name
    return "a network that is none of the known encoders"
