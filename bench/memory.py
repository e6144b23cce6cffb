"""How much memory there is, and keeping it from growing with what was done before."""

import ctypes
import os
import platform
import sys
from contextlib import suppress
from pathlib import Path

_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_PRIMITIVES = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


def keep_few_primitives() -> None:
    """Has oneDNN keep 128 compiled kernels, not 1,024; to be called before torch computes anything.

    It compiles one for each layer and number of rows. Explaining brings ever new numbers of rows, and a thousand
    kernels take half a gigabyte.
    """
    os.environ.setdefault(_PRIMITIVES, "128")


def give_back_memory() -> None:
    """Gives freed memory back to the system: Arrow's, and that of the C library where it can be told to (glibc)."""
    if arrow := sys.modules.get("pyarrow"):
        arrow.default_memory_pool().release_unused()
    if libc := _glibc():
        libc.malloc_trim(0)


def keep_freed_memory() -> None:
    """Has the process keep the memory that it frees, from now on, where the C library is glibc."""
    if libc := _glibc():
        libc.mallopt(_M_MMAP_THRESHOLD, 2**25)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**30)


def available_memory() -> int | None:
    """Bytes that this process can take before the system or its container runs short; None where nothing tells."""
    free = []
    with suppress(OSError):
        free.append(1024 * _entry(_PROC / "meminfo", "MemAvailable:"))
    with suppress(OSError, ValueError):  # a container's share; "max" where there is no limit
        limit, used = (int((_CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        free.append(limit - used + _entry(_CGROUP / "memory.stat", "inactive_file"))
    return max(0, min(free)) if free else None


def _entry(path: Path, name: str) -> int:
    rows = (line.split() for line in path.read_text().splitlines())
    return next((int(row[1]) for row in rows if row and row[0] == name), 0)


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
