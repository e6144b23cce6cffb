"""A convolutional network for looking at pictures without gradients: the same function, computed in less time.

Batch normalisation disappears into the convolution before it, and numbers lie channel by channel ("channels last").
On a CPU most of the time is arithmetic, and 3 x 3 convolutions are half of it; they are computed with 16
multiplications instead of 36 per 2 x 2 outputs (Winograd 1980; Lavin & Gray 2016, arXiv:1509.09308, F(2x2, 3x3)).
"""

import copy
import itertools
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

_FEWEST_CHANNELS = 128
"""With fewer, Winograd's sums take longer than the multiplications that they save."""
_NUMBERS_AT_A_TIME = 2**18
"""In what is tiled together; the tiles hold four times as many, which should stay in the cache."""


class FoldedTwin:
    """Calls a folded copy of a network, which is made when first needed and again whenever the weights have changed.

    Args:
        network: made of convolutions, each followed by its batch normalisation if it has one, and of modules without
            weights. It stays as it is.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._made_of: tuple[object, ...] = ()
        self._twin = network

    def forget(self) -> None:
        """Drops the copy."""
        self._made_of, self._twin = (), self._network

    def __call__(
        self, images: Float[Tensor, "batch 3 height width"], dtype: torch.dtype
    ) -> Float[Tensor, "batch dim rows cols"]:
        """What the network, in eval mode, makes of images, up to rounding.

        Args:
            images: on the network's device.
            dtype: what to compute in.

        Returns:
            The network's output, of that type.
        """
        assert not self._network.training
        tensors = itertools.chain(self._network.parameters(), self._network.buffers())
        made_of = (dtype, *((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors))
        if made_of != self._made_of:
            self._twin, self._made_of = _folded(self._network, dtype), made_of
        features: Tensor = self._twin(images.to(dtype, memory_format=torch.channels_last))
        return features


def _folded(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The network with its convolutions replaced; modules without weights are shared with the original."""
    twin = copy.copy(network)
    twin._modules = {}
    children = list(network.children())
    before, after = [None, *children], [*children[1:], None]
    for (name, child), leader, follower in zip(network.named_children(), before, after, strict=False):
        if isinstance(child, nn.Conv2d):
            norm = follower if isinstance(follower, nn.BatchNorm2d) else None
            twin._modules[name] = _convolution(child, norm, dtype)
        elif isinstance(child, nn.BatchNorm2d):
            assert isinstance(leader, nn.Conv2d)
            twin._modules[name] = nn.Identity()
        else:
            twin._modules[name] = _folded(child, dtype)
    return twin


def _convolution(conv: nn.Conv2d, norm: nn.BatchNorm2d | None, dtype: torch.dtype) -> nn.Module:
    """A convolution and the batch normalisation after it, in one."""
    weight = conv.weight.detach()
    bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach()
    if norm is not None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight.detach() / torch.sqrt(norm.running_var + norm.eps)
        weight = weight * scale.view(-1, 1, 1, 1)
        bias = (bias - norm.running_mean) * scale + norm.bias.detach()
    shape = (conv.padding, conv.stride, conv.dilation, conv.groups)
    on_cpu = weight.device.type == "cpu" and dtype == torch.float32
    is_plain = weight.shape[2:] == (3, 3) and shape == ((1, 1), (1, 1), (1, 1), 1)
    if on_cpu and is_plain and conv.in_channels >= _FEWEST_CHANNELS:
        return _TiledConvolution(weight, bias)
    # On one thread and for few images, `conv2d` leaves 1 x 1 convolutions to a slower matrix product.
    by_onednn = on_cpu and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return _Convolution(weight.to(dtype), bias.to(dtype), shape, by_onednn=by_onednn)


class _Convolution(nn.Module):
    def __init__(self, weight: Tensor, bias: Tensor, shape: tuple[Any, ...], *, by_onednn: bool) -> None:
        super().__init__()
        self._weight, self._bias = weight.contiguous(memory_format=torch.channels_last), bias
        self._padding, self._stride, self._dilation, self._groups = shape
        self._by_onednn = by_onednn

    def forward(self, images: Float[Tensor, "batch from rows cols"]) -> Float[Tensor, "batch to rows2 cols2"]:
        weights, groups = (self._weight, self._bias), self._groups
        if self._by_onednn:
            return torch.mkldnn_convolution(
                images, *weights, self._padding, self._stride, self._dilation, groups
            )
        return nn.functional.conv2d(images, *weights, self._stride, self._padding, self._dilation, groups)


class _TiledConvolution(nn.Module):
    """3 x 3, with zeros around the picture."""

    def __init__(self, weight: Float[Tensor, "to from 3 3"], bias: Float[Tensor, " to"]) -> None:
        super().__init__()
        self._weight, self._bias = _winograd_weight(weight), bias

    def forward(self, images: Float[Tensor, "batch from rows cols"]) -> Float[Tensor, "batch to rows cols"]:
        at_a_time = max(1, _NUMBERS_AT_A_TIME // images[0].numel())
        parts = torch.split(images, at_a_time)
        return torch.cat([_winograd(part, self._weight, self._bias) for part in parts])


def _winograd_weight(weight: Float[Tensor, "to from 3 3"]) -> Float[Tensor, "16 from to"]:
    """G g G^T of each kernel g."""
    g = weight.new_tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    flat = weight.permute(2, 3, 1, 0).reshape(9, -1)  # (to, from, 3, 3) -> (9, from * to)
    return (torch.kron(g, g) @ flat).view(16, weight.shape[1], weight.shape[0])


def _winograd(
    images: Float[Tensor, "batch from rows cols"],
    weight: Float[Tensor, "16 from to"],
    bias: Float[Tensor, " to"],
) -> Float[Tensor, "batch to rows cols"]:
    """A 3 x 3 convolution with zeros around the picture, in tiles of 2 x 2 outputs from 4 x 4 inputs."""
    batch, channels, rows, cols = images.shape
    tiles = (-(-rows // 2), -(-cols // 2))
    below, right = 2 * tiles[0] - rows, 2 * tiles[1] - cols  # the last tiles of odd sizes reach over the edge
    padded = nn.functional.pad(images.permute(0, 2, 3, 1), (0, 0, 1, 1 + right, 1, 1 + below))
    halfway = padded.new_empty(4, batch, tiles[0], padded.shape[2], channels)
    inputs = padded.new_empty(4, 4, batch, *tiles, channels)
    _differences(padded, 1, out=halfway)
    for lines, numbers in zip(halfway, inputs, strict=True):
        _differences(lines, 2, out=numbers)
    products = torch.bmm(inputs.view(16, -1, channels), weight).view(4, 4, batch, *tiles, -1)
    output = padded.new_empty(batch, tiles[0], 2, tiles[1], 2, len(bias))
    for y, line in enumerate(_sums(products)):
        for x, values in enumerate(_sums(line)):
            torch.add(values, bias, out=output[:, :, y, :, x])
    return output.view(batch, 2 * tiles[0], 2 * tiles[1], -1)[:, :rows, :cols].permute(0, 3, 1, 2)


def _differences(values: Tensor, dim: int, *, out: Tensor) -> None:
    """B^T along one dimension: of each four values that begin at an even place, four differences."""
    reach = values.shape[dim] - 3
    every_second = (slice(None),) * dim + (slice(None, None, 2),)
    first, second, third, fourth = (values.narrow(dim, k, reach)[every_second] for k in range(4))
    torch.sub(first, third, out=out[0])
    torch.add(second, third, out=out[1])
    torch.sub(third, second, out=out[2])
    torch.sub(second, fourth, out=out[3])


def _sums(values: Tensor) -> tuple[Tensor, Tensor]:
    """A^T along the first dimension: two sums of its four values."""
    return values[0] + values[1] + values[2], values[1] - values[2] - values[3]
