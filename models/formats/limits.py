"""A bound on the memory that finding out what a stranger's file holds may take."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.errors import CheckpointError

STRUCTURE_MEMORY = 768 << 20
"""Bytes; the tutorial's files need 30 MB."""


@contextmanager
def memory_limit(what: str) -> Iterator[None]:
    """Has the system refuse more than `STRUCTURE_MEMORY` of new memory meanwhile, where it can (Linux).

    Args:
        what: names the file in the message.

    Yields:
        Nothing.

    Raises:
        CheckpointError: if more is needed, or the nesting is deeper than Python's stack.
    """
    try:
        with _address_space_limit():
            yield
    except (MemoryError, RecursionError) as error:
        raise CheckpointError(
            f"{what} needs more than {STRUCTURE_MEMORY >> 20} MB, or is nested too deeply, just to say what it holds; "
            "it is refused"
        ) from error


@contextmanager
def _address_space_limit() -> Iterator[None]:
    try:
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError, ValueError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [used + STRUCTURE_MEMORY, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
