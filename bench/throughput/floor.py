"""The floor: how long the arithmetic of a task takes at the rates this machine reaches, and nothing else.

Work is counted from shapes, rates are measured in the same process:

    floor_seconds = max(FLOPs / (FLOPs per second of a matrix product), bytes / (bytes per second of a copy))

FLOPs are those of matrix products and convolutions as they are defined, two for each multiply-add; a program that
finds a way around some of them (Winograd's, for convolutions) can fall below the floor. Bytes are what has to pass
through memory if every tensor is read once where it is needed and written once where it is made, and no cache holds
anything from one step of a caption to the next; a task whose floor is its bytes can fall below it where a cache holds
the weights. The floor leaves out what a program has to do besides: elementwise work, softmax, picking the best words,
starting kernels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.throughput.clock import timed
from models.decoder import DecoderConfig


@dataclass(frozen=True)
class Work:
    """What a task has to compute and to move."""

    flops: int
    bytes: int

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, times: int) -> "Work":
        return Work(self.flops * times, self.bytes * times)


@dataclass(frozen=True)
class Rates:
    """What the machine reaches at the moment."""

    flops_per_second: float
    """Of a square matrix product."""
    bytes_per_second: float
    """Of a copy; reading and writing both count."""

    def floor_seconds(self, work: Work) -> float:
        """The shortest time in which `work` can be done."""
        return max(work.flops / self.flops_per_second, work.bytes / self.bytes_per_second)


class Yardstick:
    """Measures the rates of one device in one number format, as often as asked.

    Args:
        device: where.
        dtype: of the matrices and of what is copied.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        side, copied = (8192, 2**28) if device.type == "cuda" else (1024, 2**26)  # larger than any cache
        self._device = device
        self._square = torch.ones(side, side, device=device, dtype=dtype)
        self._product = torch.empty_like(self._square)
        self._source = torch.ones(copied, device=device, dtype=torch.uint8)
        self._target = torch.empty_like(self._source)
        self.read()  # the first run of a kernel and the first touch of memory cost extra

    @property
    def bytes(self) -> int:
        """Memory that it holds on its device."""
        return sum(t.nbytes for t in (self._square, self._product, self._source, self._target))

    def read(self) -> Rates:
        """The rates now: the better of two runs each."""
        product = min(
            self._seconds(lambda: torch.mm(self._square, self._square, out=self._product)) for _ in "ab"
        )
        copy = min(self._seconds(lambda: self._target.copy_(self._source)) for _ in "ab")
        return Rates(2 * len(self._square) ** 3 / product, 2 * len(self._source) / copy)

    def _seconds(self, work: Callable[[], Tensor]) -> float:
        return timed(work, self._device)[1]


def memory_work(config: DecoderConfig, *, cells: int, images: int, itemsize: int = 4) -> Work:
    """Work of `AttentionDecoder.remember` and `initial_state`, once per image.

    Args:
        config: the decoder.
        cells: L.
        images: B.
        itemsize: bytes of one number.

    Returns:
        FLOPs: 2 B L D A, and 4 B D H for the state (A, H: width of the attention network, of the LSTM); 2 B L A A and
        2 B D D for each further layer of either.
    """
    weights = (
        config.annotation_dim * config.attention_dim + (config.attention_layers - 1) * config.attention_dim**2
    )
    flops = 2 * images * cells * weights
    numbers = images * cells * (config.annotation_dim + config.attention_dim) + weights
    if config.initial_state != "zero":
        weights = 2 * config.annotation_dim * config.hidden_dim
        weights += (config.initial_layers - 1) * config.annotation_dim**2
        flops += 2 * images * weights
        numbers += weights
    return Work(flops, numbers * itemsize)


def step_work(config: DecoderConfig, *, cells: int, images: int, beams: int, itemsize: int = 4) -> Work:
    """Work of one decoding step for `beams` hypotheses of each of `images`.

    Args:
        config: the decoder.
        cells: L.
        images: B; the hypotheses of one image share its annotation vectors.
        beams: hypotheses per image.
        itemsize: bytes of one number.

    Returns:
        FLOPs per hypothesis: 2 L (A + D) for attention and context, and two for each weight of every matrix. Bytes:
        every weight, each image's annotation vectors and their projections, and the scores of all words there and
        back.
    """
    c = config
    hypotheses = images * beams
    gate = {"none": 0, "shut": 0, "scalar": 1, "vector": c.annotation_dim}[c.gate]
    weights = (
        c.hidden_dim * (c.attention_dim + gate)
        + 4 * c.hidden_dim * (c.embedding_dim + c.annotation_dim + c.hidden_dim)
        + c.vocabulary_size * (c.hidden_dim if c.output == "plain" else c.embedding_dim)
    )
    if c.output == "deep":
        weights += c.embedding_dim * (c.hidden_dim + c.annotation_dim)
    looked_at = cells * (c.attention_dim + c.annotation_dim)
    numbers = weights + images * looked_at + 2 * hypotheses * c.vocabulary_size
    return Work(2 * hypotheses * (weights + looked_at), numbers * itemsize)


def search_work(
    config: DecoderConfig, *, cells: int, images: int, beam_size: int, steps: int, itemsize: int = 4
) -> Work:
    """Work of a beam search of `steps` steps, `memory_work` aside: in the first step all beams are one.

    Args:
        config: the decoder.
        cells: L.
        images: B.
        beam_size: K.
        steps: of every caption, `<end>` included.
        itemsize: bytes of one number.

    Returns:
        The sum over the steps.
    """
    first = step_work(config, cells=cells, images=images, beams=1, itemsize=itemsize)
    later = step_work(config, cells=cells, images=images, beams=beam_size, itemsize=itemsize)
    return first + later * (steps - 1)


@torch.enable_grad()  # without gradients, encoders may run another program than their layers say
def encoder_work(encoder: nn.Module, shape: tuple[int, int, int, int], itemsize: int = 4) -> Work:
    """Work of one pass of an encoder: that of its convolutions and linear layers.

    Args:
        encoder: any network of convolutions; it runs on the meta device, so nothing is computed.
        shape: of the images, (B, 3, H, W).
        itemsize: bytes of one number.

    Returns:
        FLOPs, and the bytes of these layers' weights, inputs and outputs, as if all between them were fused.
    """
    work = []

    def count(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        per_output = weight[0].numel()  # multiply-adds for each number of the output
        numbers = inputs[0].numel() + weight.numel() + output.numel()
        work.append(Work(2 * output.numel() * per_output, numbers * itemsize))

    layers = [module for module in encoder.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        state = {
            name: tensor.to("meta")
            for name, tensor in [*encoder.named_parameters(), *encoder.named_buffers()]
        }
        torch.func.functional_call(encoder, state, torch.empty(shape, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return sum(work, Work(0, 0))
