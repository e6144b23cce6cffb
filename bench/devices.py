"""Where a model computes."""

import torch

from bench.distributed import World
from bench.errors import ConfigError


def device_named(name: str, world: World) -> torch.device:
    """The device of this process.

    Args:
        name: a torch device: cpu, cuda, cuda:1, …
        world: this process's place; of several processes on one machine each takes a GPU of its own.

    Returns:
        The device, which has been tried.

    Raises:
        ConfigError: if this machine has no such device.
    """
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None and world.size > 1:
            device = torch.device("cuda", world.local_rank)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"--device {name} can't be used on this machine: {str(error).splitlines()[0]}"
        ) from error
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.allow_tf32 = False  # convolutions that round to 10 bits would change captions
    return device
