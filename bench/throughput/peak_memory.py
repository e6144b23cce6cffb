"""`python -m bench.throughput.peak_memory IMAGES BEAM_SIZE` decodes and prints the most bytes its process held.

A program of its own, because what a process once held can't be told from what it needs.
"""

import resource
import sys
from pathlib import Path

import torch

from bench.throughput.full_size import full_size_captioner, random_annotations
from models.beam import DECODINGS, beam_search


def peak_memory_bytes() -> int:
    """The most memory that this process has held at once.

    On Linux it is read from /proc: what `getrusage` says of a program includes its parent's memory at the start.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def main(images: int, beam_size: int) -> None:
    """Decodes random annotation vectors with the full-size captioner."""
    torch.set_num_threads(1)
    captioner, annotations = full_size_captioner(), random_annotations(images)
    beam_search(captioner, annotations, beam_size, rules=DECODINGS["tutorial"])
    sys.stdout.write(f"{peak_memory_bytes()}\n")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
