"""Time that a piece of work takes, on whichever device it runs."""

import time
from collections.abc import Callable
from typing import TypeVar

import torch

_R = TypeVar("_R")


def synchronise(device: torch.device) -> None:
    """Waits until the device has done all that it was given; the CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], _R], device: torch.device) -> tuple[_R, float]:
    """Runs something and measures it.

    Args:
        work: what to run, in this process and, on the CPU, in one thread.
        device: where it computes.

    Returns:
        What it returned, and seconds: of the processor on the CPU, where the turns that other programs take must not
        count; by the clock elsewhere, from one moment at which the device is idle to another.
    """
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    synchronise(device)
    started = clock()
    result = work()
    synchronise(device)
    return result, clock() - started
