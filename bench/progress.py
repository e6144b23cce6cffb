"""Progress of long work, on stderr: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

LINE_EVERY_SECONDS = 15.0


def track(items: Iterable[T], *, total: int, label: str, unit: str) -> Iterator[T]:
    """Yields the items and shows how far they have come.

    Args:
        items: what is being worked on.
        total: how many there are.
        label: what is being done, in a word or two.
        unit: what one item is.

    Yields:
        The items, unchanged.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=label, unit=f" {unit}", leave=True, dynamic_ncols=True)
        return
    started = shown = time.monotonic()
    done = 0
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - shown >= LINE_EVERY_SECONDS and done < total:
            shown = now
            say(
                f"{label}: {done} of {total} {unit}, about {(now - started) / done * (total - done):.0f} s to go"
            )
    say(f"{label}: {done} of {total} {unit} in {time.monotonic() - started:.1f} s")


def say(line: str) -> None:
    """Prints one line to stderr."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201
