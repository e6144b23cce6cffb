"""What an evaluation is asked to do."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.errors import ConfigError

DEMO_CHECKPOINT = Path(__file__).parent.parent / "models" / "demo" / "scenes.safetensors"
"""The model that ships with the project and is evaluated when no checkpoint is given."""
LARGEST_BEAM = 100
"""Larger beams cost memory and change no caption of this family of models."""


@dataclass(frozen=True)
class EvalConfig:
    """One evaluation. Everything here except `out` and `fresh` decides the numbers."""

    checkpoint: Path = DEMO_CHECKPOINT
    """The model."""
    data: str = "scenes"
    """`scenes`, `scenes:VARIANT`, a captions file, or a data set folder."""
    images: Path | None = None
    """Folder of the pictures, where it can't be found from `data`."""
    split: str = "test"
    """train, val, test, or all."""
    beam_sizes: tuple[int, ...] = (1, 3, 5)
    """Hypotheses kept per image; every size is decoded and scored."""
    explain: int | None = 64
    """How many images to explain, the first of the split; None for all, 0 for none."""
    limit: int | None = None
    """Evaluate only the first images of the split."""
    batch_size: int = 64
    """Images encoded and decoded together; does not change the captions."""
    device: str = "cpu"
    """A torch device: cpu, cuda, cuda:1, …"""
    seed: int = 0
    """Seed of the random control map."""
    out: Path | None = None
    """The run directory; None for one under runs/ whose name follows from everything above."""
    fresh: bool = False
    """Start over where the run directory holds an earlier run of the same kind."""

    def __post_init__(self) -> None:
        for name, smallest in (("limit", 1), ("explain", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}; expected at least {smallest}")
        if not self.beam_sizes or min(self.beam_sizes) < 1 or max(self.beam_sizes) > LARGEST_BEAM:
            raise ConfigError(
                f"--beam-size is {list(self.beam_sizes)}; expected sizes from 1 to {LARGEST_BEAM}"
            )
        if len(set(self.beam_sizes)) != len(self.beam_sizes):
            raise ConfigError(
                f"--beam-size is {list(self.beam_sizes)}; each size is evaluated once, so name it once"
            )

    def as_json(self) -> dict[str, object]:
        """The options that decide the numbers, as JSON values."""
        values = asdict(self)
        del values["out"], values["fresh"]
        values["checkpoint"] = (
            self.checkpoint.name
        )  # its contents are known by their hash, its folder is private
        return {
            name: str(value)
            if isinstance(value, Path)
            else list(value)
            if isinstance(value, tuple)
            else value
            for name, value in values.items()
        }


def digest(value: object) -> str:
    """Hex SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
