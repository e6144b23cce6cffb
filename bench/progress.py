"""Progress of long work, on stderr: a bar on a terminal, a plain line now and then elsewhere.

Of several processes, the first shows how far it is; the others only say what went wrong.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from bench.distributed import world

T = TypeVar("T")

LINE_EVERY_SECONDS = 15.0


def track(
    items: Iterable[T], *, total: int, label: str, unit: str, note: Callable[[], str] = str
) -> Iterator[T]:
    """Yields the items and shows how far they have come.

    Args:
        items: what is being worked on.
        total: how many there are.
        label: what is being done, in a word or two.
        unit: what one item is.
        note: what else to show of how it goes, when asked.

    Yields:
        The items, unchanged.
    """
    if not world().is_first:
        yield from items
        return
    if sys.stderr.isatty():
        with tqdm(items, total=total, desc=label, unit=f" {unit}", leave=True, dynamic_ncols=True) as bar:
            for item in bar:
                yield item
                bar.set_postfix_str(note(), refresh=False)
        return
    started = shown = time.monotonic()
    done = 0
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - shown >= LINE_EVERY_SECONDS and done < total:
            shown = now
            left = (now - started) / done * (total - done)
            say(_noted(f"{label}: {done} of {total} {unit}, about {left:.0f} s to go", note()))
    say(_noted(f"{label}: {done} of {total} {unit} in {time.monotonic() - started:.1f} s", note()))


def _noted(line: str, note: str) -> str:
    return f"{line}; {note}" if note else line


def say(line: str) -> None:
    """Prints one line to stderr, if this is the first process."""
    if world().is_first:
        print(line, file=sys.stderr, flush=True)  # noqa: T201


def complain(line: str) -> None:
    """Prints one line to stderr, which tells the process if it is not the first."""
    place = world()
    print(line if place.is_first else f"process {place.rank}: {line}", file=sys.stderr, flush=True)  # noqa: T201
