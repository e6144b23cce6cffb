"""What a run directory says, as records: run.json, the rows of captions.jsonl and of failures.jsonl."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, NoReturn, Self, TypeVar, get_args, get_origin, get_type_hints

SCHEMA_VERSION = 1
AGREEMENT = ("cosine", "root_jsd", "top10_iou", "pearson", "spearman")
"""Columns of attributions.parquet that compare a map with the attention map; each has columns named after `NULLS`."""
NULLS = ("null", "null_word", "null_shift")
"""What agreement takes by chance, NAME_null …: against the same word class in other images, against the other words of
the same image, and against the same attention map shifted around the picture's edges."""
LOCALISATION = ("pointing", "mass", "lift", "rank", "auc", "topm_iou", "inside_outside")
"""Columns that compare a map with the place of its word; each has columns NAME_null and NAME_ceiling."""
FAITHFULNESS = ("deletion", "insertion", "abpc", "comprehensiveness", "sufficiency")
"""What happens to the word's probability when what a map marks is taken away; each with a suffix of `OPERATORS`."""
OPERATORS = ("cells", "blur", "grey", "road")
"""How it is taken away: annotation vectors replaced by the data set's mean, or pixels by a blurred picture, by the mean
colour, or by what the pixels around suggest. Columns are named MEASURE_OPERATOR."""
EXTRAS = (
    "on_things", "beyond_shifts", "infidelity", "max_sensitivity", "disappeared", "sun2022_disappeared", "sun2022_drop",
)  # fmt: skip
"""Columns that only some methods or runs have."""
PATHS = ("share_now", "share_past", "share_init")
"""Columns of attention's rows: how much of the full gradient runs through each path; they sum to 1."""
TRIAL_DROPS = (
    "permute_drop", "uniform_drop", "other_object_drop", "adversarial_drop", "erase_top_drop", "erase_random_drop",
)  # fmt: skip
"""Columns of attention's rows: what the word's probability loses when it looks elsewhere, 1 to -1."""
TRIAL_DISTANCES = (
    "permute_tvd", "uniform_tvd", "other_object_tvd", "adversarial_tvd", "erase_top_tvd", "erase_random_tvd",
    "adversarial_jsd",
)  # fmt: skip
"""Columns of attention's rows: by how much the distribution over words moves then, as a total variation distance, 0
to 1; `adversarial_jsd` is how far attention itself could move in return."""
GATE = "gate"
"""Column of attention's rows: mean of the gate beta on the context, 0 to 1, where the model has one."""

FROM_FILE = 0
"""Stands for the beam size of captions that came from a file: how they were searched for is not known."""

Json = Mapping[str, object]
_R = TypeVar("_R")


class RunError(ValueError):
    """A run directory can't be used: what was found, what was expected, what to do."""


class SchemaError(RunError):
    """A run directory of another version of the program, or of none."""


@dataclass(frozen=True)
class GitState:
    """The state of the code."""

    commit: str
    dirty: bool
    """Whether there were changes that are in no commit."""


@dataclass(frozen=True)
class Provenance:
    """What the numbers were made with."""

    versions: Mapping[str, str]
    git: GitState | None
    device: str
    threads: int
    platform: str
    java: str | None
    sha256: Mapping[str, str | None]
    """Hex digests of the checkpoint, the vocabulary, the data, and of other files that were given."""


@dataclass(frozen=True)
class ModelInfo:
    """The captioner."""

    name: str
    encoder: str
    grid: tuple[int, int]
    """Rows and columns of the attention grid."""
    image_size: int
    parameters: int
    vocabulary_size: int
    decoder: Json
    training: Json | None
    unknown_word: str | None = None
    """What it says for words that it does not know; None in runs that did not store it."""


@dataclass(frozen=True)
class DataInfo:
    """What was captioned."""

    name: str
    split: str
    images: int
    references_per_image: tuple[int, int]
    """Fewest and most."""
    split_origin: str
    missing: tuple[str, ...]
    """Ids of pictures that are named but not there."""
    warnings: tuple[str, ...]
    has_ground_truth: bool


@dataclass(frozen=True)
class ImageCounts:
    """How far the run got."""

    expected: int
    done: int
    failed: int


@dataclass(frozen=True)
class StageRow:
    """The wall time of one stage."""

    name: str
    seconds: float
    items: int
    unit: str


@dataclass(frozen=True)
class MetricRow:
    """One number about all captions of one beam size."""

    name: str
    beam_size: int
    value: float | None
    """None if it could not be computed; `reason` says why."""
    unit: str
    higher_is_better: bool | None
    """None if the number only describes."""
    ci_low: float | None
    ci_high: float | None
    n: int
    """Images that contributed."""
    reason: str | None
    signature: str | None = None
    """How the number came about, after sacrebleu (Post 2018): numbers are comparable if they agree on it."""


@dataclass(frozen=True)
class MethodInfo:
    """One kind of map."""

    name: str
    label: str
    kind: Literal["attention", "grid", "pixels", "control"]
    signed: bool
    complete: bool
    """Whether its values should sum to a difference of scores."""
    source: str
    resolution: Literal["grid", "pixels"] = "grid"
    """What it is computed on, before it is pooled to the grid."""
    baseline: str | None = None
    """What it compares with, in words; None if it compares with nothing."""
    steps: int | None = None
    """Samples, steps of a path, or perturbations."""
    forward: int = 0
    """Forward passes a word through the decoder ("grid") or through the whole model ("pixels"), shared ones counted
    whole."""
    backward: int = 0
    """Backward passes a word."""
    hooks: int = 0
    """Modules of this model that the method changes while it runs."""
    group: Literal["default", "thorough", "comparison", "unsound"] = "default"
    """When it runs: always, when asked for, for comparison with papers, or only with --unsound."""
    note: str | None = None
    """What a reader must know before believing it."""
    seconds_per_word: float | None = None
    """CPU time in this run."""


@dataclass(frozen=True)
class GateRow:
    """One check that a method has to pass before it is ranked."""

    method: str
    gate: Literal[
        "completeness", "row independence", "hook coverage", "causality", "path sum", "model unchanged"
    ]
    passed: bool | None
    """None where the check does not apply; `reason` says why."""
    value: float | None
    limit: float | None
    """The largest `value` that passes; for hook coverage the smallest."""
    n: int
    """Words that were checked."""
    reason: str | None
    """Why it failed or does not apply, as half a sentence."""


@dataclass(frozen=True)
class ExplanationInfo:
    """What was explained and how."""

    beam_size: int
    images: int
    words: int
    annotation_baseline: str
    reason: str | None
    """Why words have no localisation; None if they have one."""
    methods: tuple[MethodInfo, ...]
    gates: tuple[GateRow, ...] = ()
    resolution: str | None = None
    """What must be said of the grid's resolution, in a sentence; None if nothing must."""
    settings: Json | None = None
    """How many images each part was measured on, and with which constants."""
    left_out: tuple["Failure", ...] = ()
    """Those that could not be read any more when they were to be explained."""


@dataclass(frozen=True)
class RunRecord:
    """run.json."""

    schema_version: int
    name: str
    status: Literal["running", "finished", "interrupted", "failed"]
    command: str
    created: str
    """ISO 8601, UTC."""
    config: Json
    provenance: Provenance
    model: ModelInfo | None
    """None where captions came from a file."""
    data: DataInfo
    images: ImageCounts
    stages: tuple[StageRow, ...]
    metric_signature: str
    metrics: tuple[MetricRow, ...]
    explanations: ExplanationInfo | None
    warnings: tuple[str, ...]
    scoring_warnings: tuple[str, ...] = ()
    """Those that scoring again replaces."""
    search_signature: str = ""
    """How captions were searched for; a part of every metric's signature."""


@dataclass(frozen=True)
class Alternative:
    """A caption that came in behind the best one."""

    caption: str
    words: tuple[str, ...]
    token_ids: tuple[int, ...]
    log_prob_nats: float
    score: float
    """What it was ranked by; higher is better."""
    finished: bool


@dataclass(frozen=True)
class CaptionRow:
    """One line of captions.jsonl: what was said of one picture at one beam size.

    The first runs lack the fields that have defaults.
    """

    image_id: str
    beam_size: int
    caption: str | None
    """None if the picture failed; `error` says why."""
    words: tuple[str, ...]
    token_ids: tuple[int, ...]
    log_prob_nats: float | None
    word_log_probs: tuple[float, ...]
    """Nats."""
    references: tuple[str, ...]
    finished: bool
    """Whether the end token was reached."""
    error: str | None
    score: float | None = None
    """What the caption was ranked by; higher is better."""
    alternatives: tuple[Alternative, ...] = ()
    """The captions behind it, best first, where several were asked for."""
    attention_entropy: float | None = None
    """Mean over its words: 0, all attention on one cell, to 1, evenly spread."""
    attention_movement: float | None = None
    """Largest total variation distance between the maps of two words: 0, all are the same, to 1."""
    attention_coverage: float | None = None
    """Share of the picture that all its words together look at: near 0, one cell, to 1, all cells alike."""

    @property
    def spoken_log_probs(self) -> tuple[float, ...]:
        """One of `word_log_probs` for each word; empty where these count silent tokens too, or are not known."""
        of_words = len(self.word_log_probs) == len(self.words) + self.finished
        return self.word_log_probs[: len(self.words)] if of_words else ()


@dataclass(frozen=True)
class Failure:
    """One line of failures.jsonl."""

    image_id: str
    reason: str


@dataclass(frozen=True)
class ImageExplained:
    """What is stored of an explained image besides its rows and maps."""

    image_id: str
    words: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    """CPU time by method."""
    reason: str | None = None
    """Why it could not be explained; None if it was."""


def refuse_constant(name: str) -> NoReturn:
    """For `json.loads(parse_constant=…)`: NaN and infinities are no JSON, whatever Python says."""
    raise ValueError(f"{name} is not JSON")


def to_json(record: RunRecord | CaptionRow | Failure | ImageExplained) -> dict[str, object]:
    """The record as plain dictionaries, lists and scalars."""
    return asdict(record)


def from_json(kind: type[_R], value: object, where: str) -> _R:
    """Builds a record from decoded JSON, checking every type. Keys that the record lacks are passed over.

    Args:
        kind: the record's class.
        value: decoded JSON.
        where: names the origin in messages.

    Returns:
        The record.

    Raises:
        SchemaError: if the schema version is unknown.
        RunError: if a value is missing or of another type.
    """
    is_versioned = "schema_version" in getattr(kind, "__dataclass_fields__", {})
    if is_versioned and isinstance(value, dict) and value.get("schema_version") != SCHEMA_VERSION:
        raise SchemaError(
            f"{where} has schema version {value.get('schema_version')!r:.40}; this program reads version "
            f"{SCHEMA_VERSION}: open it with the gazebench that wrote it"
        )
    try:
        record: _R = _reader(kind)(value)  # type: ignore[arg-type]  # every type is hashable
    except _MismatchError as error:
        raise RunError(f"{where}{error.place}{error.problem}") from None
    if isinstance(record, RunRecord) and record.explanations:
        _check_names(record.explanations.methods, where)
    return record


def _check_names(methods: Sequence[MethodInfo], where: str) -> None:
    """Tables are asked for methods by name, and no table holds half a character."""
    for method in methods:
        if any("\ud800" <= character <= "\udfff" for character in method.name):
            raise RunError(
                f"{where} has a method {method.name!r:.80}; expected a name without halves of characters"
            )


class _MismatchError(Exception):
    """A value is not what a record needs; the place is put together on the way out."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.place = ""

    def inside(self, place: str) -> Self:
        self.place = place + self.place
        return self


_Reader = Callable[[Any], Any]
_LARGEST = 2**63 - 1  # no count is larger, and no float or table holds more
_LARGEST_FLOAT = 1e100  # far above any log-probability, and still finite when it is squared or drawn


def _is_shallow(value: object, levels: int = 20) -> bool:
    """Whether free-form JSON nests less deep than `levels`, so that printing it can't exhaust the stack."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_shallow(item, levels - 1) for item in inner)


@cache
def _reader(kind: Any) -> _Reader:
    """A function from decoded JSON to a value of this type, which raises `_MismatchError`.

    A run holds millions of values: what a type asks for is found out once.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin is UnionType:
        inner = _reader(parts[0])
        return lambda value: None if value is None else inner(value)
    if is_dataclass(kind):
        assert isinstance(kind, type)
        return _record_reader(kind)
    if origin is tuple:
        return _sequence_reader(parts) if parts[-1] is Ellipsis else _tuple_reader(parts)
    if origin is Mapping:
        return _mapping_reader(parts[1])
    return _plain_reader(kind, parts if origin is Literal else None)


def _wrong(value: object, expected: str) -> _MismatchError:
    return _MismatchError(f" is {value!r:.80}; expected {expected}")


def _record_reader(kind: type) -> _Reader:
    readers = {name: _reader(hint) for name, hint in get_type_hints(kind).items()}
    required = [field.name for field in fields(kind) if field.default is MISSING]

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _wrong(value, kind.__name__)
        if missing := [name for name in required if name not in value]:
            raise _MismatchError(f" lacks {', '.join(missing)}; it is not a whole {kind.__name__}")
        found = {}
        for name, inner in readers.items():
            if name in value:
                try:
                    found[name] = inner(value[name])
                except _MismatchError as error:
                    raise error.inside(f": {name}") from None
        return kind(**found)

    return read


def _sequence_reader(parts: tuple[Any, ...]) -> _Reader:
    inner = _reader(parts[0])

    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _wrong(value, "tuple")
        found: list[Any] = []
        try:
            found.extend(map(inner, value))
        except _MismatchError as error:
            raise error.inside(f"[{len(found)}]") from None
        return tuple(found)

    return read


def _tuple_reader(parts: tuple[Any, ...]) -> _Reader:
    readers = [_reader(part) for part in parts]

    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) != len(readers):
            raise _wrong(value, "tuple")
        found: list[Any] = []
        for inner, item in zip(readers, value, strict=True):
            try:
                found.append(inner(item))
            except _MismatchError as error:
                raise error.inside(f"[{len(found)}]") from None
        return tuple(found)

    return read


def _mapping_reader(part: Any) -> _Reader:
    inner = _reader(part)

    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _wrong(value, "Mapping")
        found = {}
        for key, item in value.items():
            try:
                found[key] = inner(item)
            except _MismatchError as error:
                raise error.inside(f": {key}") from None
        return found

    return read


def _plain_reader(kind: Any, words: tuple[Any, ...] | None) -> _Reader:
    """Of words of a list, of numbers, texts and truth values, and of anything that is not too deep."""
    name = getattr(kind, "__name__", str(kind))

    def read_word(value: Any) -> Any:
        if not isinstance(value, str) or value not in words:  # type: ignore[operator]
            raise _wrong(value, name)
        return value

    def read_number(value: Any) -> float:
        # The comparison is false for NaN, for infinities and for whole numbers that no float can hold.
        if type(value) not in (int, float) or not abs(value) <= _LARGEST_FLOAT:
            raise _wrong(value, name)
        return float(value)

    def read_any(value: Any) -> Any:
        if not _is_shallow(value):
            raise _wrong(value, name)
        return value

    def read_exactly(value: Any) -> Any:
        if type(value) is not kind or (kind is int and abs(value) > _LARGEST):
            raise _wrong(value, name)
        return value

    if words is not None:
        return read_word
    return {float: read_number, object: read_any}.get(kind, read_exactly)
