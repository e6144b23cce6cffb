"""One step, computed in parts by any number of processes: the same weights, bit for bit, on a CPU.

A batch is cut into parts of a fixed size. Each part yields the gradient of its share of the batch's loss, and draws all
its randomness from a seed of its own, so it does not matter which process computes it. Shares are summed in the order
of the parts. `torch.nn.parallel.DistributedDataParallel` instead adds in an order that depends on how many processes
there are, and draws dropout by process; then no number of processes could go on with what another number began.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bench.distributed import World

T = TypeVar("T")


class PartLoss(NamedTuple):
    """What computing one part yields."""

    share: Float[Tensor, ""]
    """Is differentiated; the shares of all parts sum to the batch's loss."""
    figures: tuple[float, ...]
    """Numbers that are summed over the parts, too."""


def seed_of(*position: int) -> int:
    """A seed for one place in a training (seed, stage, step, part …): 63 bits that look like chance."""
    content = ",".join(map(str, position)).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") >> 1


def split(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """The parts of a batch, `size` items each; the last may be shorter."""
    return [items[i : i + size] for i in range(0, len(items), size)]


def add_gradients(
    model: nn.Module, count: int, compute: Callable[[int], PartLoss], world: World
) -> tuple[float, ...]:
    """Computes all parts of a batch and leaves the gradient of its loss in the model's parameters.

    Batch normalisation that learns its statistics sees one part at a time; each part begins with the statistics from
    before the step, and their mean over the parts is kept.

    Args:
        model: with parameters and buffers that are equal in all processes.
        count: of parts.
        compute: is called with a part's number, by the process that computes it.
        world: this process's place.

    Returns:
        The figures of all parts, each summed in the order of the parts.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    norms = [each for each in model.modules() if isinstance(each, _BatchNorm) and each.training]
    moving = [buffer for norm in norms for buffer in norm.buffers() if buffer.is_floating_point()]
    counters = [buffer for norm in norms for buffer in norm.buffers() if not buffer.is_floating_point()]
    before, counted = ([buffer.clone() for buffer in buffers] for buffers in (moving, counters))
    for parameter in trained:
        parameter.grad = None
    gradient: Tensor | None = None
    statistics: list[Tensor] = [torch.zeros_like(buffer) for buffer in moving]
    figures: list[Tensor] = []
    for first in range(0, count, world.size):
        mine = first + world.rank
        found: tuple[float, ...] = ()
        if mine < count:
            _copy(before, moving)
            with _as_before((before, moving), (counted, counters)):
                loss = compute(mine)
                loss.share.backward()  # type: ignore[no-untyped-call]
            found = loss.figures
        if world.size == 1:
            figures.append(torch.tensor(found, dtype=torch.float64))
            for total, buffer in zip(statistics, moving, strict=True):
                total += buffer
            continue  # autograd adds to the gradient that is there, part by part
        for part in _exchanged(trained, moving, found, min(world.size, count - first), world):
            figures.append(part.figures)
            gradient = part.gradient if gradient is None else gradient + part.gradient
            for total, buffer in zip(statistics, part.buffers, strict=True):
                total += buffer
        for parameter in trained:
            parameter.grad = None
    if gradient is not None:
        _spread(gradient, trained)
    for parameter in trained:
        if parameter.grad is None:  # as several processes have it, which exchange numbers
            parameter.grad = torch.zeros_like(parameter)
    _copy([total / count for total in statistics], moving)
    _copy([old + 1 for old in counted], counters)  # of steps, however many parts they have
    return tuple(sum(column) for column in zip(*(row.tolist() for row in figures), strict=True))


@contextmanager
def _as_before(*kept: tuple[Sequence[Tensor], Sequence[Tensor]]) -> Iterator[None]:
    """Undoes what a part that failed has changed: memory may have been short, and the step is tried again."""
    try:
        yield
    except BaseException:
        for values, tensors in kept:
            _copy(values, tensors)
        raise


def _copy(values: Sequence[Tensor], into: Sequence[Tensor]) -> None:
    for value, tensor in zip(values, into, strict=True):
        tensor.copy_(value)


class _Part(NamedTuple):
    gradient: Float[Tensor, " number"]
    buffers: list[Tensor]
    figures: Float[Tensor, " figure"]


def _exchanged(
    trained: Sequence[nn.Parameter],
    moving: Sequence[Tensor],
    figures: Sequence[float],
    count: int,
    world: World,
) -> list[_Part]:
    """What the first `count` processes have computed, in every process, in the order of ranks."""
    device = trained[0].device
    own = torch.cat(
        [
            (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).flatten()
            for parameter in trained
        ]
        + [buffer.flatten() for buffer in moving]
    )
    numbers = torch.zeros(_FIGURES, dtype=torch.float64, device=device)
    numbers[: len(figures)] = torch.tensor(figures, dtype=torch.float64)
    numbers[-1] = len(figures)
    vectors = [torch.empty_like(own) for _ in range(world.size)]
    rows = [torch.empty_like(numbers) for _ in range(world.size)]
    dist.all_gather(vectors, own)
    dist.all_gather(rows, numbers)
    sizes = [sum(parameter.numel() for parameter in trained), *(buffer.numel() for buffer in moving)]
    parts = []
    for vector, row in zip(vectors[:count], rows, strict=False):
        gradient, *buffers = torch.split(vector, sizes)
        shaped = [buffer.view_as(like) for buffer, like in zip(buffers, moving, strict=True)]
        parts.append(_Part(gradient, shaped, row[: int(row[-1])].cpu()))
    return parts


_FIGURES = 16  # room for the numbers of a part, and how many there are


def _spread(gradient: Float[Tensor, " number"], trained: Sequence[nn.Parameter]) -> None:
    parts = torch.split(gradient, [parameter.numel() for parameter in trained])
    for parameter, part in zip(trained, parts, strict=True):
        parameter.grad = part.view_as(parameter)
