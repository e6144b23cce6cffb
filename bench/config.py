"""What an evaluation is asked to do."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import ConfigError

if TYPE_CHECKING:
    from models.beam import DecodingRules

DEMO_CHECKPOINT = Path(__file__).parent.parent / "models" / "demo" / "scenes.safetensors"
"""The model that ships with the project and is evaluated when no checkpoint is given."""
LARGEST_BEAM = 100
"""Larger beams cost memory and change no caption of this family of models."""
LARGEST_STEPS = 1000
"""Longer captions are runaway sentences."""
BATCH_SIZE = 64
"""Images at once where nothing is known of the memory."""
LARGEST_EXPONENT = 10
"""Far beyond 1, where captions are ranked by little more than the mean log-probability of their words."""
PROTOCOLS = ("sun2022",)
"""Evaluations of other papers that can be repeated."""
ENCODER_DTYPES = ("float32", "bfloat16")
"""What an encoder can compute in."""


@dataclass(frozen=True)
class SearchConfig:
    """How captions are searched for. All of it decides the numbers."""

    beam_sizes: tuple[int, ...] = (1, 3, 5)
    """Hypotheses kept per image; every size is decoded and scored."""
    decoding: str = "default"
    """Which rules, a key of `models.beam.DECODINGS`."""
    length_exponent: float | None = None
    """See `models.beam.DecodingRules`; None for what `decoding` has."""
    n_best: int = 1
    """Captions kept of each image and beam size, which holds no more than its size; only the best is scored."""
    forbid_unknown: bool = False
    """Whether `<unk>` is never said."""
    no_repeat: int | None = None
    """No run of so many words occurs twice in a caption; 0 for no such rule, None for what `decoding` has."""
    max_steps: int | None = None
    """Longest caption in steps, `<end>` included; None for the model's own."""

    def __post_init__(self) -> None:
        from models.beam import DECODINGS  # loads torch, which `gazebench report` does without

        if self.decoding not in DECODINGS:
            raise ConfigError(f"--decoding is {self.decoding!r}; expected {' or '.join(DECODINGS)}")
        if not self.beam_sizes or min(self.beam_sizes) < 1 or max(self.beam_sizes) > LARGEST_BEAM:
            raise ConfigError(
                f"--beam-size is {list(self.beam_sizes)}; expected sizes from 1 to {LARGEST_BEAM}"
            )
        if len(set(self.beam_sizes)) != len(self.beam_sizes):
            raise ConfigError(
                f"--beam-size is {list(self.beam_sizes)}; each size is evaluated once, so name it once"
            )
        _check_ranges(
            self,
            length_exponent=(0, LARGEST_EXPONENT),
            n_best=(1, math.inf),
            no_repeat=(0, math.inf),
            max_steps=(1, LARGEST_STEPS),
        )
        if self.n_best > max(self.beam_sizes):
            raise ConfigError(
                f"--n-best is {self.n_best}; a beam of {max(self.beam_sizes)} holds no more than "
                f"{max(self.beam_sizes)}, so choose a larger --beam-size"
            )
        contradictions = {
            "--length-exponent": self.length_exponent not in (None, 0),
            "--forbid-unknown": self.forbid_unknown,
            "--no-repeat": self.no_repeat not in (None, 0),
        }
        if self.decoding == "tutorial" and any(contradictions.values()):
            given = " and ".join(option for option, contradicts in contradictions.items() if contradicts)
            raise ConfigError(
                f"--decoding tutorial is the tutorial's own search, which has no {given}; leave one of them out"
            )

    @property
    def rules(self) -> "DecodingRules":
        """What the beam search is told."""
        from models.beam import DECODINGS

        rules = DECODINGS[self.decoding]
        return replace(
            rules,
            length_exponent=rules.length_exponent if self.length_exponent is None else self.length_exponent,
            allow_unknown=rules.allow_unknown and not self.forbid_unknown,
            no_repeat=rules.no_repeat if self.no_repeat is None else self.no_repeat,
        )

    @property
    def signature(self) -> str:
        """The rules in short: captions of different ones are different captions."""
        parts = [f"decoding:{self.decoding}"]
        if self.decoding != "tutorial":
            rules = self.rules
            unknown = "yes" if rules.allow_unknown else "no"
            parts += [f"lp:{rules.length_exponent:g}", f"unk:{unknown}", f"rep:{rules.no_repeat}"]
        if self.max_steps is not None:
            parts.append(f"steps:{self.max_steps}")
        return "|".join(parts)


@dataclass(frozen=True)
class ExplainConfig:
    """What is computed and measured of the images that are explained. All of it decides the numbers."""

    methods: tuple[str, ...] = ()
    """Attribution methods by name, besides attention and the controls; () for the default ones."""
    thorough: bool = False
    """Every sound method, every measure, and on more images: minutes become hours."""
    unsound: bool = False
    """Also the methods whose `note` says why they are not to be believed."""
    redecode: bool = False
    """Whether captions are searched for anew without what a map marks: did the word disappear?"""
    checks: bool = True
    """Whether methods are checked and tested and pixels perturbed; not for a page about pictures of one's own."""
    protocol: str | None = None
    """`sun2022` for the image ablation of Sun et al. 2022 (arXiv:2001.01037)."""

    def __post_init__(self) -> None:
        if self.protocol not in (None, *PROTOCOLS):
            raise ConfigError(f"--protocol is {self.protocol!r}; expected {' or '.join(PROTOCOLS)}")


@dataclass(frozen=True)
class EvalConfig:
    """One evaluation. Everything here decides the numbers, except where it says that it does not, `out` and `fresh`."""

    checkpoint: Path = DEMO_CHECKPOINT
    """The model: a file, or a training directory, which stands for its best checkpoint."""
    word_map: Path | None = None
    """Words of a checkpoint that lacks them; None to look beside it."""
    encoder_weights: str | None = None
    """File or name of torchvision weights, for a checkpoint without an encoder."""
    encoder_dtype: str = "float32"
    """What the encoder computes in, one of `ENCODER_DTYPES`; gradients are always taken in float32."""
    data: str = "scenes"
    """`scenes`, `scenes:VARIANT`, a captions file, or a data set folder."""
    images: Path | None = None
    """Folder of the pictures, where it can't be found from `data`."""
    split: str = "test"
    """train, val, test, or all."""
    search: SearchConfig = field(default_factory=SearchConfig)
    """How captions are searched for."""
    frequencies: Path | None = None
    """Captions file whose references give CIDEr's document frequencies; None for those of the scored images."""
    retrieval: int = 200
    """How many images captions are to be told apart among, the first of the split; 0 for no retrieval."""
    explain: int | None = 64
    """How many images to explain, the first of the split; None for all, 0 for none."""
    explaining: ExplainConfig = field(default_factory=ExplainConfig)
    """How they are explained."""
    regions: Path | None = None
    """Where words are true in the pictures: a folder of Flickr30k Entities, or a JSON file of COCO instances."""
    limit: int | None = None
    """Evaluate only the first images of the split."""
    batch_size: int | None = None
    """Images encoded and decoded together; does not change the captions. None for what memory allows."""
    max_failures: int | float | None = None
    """Pictures that may be unreadable: how many, or, below 1 with a fraction, which share of all; None for all but one.
    Not a part of what the run is: where it stopped for this, a higher limit goes on."""
    workers: int | None = None
    """Processes that explain images, on a CPU; does not change the numbers. None for two, or one for a large model."""
    device: str = "cpu"
    """A torch device: cpu, cuda, cuda:1, …"""
    seed: int = 0
    """Seed of the random control map."""
    out: Path | None = None
    """The run directory; None for one under runs/ whose name follows from everything above."""
    fresh: bool = False
    """Start over where the run directory holds an earlier run of the same kind."""

    def __post_init__(self) -> None:
        from models.formats import checkpoint_file  # loads torch

        object.__setattr__(self, "checkpoint", checkpoint_file(self.checkpoint))
        _check_ranges(
            self,
            limit=(1, math.inf),
            explain=(0, math.inf),
            retrieval=(0, math.inf),
            batch_size=(1, math.inf),
            workers=(1, 64),
            max_failures=(0, math.inf),
        )
        if isinstance(self.max_failures, float) and not self.max_failures < 1:
            raise ConfigError(
                f"--max-failures is {self.max_failures}; expected a whole number, or a share below 1, such as 0.01"
            )
        if self.encoder_dtype not in ENCODER_DTYPES:
            raise ConfigError(
                f"--encoder-dtype is {self.encoder_dtype!r}; expected {' or '.join(ENCODER_DTYPES)}"
            )

    @property
    def images_at_once(self) -> int:
        """The batch size, where memory has not been asked for one."""
        return self.batch_size or BATCH_SIZE

    @property
    def model_name(self) -> str:
        """What the model is called: its file's name, or that of the training directory that it lies in."""
        from models.formats import BEST

        is_best = self.checkpoint.name == BEST
        return self.checkpoint.absolute().parent.name if is_best else self.checkpoint.stem

    @property
    def signature(self) -> str:
        """What else than the model decides its captions: those of different signatures are different captions."""
        computed = "" if self.encoder_dtype == "float32" else f"|encoder:{self.encoder_dtype}"
        return self.search.signature + computed

    def as_json(self) -> dict[str, object]:
        """The options that decide the numbers, as JSON values. Files are known by their hash; folders are private."""
        values = asdict(self)
        del values["out"], values["fresh"], values["max_failures"]
        values["checkpoint"] = self.checkpoint.name
        values["word_map"] = self.word_map.name if self.word_map else None
        for name in ("frequencies", "regions"):
            path = getattr(self, name)
            values[name] = path.name if path else None
        if self.encoder_weights and Path(self.encoder_weights).is_file():
            values["encoder_weights"] = Path(self.encoder_weights).name
        values |= (
            values.pop("explaining")
            | values.pop("search")
            | {name: getattr(self.search.rules, name) for name in ("length_exponent", "no_repeat")}
        )
        return {
            name: str(value)
            if isinstance(value, Path)
            else list(value)
            if isinstance(value, tuple)
            else value
            for name, value in values.items()
        }


def _check_ranges(config: SearchConfig | EvalConfig, **ranges: tuple[float, float]) -> None:
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if value is not None and not low <= value <= high:
            expected = f"at least {low}" if high == math.inf else f"{low} to {high}"
            raise ConfigError(f"--{name.replace('_', '-')} is {value}; expected {expected}")


def digest(value: object) -> str:
    """Hex SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
