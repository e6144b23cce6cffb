"""Where a training stands, and the checkpoint that it goes on from after whatever ended it.

A step's randomness follows from its place (`parallel.seed_of`), so the place is all there is to store of random number
generators and of the order of the images. `last.safetensors` is a checkpoint like any other, with this place and the
optimizer's numbers beside the weights; it is replaced as a whole, so all of it always belongs together.
"""

import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import ConfigError
from models.captioner import Captioner
from models.formats import load_checkpoint
from models.formats.containers import open_content
from models.formats.native import STATE, save_native
from reports.records import from_json
from reports.training import EpochRow

LAST, BEST = "last.safetensors", "best.safetensors"
AT_MOST_LOST = 2.0
"""Seconds of training that a kill may cost, unless writing takes long."""
_SHARE = 10
"""Writing may take a tenth of the time at most: a checkpoint that takes a second is written every ten."""


@dataclass
class Progress:
    """The place: what has been done, and what is carried from step to step."""

    stage: int = 0
    """Of the recipe's stages, from 0."""
    step: int = 0
    """Steps done in this stage."""
    part_size: int | None = None
    """Images computed at once, where memory was too small for the recipe's; None for the recipe's."""
    baseline: float | None = None
    """Hard attention's moving mean of a caption's log-likelihood; None before the first step."""
    score_before: float | None = None
    """What the checkpoint scored that the training started from; None where it started from nothing."""
    sums: dict[str, float] = field(default_factory=dict)
    """Of the epoch so far: nats, words, penalty, reward, captions, images, seconds."""
    epochs: list[EpochRow] = field(default_factory=list)
    """Those that are finished, of all stages."""

    def of_stage(self, name: str) -> list[EpochRow]:
        """The finished epochs of one stage."""
        return [row for row in self.epochs if row.stage == name]

    @property
    def best(self) -> int | None:
        """Index of the epoch whose weights are the best so far; None before the first."""
        return max((i for i, row in enumerate(self.epochs) if row.is_best), default=None)

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(replace(self, epochs=[])), "epochs": [asdict(row) for row in self.epochs]}


def progress_from(value: object, where: str) -> Progress:
    """Reads what `Progress.as_json` gave.

    Args:
        value: decoded JSON.
        where: names the origin in messages.

    Returns:
        The place.

    Raises:
        ConfigError: if it is something else.
    """
    if not isinstance(value, dict) or not isinstance(value.get("epochs"), list):
        raise ConfigError(f"{where} does not say where its training stands; start over with --fresh")
    rows = [from_json(EpochRow, row, f"{where}: epochs") for row in value["epochs"]]
    try:
        progress = Progress(**value)
    except TypeError as error:
        raise ConfigError(f"{where} is of another version ({error}); start over with --fresh") from error
    progress.epochs = rows
    return progress


class Keeper:
    """Writes `last.safetensors` every two seconds, less often where writing takes long."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._saved, self._cost = time.monotonic(), 0.0

    @property
    def is_due(self) -> bool:
        """Whether it is time to write again."""
        return time.monotonic() - self._saved >= max(AT_MOST_LOST, _SHARE * self._cost)

    def save_last(
        self,
        captioner: Captioner,
        optimizer: torch.optim.Optimizer,
        progress: Progress,
        about: dict[str, Any],
    ) -> None:
        """Writes weights, optimizer and place, all or nothing."""
        begun = time.monotonic()
        training = about | {"progress": progress.as_json()}
        state = _optimizer_tensors(captioner, optimizer)
        save_native(captioner, self.folder / LAST, training=training, state=state)
        self._saved = time.monotonic()
        self._cost = self._saved - begun

    def save_best(self, captioner: Captioner, progress: Progress, about: dict[str, Any]) -> None:
        """Writes the weights of the epoch that was the best so far."""
        history = [asdict(row) for row in progress.epochs]
        save_native(captioner, self.folder / BEST, training=about | {"history": history})


class Last:
    """`last.safetensors` of a training that was ended, read."""

    def __init__(self, folder: Path) -> None:
        checkpoint = load_checkpoint(folder / LAST)
        self.captioner = checkpoint.captioner
        self.progress = progress_from(checkpoint.training.get("progress"), str(folder / LAST))
        tensors = open_content(folder / LAST).tensors
        self._state = {
            name.removeprefix(STATE): each for name, each in tensors.items() if name.startswith(STATE)
        }

    def fill(self, captioner: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Gives the optimizer back its numbers."""
        for name, parameter in captioner.named_parameters():
            end = f".{name}"
            found = {key.removesuffix(end): each for key, each in self._state.items() if key.endswith(end)}
            if found:
                optimizer.state[parameter] = {
                    # Copied: the file that they lie in is about to be replaced. Counters of steps stay on the CPU.
                    key: tensor.read().clone().to(parameter.device if tensor.shape else "cpu")
                    for key, tensor in found.items()
                }


def _optimizer_tensors(captioner: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{key}.{name}": tensor
        for name, parameter in captioner.named_parameters()
        for key, tensor in optimizer.state.get(parameter, {}).items()
        if isinstance(tensor, Tensor)
    }
