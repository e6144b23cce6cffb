"""Where the weights of an encoder's trunk come from before a training, and what is done where they can't be had."""

import pickle
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.distributed import World, broadcast, together
from bench.progress import say
from bench.provenance import file_sha256
from models.errors import CheckpointError
from reports.training import RANDOM_WEIGHTS

_SILENCE = 20.0
"""Seconds without a byte after which a download has failed."""


class TrunkWeights(NamedTuple):
    """What a captioner is built with, and what to say about it."""

    weights: str | None
    """For `Captioner`: a file, torchvision's name, or None for random ones."""
    origin: str
    """In words, without folders; `RANDOM_WEIGHTS` for random ones."""
    warning: str | None
    """What a reader of the results must know; None if all is as asked for."""


def trunk_weights(encoder: str, weights: str | None, *, is_trial: bool, world: World) -> TrunkWeights:
    """Makes sure that weights are there before anything is built on them; the first process downloads.

    Args:
        encoder: a key of `models.encoder.ENCODERS`.
        weights: a file, torchvision's name of weights, or None for random ones.
        is_trial: whether the training is only a trial, of a few images or steps: then random weights will do where
            nothing can be downloaded, which is said on stderr.
        world: this process's place; all processes must call.

    Returns:
        The same in every process. Weights that a real training can't have are a `CheckpointError`; names of no weights
        are left to `build_encoder`.
    """
    found = _RANDOM
    with together():
        if world.is_first:
            found = _obtained(encoder, weights, is_trial=is_trial)
    return broadcast(found)


_RANDOM = TrunkWeights(None, RANDOM_WEIGHTS, None)


def _obtained(encoder: str, weights: str | None, *, is_trial: bool) -> TrunkWeights:
    if weights is None:
        return _RANDOM
    if Path(weights).is_file():
        return TrunkWeights(weights, f"{Path(weights).name} (SHA-256 {file_sha256(Path(weights))})", None)
    from torchvision.models import get_model_weights, list_models

    known = get_model_weights(encoder).__members__ if encoder in list_models() else {}
    if weights not in known:
        return TrunkWeights(weights, weights, None)  # building the encoder says what is wrong with them
    try:
        with _impatient():
            known[weights].get_state_dict(progress=sys.stderr.isatty(), check_hash=True)
    # No network, or the file arrived damaged.
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if not is_trial:
            raise CheckpointError(
                f"the weights {weights} of {encoder} could not be downloaded ({reason}); download them where "
                "there is a network and give --encoder-weights FILE, or none to train from random weights"
            ) from error
        warning = (
            f"the weights {weights} of {encoder} could not be downloaded ({reason}), so this trial begins with a trunk "
            "of random weights: its captions and scores say nothing about the recipe"
        )
        say(f"WARNING: {warning}")
        return TrunkWeights(None, RANDOM_WEIGHTS, warning)
    return TrunkWeights(weights, f"torchvision {encoder} {weights}", None)


@contextmanager
def _impatient() -> Iterator[None]:
    """torch.hub opens addresses without a time limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
