"""Several processes at one task, as torchrun starts them. Each takes every size-th piece of the work, from its rank on.

Processes talk to each other before and after the work, not while they do it, so that the slowest holds up nobody and
any number of processes can go on with what another number began. With one process every function here does nothing.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple, TypeVar

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""How long a process waits for the others before it gives up. One that dies is noticed by torchrun at once; one that
has more to do may take hours longer."""


class World(NamedTuple):
    """Which of how many processes this one is."""

    rank: int
    """From 0; the first prepares, merges, scores and speaks."""
    size: int
    local_rank: int
    """From 0 on each machine; the number of the GPU."""

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that speaks for all."""
        return self.rank == 0


def world() -> World:
    """This process's place, from the environment that torchrun sets; alone without it."""
    rank, size, local = (int(os.environ.get(name, 0)) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    return World(rank, size, local) if size > 1 else World(0, 1, 0)


@contextmanager
def joined() -> Iterator[World]:
    """Makes the processes know each other while the block runs. Whatever ends the block ends it for this process alone.

    Yields:
        This process's place.
    """
    place = world()
    if place.size == 1:
        yield place
        return
    import torch
    import torch.distributed as dist

    # gloo speaks for CPU tensors and objects, NCCL for GPU tensors.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield place
    finally:
        dist.destroy_process_group()


def barrier() -> None:
    """Waits until all processes have come here."""
    gather(None)


def broadcast(value: T) -> T:
    """What the first process gives, in every process.

    Args:
        value: any value that can be pickled; those of the other processes are passed over.

    Returns:
        The first process's value.
    """
    if world().size == 1:
        return value
    import torch
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def gather(value: T) -> list[T]:
    """What every process gives, in every process, in the order of ranks.

    Args:
        value: any value that can be pickled; a few kilobytes, not tensors.

    Returns:
        One value for each process.
    """
    if world().size == 1:
        return [value]
    import torch.distributed as dist

    found: list[T | None] = [None] * world().size
    dist.all_gather_object(found, value)  # on the CPU, as the objects are
    return found  # type: ignore[return-value]


@contextmanager
def together() -> Iterator[None]:
    """Ends all processes where the block fails in one of them, before any goes on to what the others can't join in.

    An error that several processes meet is raised in the first of them alone, so that it is told once. The others exit.
    """
    try:
        yield
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        if gather(told).index(told) == world().rank:
            raise
        sys.exit(2)
    if any(gather(None)):
        sys.exit(2)
