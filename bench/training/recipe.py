"""What a training is asked to do: plain data, read without torch.

The line under a field is also what `gazebench train --show` says of it.
"""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from bench.errors import ConfigError

Objective = Literal["likelihood", "hard attention", "self-critical"]
Precision = Literal["float32", "bfloat16"]
Initial = Literal["torch", "tutorial", "paper"]

_OPTIONS = {"epochs": "--epochs", "batch_size": "--batch-size", "precision": "--precision"}
"""Fields of a stage that an option of `gazebench train` sets, for messages."""


@dataclass(frozen=True)
class AttentionPenalty:
    """Keeps the attention that a cell gets over a caption near 1 (doubly stochastic, Xu et al. 2015, §4.2.1)."""

    weight: float
    """Factor of the term, at least 0."""
    over: Literal["mean", "sum"]
    """mean: over captions and cells, beside the mean nats per word (PyTorch tutorial). sum: over the cells of each
    caption, beside its summed nats (Xu et al. 2015, eq. 14), 196 times as much on a 14 x 14 grid."""


@dataclass(frozen=True)
class HardAttention:
    """Locations are drawn instead of averaged; their gradient is estimated (Xu et al. 2015, §4.1)."""

    reinforce: float = 0.1
    """Factor of the term that makes locations likelier after which captions became likelier than the baseline."""
    entropy: float = 0.002
    """Factor of the entropy of attention, in nats, which is rewarded: it keeps the choice open."""
    soft_share: float = 0.5
    """Share of the steps that attend softly instead, 0 to 1; it makes the estimate steadier."""
    momentum: float = 0.9
    """Share of the old in each new value of the baseline, a moving mean of log-likelihoods, 0 to 1."""


@dataclass(frozen=True)
class Stage:
    """One stretch of a training: what is trained, on what, how fast."""

    name: str
    """What the logs call it."""
    epochs: int
    """Passes over the training images."""
    learning_rate: float
    """Of the decoder; under a one-cycle schedule, its peak."""
    objective: Objective = "likelihood"
    """likelihood: nats per word of the captions. hard attention: the same with drawn locations. self-critical: CIDEr-D
    of captions that the model draws itself (Rennie et al. 2017, arXiv:1612.00563)."""
    batch_size: int = 64
    """Images per step."""
    part_size: int = 32
    """Images that are computed together; a batch's parts are spread over processes. Decides numbers: randomness is
    drawn by part, and batch normalisation that learns sees one part."""
    captions_per_image: int = 1
    """Captions drawn for an image each time it is seen; it is encoded once for all of them."""
    optimizer: Literal["adamw", "adam", "rmsprop"] = "adam"
    """adam and adamw: decay rates 0.9 and 0.999, epsilon 1e-8. rmsprop: decay rate 0.99, epsilon 1e-8."""
    encoder_learning_rate: float | None = None
    """Of the encoder; none for the decoder's."""
    trained_from: int | None = None
    """First child of the encoder's trunk that is trained, 0 for all of it; none freezes the encoder."""
    frozen_statistics: bool = True
    """Whether batch normalisation keeps the running statistics it has. What is not trained keeps them in any case."""
    weight_decay: float = 0.0
    """Of all trained weights: adamw subtracts learning rate x decay x weight, the others add decay x weight to the
    gradient."""
    schedule: Literal["constant", "one-cycle", "plateau"] = "constant"
    """one-cycle: up from 1/25 in a fifth of the steps, then down, Adam's first decay rate from 0.95 to 0.85 and back.
    plateau: x 0.8 for every 8 epochs in a row without a better validation score."""
    clip_norm: float | None = None
    """Longest gradient, all weights as one vector; a longer one is shortened. None for any."""
    clip_value: float | None = None
    """Largest component of the gradient, either sign; a larger one is cut. None for any."""
    penalty: AttentionPenalty | None = None
    """Term that spreads attention over the picture; none without."""
    hard: HardAttention | None = None
    """Settings of the objective "hard attention"; none for the others."""
    samples: int = 5
    """Captions drawn from the model per image under the objective "self-critical"; each is compared with the mean
    of the others."""
    shift: float = 0.0
    """Largest random shift of a training image, as a share of its size; 0 for none."""
    flip: bool = False
    """Whether half the training images are mirrored, except where a caption says left or right."""
    precision: Precision = "float32"
    """What is computed in; bfloat16 is faster where the hardware has it. Weights are float32 in either case."""
    patience: int | None = None
    """Epochs in a row without a better validation score after which the stage ends; none to finish it."""

    def __post_init__(self) -> None:
        at_least = {
            "epochs": 1,
            "batch_size": 1,
            "part_size": 1,
            "captions_per_image": 1,
            "samples": 2,
            "patience": 1,
        }
        for name, least in at_least.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{self._called(name)} is {value}; expected at least {least}")
        for name in ("learning_rate", "encoder_learning_rate", "clip_norm", "clip_value"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{self._called(name)} is {value}; expected a number above 0")
        if self.precision not in get_args(Precision):
            known = " or ".join(get_args(Precision))
            raise ConfigError(f"{self._called('precision')} is {self.precision!r}; expected {known}")
        if (self.hard is not None) != (self.objective == "hard attention"):
            raise ConfigError(
                f"stage {self.name!r}: settings of hard attention belong to that objective alone"
            )
        if self.trained_from is None and (self.shift or self.flip):
            raise ConfigError(
                f"stage {self.name!r}: the encoder rests, so that its maps are computed once; expected no shift or flip"
            )

    def _called(self, name: str) -> str:
        return _OPTIONS.get(name, f"stage {self.name!r}: {name}")


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides what a training yields, apart from the data."""

    source: str
    """Where the recipe is from, and what is done otherwise."""
    encoder: str
    """Which network looks at the picture, a key of `models.encoder.ENCODERS`."""
    grid: int
    """Rows and columns of the annotation grid."""
    stages: tuple[Stage, ...]
    """What is trained, one after the other; each begins with the best weights of the one before."""
    data: str | None = None
    """Data set used when none is given; none if one must be given."""
    preprocessing: dict[str, Any] = field(default_factory=dict)
    """How a picture becomes the encoder's input: fields of `models.preprocessing.Preprocessing`."""
    decoder: dict[str, Any] = field(default_factory=dict)
    """The captioning network: fields of `models.decoder.DecoderConfig`."""
    encoder_weights: str | None = None
    """torchvision weights to start from, by name or file; none for random ones."""
    initial: Initial = "torch"
    """How the decoder's first weights are drawn. torch: as its layers do. tutorial: the same, but embeddings and the
    output layer between -0.1 and 0.1, its bias 0. paper: matrices of deviation 0.01, square ones orthogonal, biases 0,
    as in the paper's program."""
    embeddings: Path | None = None
    """Text file of word vectors (GloVe's form) to start the word embeddings from; none for random ones."""
    min_count: int = 1
    """Words seen fewer times in the training captions become `<unk>`."""
    max_words: int | None = None
    """Longer training captions are left out; none for any length."""
    selection: Literal["CIDEr", "BLEU-4"] = "CIDEr"
    """Score of the validation captions, found by beam search, that decides which weights are best."""
    validation_beam: int = 3
    """Beam size of that search."""
    self_critical_rate: float = 5e-5
    """Learning rate of the stage that --self-critical adds."""
    seed: int = 0
    """Seed of initialisation, order, drawn captions, dropout and augmentation."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"--seed is {self.seed}; expected a whole number from 0 to 2^63 - 1")
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise ConfigError(
                f"the recipe's stages are {names}; expected at least one, each with a name of its own"
            )

    def plain(self) -> dict[str, Any]:
        """The recipe as JSON values. Of files, their folders are private and left out."""
        values = asdict(self)
        values["stages"] = list(values["stages"])
        values["preprocessing"] = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in self.preprocessing.items()
        }
        values["embeddings"] = self.embeddings.name if self.embeddings else None
        if self.encoder_weights is not None and Path(self.encoder_weights).is_file():
            values["encoder_weights"] = Path(self.encoder_weights).name
        return values
