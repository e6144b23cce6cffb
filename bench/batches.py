"""Batches that fit into memory: how many images at once, and fewer where memory turns out to be short."""

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from bench.config import EvalConfig
from bench.errors import ConfigError
from bench.memory import available_memory, give_back_memory
from bench.progress import complain
from models.captioner import Captioner
from models.likelihood import numbers_per_row

T = TypeVar("T")
R = TypeVar("R")

MOST_IMAGES = {"cpu": 64, "cuda": 256}
"""Batches larger than these take memory and bring no more speed."""
_SHARE = 0.5
"""Of the free memory, what batches may count on: the encoder, other stages and what the estimate leaves out need
some, too."""
_SIGNS = (
    "out of memory",  # CUDA, whose own error class is a RuntimeError as well
    "can't allocate memory",  # torch's allocator on a CPU
    "bad_alloc",
    "_STATUS_ALLOC_FAILED",  # cuBLAS and cuDNN
)
_SENTENCES = ("could not create a primitive", "could not create a memory object")
"""What oneDNN says then, and no more: with more behind them, these words are about wrong shapes."""


def in_batches(
    items: Sequence[T], size: int, compute: Callable[[Sequence[T]], R], *, smallest: int = 1
) -> Iterator[R]:
    """Computes batches of items one after the other, and halves the batches where memory is short.

    Where memory runs out, what can be freed is freed, and the same items are computed in batches of half the size;
    the batches stay that small. Nothing is computed again that was yielded.

    Args:
        items: what to compute, at any number at once with the same results.
        size: how many at once, at least 1.
        compute: gives the results of one batch. It has to be finished when it returns (a generator would run out of
            memory where nobody can help), and to have done nothing that can't be done again when it fails.
        smallest: batches of this size are not halved.

    Yields:
        What `compute` returned, in the order of the items. How many items that were is `compute`'s to tell.

    Raises:
        ConfigError: if memory is short at the smallest size.
        RuntimeError: if `compute` raised one for another reason.
        MemoryError: likewise.
    """
    assert min(size, smallest) >= 1
    done = 0
    while done < len(items):
        batch = items[done : done + size]
        short = None
        try:
            result = compute(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            short = str(error).strip().partition("\n")[0]
        # Behind the handler: the error held every tensor of the calls that failed.
        if short is None:
            yield result
            done += len(batch)
            del result  # the next batch needs the room
            continue
        free_memory()
        if len(batch) <= smallest:
            raise ConfigError(
                f"out of memory with {counted(len(batch))} at once ({short}); "
                "close other programs, or give a smaller --beam-size or another --device"
            )
        size = max(smallest, len(batch) // 2)
        complain(f"out of memory with {counted(len(batch))} at once; going on with {size}")


class AtOnce:
    """How many items are computed at once, from one list of them to the next: where memory was short, it will be again.

    Args:
        size: at the beginning, at least 1.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def compute(self, items: Sequence[T], compute: Callable[[Sequence[T]], R]) -> list[R]:
        """What `in_batches` yields, whose arguments and errors these are."""
        sizes: list[int] = []

        def noted(batch: Sequence[T]) -> R:
            result = compute(batch)
            sizes.append(len(batch))
            return result

        found = list(in_batches(items, self.size, noted))
        if max(sizes, default=self.size) < min(self.size, len(items)):
            self.size = max(sizes)
        return found


def counted(count: int) -> str:
    """A number of images, in words."""
    return "1 image" if count == 1 else f"{count} images"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is short, on a GPU or on the CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and (
        said.strip() in _SENTENCES or any(sign in said for sign in _SIGNS)
    )


def free_memory() -> None:
    """Gives back what is not needed any more: of Python, of torch on a GPU, and of the C library."""
    gc.collect()
    torch.cuda.empty_cache()  # does nothing where no GPU is used
    give_back_memory()


def auto_batch_size(captioner: Captioner, beam_sizes: Sequence[int]) -> int:
    """How many images to encode and decode at once on this machine, as its memory is now.

    Args:
        captioner: on the device that it is to run on.
        beam_sizes: what is decoded, one size after the other.

    Returns:
        At least 1, and no more than brings speed (`MOST_IMAGES`).
    """
    device = captioner.device
    most = MOST_IMAGES.get(device.type, MOST_IMAGES["cpu"])
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    if free is None:  # this system does not tell
        return most
    return max(1, min(most, int(_SHARE * free) // bytes_per_image(captioner, max(beam_sizes))))


def fitted(config: EvalConfig, captioner: Captioner) -> EvalConfig:
    """The configuration with the batch size that memory allows, where none was given."""
    if config.batch_size is not None:
        return config
    return replace(config, batch_size=auto_batch_size(captioner, config.search.beam_sizes))


def bytes_per_image(captioner: Captioner, beam_size: int) -> int:
    """About how many bytes one more image in the batch takes, at the beam size.

    What is computed a few images at a time whatever the batch (the encoder's activations, the mix of attention) is
    left out.

    Args:
        captioner: whose sizes are counted.
        beam_size: hypotheses of each image.

    Returns:
        Bytes, of numbers of 4 bytes: the picture alone and in its batch; annotation vectors and their projections,
        twice, as images that are done are dropped by copying the others; what a step computes of each hypothesis;
        where each hypothesis looked at each step.
    """
    config = captioner.decoder.config
    cells = captioner.grid[0] * captioner.grid[1]
    picture = 2 * 3 * captioner.preprocessing.size**2
    remembered = 2 * cells * (config.annotation_dim + config.attention_dim)
    said = beam_size * (numbers_per_row(config) + cells * (captioner.max_steps + 1))
    return 4 * (picture + remembered + said)
