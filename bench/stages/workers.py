"""Doing the same with many things in several processes, in order. Torch computes with one thread in each."""

import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

import torch

from bench.memory import give_back_memory, keep_few_primitives

MOST = 2
"""Processes that are started unless more are asked for: each needs memory of its own, up to 2.5 GB for a ResNet-101."""
FEWEST_TASKS = 8
"""With fewer, starting processes takes longer than they save."""
_W = TypeVar("_W")
_R = TypeVar("_R")
_shared: list[Any] = []  # what all tasks of a worker process need


def default_workers() -> int:
    """As many as there are processors for this process, but no more than `MOST`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST, cores)


def share_out(
    function: Callable[..., _R], shared: _W, tasks: Sequence[tuple[Any, ...]], *, workers: int
) -> Iterator[_R]:
    """Calls function(shared, *task) for every task.

    Args:
        function: of a module, so that other processes can import it.
        shared: is sent to each process once.
        tasks: the other arguments of each call.
        workers: processes; with 1, or with few tasks, all is done in this one.

    Yields:
        The results, in the order of the tasks.
    """
    if workers == 1 or len(tasks) < FEWEST_TASKS:
        for task in tasks:
            yield function(shared, *task)
            give_back_memory()
        return
    # A forked process would inherit the locks of threads that it lacks. The bytes are made here, because torch would
    # pass tensors on through /dev/shm, which containers keep small.
    with ProcessPoolExecutor(
        min(workers, len(tasks)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(pickle.dumps(shared),),
    ) as pool:
        try:
            yield from pool.map(_call, *zip(*((function, *task) for task in tasks), strict=True))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin(shared: bytes) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it reaches the first process, too, which ends the others
    keep_few_primitives()
    torch.set_num_threads(1)
    _shared[:] = [pickle.loads(shared)]  # noqa: S301 - from the process that started this one


def _call(function: Callable[..., _R], *task: Any) -> _R:
    result = function(_shared[0], *task)
    give_back_memory()
    return result
