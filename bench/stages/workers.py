"""Doing the same with many things in several processes, in order. Torch computes with one thread in each."""

import multiprocessing
import os
import pickle
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import torch
from torch import nn

from bench.errors import ConfigError
from bench.memory import give_back_memory, keep_few_primitives

MOST = 2
"""Processes that are started unless more are asked for."""
LARGE = 30_000_000
"""Parameters from which a captioner is explained by one process, unless more are asked for: each has memory of its own,
3.1 GB for a ResNet-101 at 256 pixels."""
FEWEST_TASKS = 8
"""With fewer, starting processes takes longer than they save."""
_W = TypeVar("_W")
_R = TypeVar("_R")
_shared: list[Any] = []  # what all tasks of a worker process need


def parameters(captioner: nn.Module) -> int:
    """How many numbers a captioner has learned."""
    return sum(parameter.numel() for parameter in captioner.parameters())


def default_workers(captioner: nn.Module) -> int:
    """As many as there are processors for this process, but no more than `MOST`, and one for a large captioner."""
    if parameters(captioner) >= LARGE:
        return 1
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
        The results, in the order of the tasks. Whatever ends this generator ends the processes.

    Raises:
        ConfigError: if a process was ended from outside.
    """
    if workers == 1 or len(tasks) < FEWEST_TASKS:
        with one_thread():
            for task in tasks:
                yield function(shared, *task)
                give_back_memory()
        return
    with tempfile.TemporaryDirectory(prefix="gazebench-") as folder:
        # In a file: a process that dies while starting would leave whoever writes to it waiting. Made here, because
        # torch would pass tensors on through /dev/shm, which containers keep small.
        path = Path(folder) / "shared"
        path.write_bytes(pickle.dumps(shared))
        # A forked process would inherit the locks of threads that it lacks.
        pool = ProcessPoolExecutor(
            min(workers, len(tasks)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(str(path),),
        )
        try:
            yield from pool.map(_call, *zip(*((function, *task) for task in tasks), strict=True))
        except BrokenProcessPool as error:
            raise ConfigError(
                "a process that explains images was ended from outside, perhaps because memory ran out; "
                "--workers 1 needs less of it"
            ) from error
        finally:
            for process in list((pool._processes or {}).values()):
                process.terminate()  # what it computes is not wanted any more; it is idle if all is done
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """As in the processes: with more threads, sums come out otherwise in their last digits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _begin(path: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it reaches the first process, too, which ends the others
    Thread(target=_end_with_parent, daemon=True).start()
    keep_few_primitives()
    torch.set_num_threads(1)
    _shared[:] = [pickle.loads(Path(path).read_bytes())]  # noqa: S301 - of the process that started this one


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _call(function: Callable[..., _R], *task: Any) -> _R:
    result = function(_shared[0], *task)
    give_back_memory()
    return result
