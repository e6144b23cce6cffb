"""What a gate compares with: a small file that people review, and beside it the captions it was made from.

`bless` writes both from a finished run. FILE (TOML) holds values and tolerances; FILE's stem + `.captions.jsonl`
holds every caption with its scores and sufficient statistics, so that a paired test needs nothing else.

Held with a tolerance and a paired test: CIDEr, BLEU-4, METEOR, ROUGE-L, and SPICE where it was computed. BLEU-1
to 3 are left out: BLEU-4 is made of the same matches, and every further test costs the others power (Holm's
correction). Shares that are good or bad (exact matches, true words, recall@k, hallucinations …) have a hard floor
only: most of them judge few images or few words, so that a tighter bound would fail by chance. What only
describes (lengths, distinct n-grams) is not held, apart from the limits that no sane captioner leaves.
"""

import hashlib
import json
import math
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import pandas as pd

from reports.records import CaptionRow, MetricRow, RunError, RunRecord, from_json
from reports.speed import SpeedRecord, clock
from reports.stats import BLEU_STATISTICS, METEOR_STATISTICS, corpus_scores
from reports.store import RunStore, write_atomically
from reports.wording import beam, printable

SCHEMA = 1
TESTED = ("CIDEr", "BLEU-4", "METEOR", "ROUGE-L", "SPICE")
"""Metrics with a paired test."""
STATISTICS = {"BLEU-4": BLEU_STATISTICS, "METEOR": METEOR_STATISTICS}
"""What those are made of that are not means over images."""
LIMITS = {
    "unknown_share": "share of words that are the unknown word",
    "empty_share": "share of captions without a word",
    "mean_length": "mean length in words",
    "distinct_share": "share of captions that are distinct",
}
"""Names of the sanity limits, in words."""
DIGITS = 6
"""Decimals of every stored score."""

_MAX_TERMS = 2 << 20
_MAX_CAPTIONS = 512 << 20
_SLACK = 2e-6  # between a corpus score and the one that rounded statistics give

Key = tuple[str, int]
"""Image id and beam size."""


class BaselineError(RunError):
    """A baseline can't be written or read: what was found, what was expected, what to do."""


@dataclass(frozen=True)
class CaptionsTerms:
    """The captions beside the file, and how many of them may change where nothing else did."""

    file: str
    sha256: str
    references_sha256: str
    """Of image ids and references."""
    max_changed_share: float = 0.0


@dataclass(frozen=True, kw_only=True)
class MetricTerms:
    """One number that is held."""

    name: str
    beam_size: int
    value: float
    tol: float | None = None
    """Worse by more than this, and significantly, fails; None where there is no paired test."""
    hard_tol: float
    """Worse by more than this fails, whatever chance can do."""
    higher_is_better: bool
    signature: str | None = None


@dataclass(frozen=True)
class LimitTerms:
    """One sanity limit; a bound that is None is not there."""

    name: str
    beam_size: int
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True)
class MachineTerms:
    """Where speed was measured."""

    processor: str
    device: str
    threads: int
    torch: str


@dataclass(frozen=True, kw_only=True)
class SpeedTerms:
    """One benchmark, in units of the reference kernels; errors are standard errors of the logarithm."""

    cpu_ratio: float | None = None
    """None on a GPU, which the processor only waits for."""
    cpu_error: float | None = None
    wall_ratio: float
    wall_error: float
    tol: float
    """Slower by more than this share, beyond noise, fails."""
    captions_sha256: str | None = None
    sizes: Mapping[str, int]
    exact: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The file that is reviewed."""

    schema: int
    run: str
    data: str
    images: int
    device: str | None = None
    """cpu or cuda; None where no model was run."""
    encoder_dtype: str | None = None
    signature: str
    """Of the metrics that have none of their own."""
    alpha: float
    """Of the paired tests of one gate together."""
    metric: tuple[MetricTerms, ...]
    limit: tuple[LimitTerms, ...] = ()
    captions: CaptionsTerms
    sha256: Mapping[str, str]
    """Of the checkpoint and of other files that went in."""
    machine: MachineTerms | None = None
    """None where there are no benchmarks."""
    speed: Mapping[str, SpeedTerms]


@dataclass(frozen=True)
class BlessedCaption:
    """One line of the file beside."""

    image_id: str
    beam_size: int
    caption: str
    token_ids: tuple[int, ...]
    score: float | None
    """What the search ranked it by."""
    metrics: Mapping[str, float]
    bleu: tuple[float, ...] | None
    """In the order of `BLEU_STATISTICS`."""
    meteor: tuple[float, ...] | None


class Baseline(NamedTuple):
    """A baseline, read and checked."""

    terms: Terms
    captions: Mapping[Key, BlessedCaption]
    frames: Mapping[int, pd.DataFrame]
    """By beam size: one row per image, tested metrics and their statistics."""


class FinishedRun(NamedTuple):
    """A run that a baseline can be made of, or be compared with."""

    record: RunRecord
    captions: Mapping[Key, CaptionRow]
    frames: Mapping[int, pd.DataFrame]
    """By beam size: one row per image, tested metrics that every image has, and their statistics."""
    speed: SpeedRecord | None

    @property
    def unknown_word(self) -> str | None:
        """What the model says for words that it does not know; None if that is not known."""
        return self.record.model.unknown_word if self.record.model else None

    def metric(self, name: str, beam_size: int) -> MetricRow | None:
        """The corpus score of this printable name."""
        return next(
            (r for r in self.record.metrics if (printable(r.name), r.beam_size) == (name, beam_size)), None
        )


_COMMENTS = {
    "": (
        "Written by `gazebench bless`, compared with by `gazebench gate RUN --baseline FILE`.",
        "alpha, tol, hard_tol, at_least, at_most and max_changed_share are yours to change; blessing another run",
        "into this file keeps them. All else follows from the run: to change it, bless another.",
    ),
    "metric": (
        "Fails if worse by more than tol and significantly so, or worse by more than hard_tol whatever chance does.",
        "Tolerances are in the unit of the value.",
    ),
    "limit": ("Fails outside, however good the scores are.",),
    "captions": (
        "The same model on the same kind of device may change this share of them, near-ties apart.",
    ),
    "speed": (
        "Times are ratios to reference kernels; tol = 0.1 allows 10 % more. Exact counts must not grow.",
    ),
}


def bless(run: Path, out: Path) -> Baseline:
    """Makes a run the one that later runs are compared with.

    Tolerances and limits of a baseline that `out` holds already are kept.

    Args:
        run: the directory of a finished run.
        out: the TOML file to write; the captions go beside it.

    Returns:
        The baseline, as read back.

    Raises:
        BaselineError: if the run is unfinished or lacks scores, or `out` holds what can't be kept.
    """
    out = Path(out)
    try:
        finished = read_finished(run)
    except RunError as error:
        raise BaselineError(f"{printable(str(error))}; only a finished, scored run can be blessed") from error
    if out.is_dir():
        raise BaselineError(f"{out} is a directory; name a file, such as {out / 'baseline.toml'}")
    earlier = None
    if out.exists():
        try:
            earlier = _read_terms(out)
        except BaselineError as error:
            raise BaselineError(f"{error}; its tolerances would be lost: repair it, or remove it") from error
    lines = b"".join(_lines(finished))
    terms = _terms(finished, f"{out.stem}.captions.jsonl", hashlib.sha256(lines).hexdigest(), earlier)
    with write_atomically(out.parent / terms.captions.file) as file:
        file.write(lines)
    with write_atomically(out) as file:
        file.write("\n".join([*_toml(asdict(terms)), ""]).encode())
    return read_baseline(out)


def read_baseline(path: Path) -> Baseline:
    """Reads a baseline. Nothing in it is executed, and it names no file outside its folder.

    Args:
        path: the TOML file.

    Returns:
        The baseline.

    Raises:
        BaselineError: if it, or the file of captions beside it, is missing, damaged, or says what can't be.
    """
    path = Path(path)
    terms = _read_terms(path)
    captions = _read_captions(path, terms)
    sizes = {size for _, size in captions}
    if (
        not captions
        or len(captions) != terms.images * len(sizes)
        or terms.images != len({key[0] for key in captions})
    ):
        raise BaselineError(
            f"{path} is about {terms.images:,} images, its captions are not; bless the run again"
        )
    frames = {
        size: _blessed_frame([row for row in captions.values() if row.beam_size == size]) for size in sizes
    }
    for held in terms.metric:
        name, frame = held.name, frames.get(held.beam_size)
        if held.tol is None and frame is not None:
            continue
        found = None if frame is None or name not in frame else corpus_scores(frame)[name]
        if found is None or abs(found - held.value) > _SLACK:
            raise BaselineError(
                f"{path} says {name} {held.value} at {beam(held.beam_size)}, its captions "
                f"{'lack it' if found is None else f'{found:.{DIGITS}f}'}; bless the run again"
            )
    return Baseline(terms, captions, frames)


def read_finished(run: Path) -> FinishedRun:
    """Reads a run, and makes sure that it is whole.

    Args:
        run: the directory.

    Returns:
        What a gate looks at.

    Raises:
        RunError: if it is unfinished, pictures failed, or files are missing, damaged or contradict each other.
    """
    store = RunStore(run)
    record, rows, scores, speed = (
        store.read_run(), store.read_captions(), store.read_scores(), store.read_speed()
    )  # fmt: skip
    if record.status != "finished":
        raise RunError(f"{run} is {record.status}, not finished; run the same command again")
    counts = record.images
    failed = {row.image_id for row in rows if row.caption is None}
    if counts.failed or counts.done != counts.expected or failed:
        raise RunError(
            f"{run} lacks captions of {max(counts.expected - counts.done, counts.failed, len(failed)):,} of "
            f"{counts.expected:,} images; failures.jsonl says why"
        )
    captions = {(row.image_id, row.beam_size): row for row in rows}
    if scores is None or not record.metrics:
        raise RunError(f"{run} has no scores; run `gazebench score {run}`")
    scored = list(zip(scores["image_id"], scores["beam_size"], strict=True))
    if len(captions) != len(rows) or sorted(scored) != sorted(captions):
        raise RunError(f"captions.jsonl and scores.parquet of {run} name different captions; score it again")
    if len({image_id for image_id, _ in captions}) * len({size for _, size in captions}) != len(captions):
        raise RunError(f"captions.jsonl of {run} lacks beam sizes of some images; run the same command again")
    frames = {
        size: _tested_frame(
            scores[scores["beam_size"] == size].set_index("image_id").sort_index(), f"{run}, {beam(size)}"
        )
        for size in sorted({size for _, size in captions})
    }
    finished = FinishedRun(record, captions, frames, speed)
    for size, frame in frames.items():
        for name, value in corpus_scores(frame).items():
            row = finished.metric(name, size)
            if row is not None and row.value is not None and abs(row.value - (value or 0.0)) > _SLACK:
                raise RunError(
                    f"{run} says {name} {row.value:.{DIGITS}f} at {beam(size)}, its scores.parquet {value:.{DIGITS}f}; "
                    "score it again"
                )
    return finished


def references_sha256(captions: Mapping[Key, CaptionRow]) -> str:
    """Hex digest of image ids and references, whatever their order."""
    references = {(image_id, row.references) for (image_id, _), row in captions.items()}
    return hashlib.sha256(json.dumps(sorted(references)).encode()).hexdigest()


def model_place(record: RunRecord) -> tuple[str | None, str | None]:
    """Kind of device (cpu, cuda) and the encoder's number type; None where no model was run."""
    device, dtype = record.config.get("device"), record.config.get("encoder_dtype")
    return (
        printable(device.split(":")[0]) if isinstance(device, str) else None,
        printable(dtype) if isinstance(dtype, str) else None,
    )


def hashes(record: RunRecord) -> dict[str, str]:
    """Digests of all that went in."""
    return {printable(name): printable(value) for name, value in record.provenance.sha256.items() if value}


def sanity(finished: FinishedRun) -> dict[tuple[str, int], float]:
    """What the sanity limits are about, by the names of `LIMITS` and beam size; without what can't be said."""
    found: dict[tuple[str, int], float] = {}
    for size in finished.frames:
        rows = [row for row in finished.captions.values() if row.beam_size == size]
        words = sum(len(row.words) for row in rows)
        if finished.unknown_word is not None:
            unknown = sum(row.words.count(finished.unknown_word) for row in rows)
            found["unknown_share", size] = unknown / max(words, 1)
        found["empty_share", size] = sum(not row.words for row in rows) / len(rows)
        found["mean_length", size] = words / len(rows)
        found["distinct_share", size] = len({row.caption for row in rows}) / len(rows)
    return found


def machine_terms(speed: SpeedRecord) -> MachineTerms:
    """Where speed was measured, printable."""
    return MachineTerms(
        printable(speed.processor), printable(speed.device), speed.threads, printable(speed.torch)
    )


def is_timed(ratios: Sequence[float]) -> bool:
    """Whether a clock can be made of these rounds, with an error."""
    return len(ratios) > 1 and min(ratios) > 0


def _tested_frame(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """The tested metrics that every image has, with the statistics that they are made of."""
    columns: list[str] = []
    for name in TESTED:
        if name in frame and frame[name].notna().all():
            columns += [name, *STATISTICS.get(name, ())]
    if missing := [name for name in columns if name not in frame]:
        raise RunError(f"{where} has no {missing[0]} in scores.parquet; score the run again")
    if not np.isfinite(frame[columns].to_numpy()).all():
        raise RunError(f"{where} has infinite or missing statistics in scores.parquet; score the run again")
    return frame[columns]


def _blessed_frame(rows: Sequence[BlessedCaption]) -> pd.DataFrame:
    index = pd.Index([row.image_id for row in rows], name="image_id")
    columns: dict[str, Sequence[float]] = {
        name: [row.metrics[name] for row in rows]
        for name in TESTED
        if all(name in row.metrics for row in rows)
    }
    frame = pd.DataFrame(columns, index=index, dtype=np.float64)
    for name, found in (("BLEU-4", [row.bleu for row in rows]), ("METEOR", [row.meteor for row in rows])):
        if name in frame:
            if any(values is None or len(values) != len(STATISTICS[name]) for values in found):
                raise BaselineError(f"the blessed captions lack statistics of {name}; bless the run again")
            statistics = pd.DataFrame(found, index=index, columns=list(STATISTICS[name]), dtype=np.float64)
            frame = frame.join(statistics)
    return frame.sort_index()


def _lines(finished: FinishedRun) -> Iterator[bytes]:
    scores = {size: frame.to_dict("index") for size, frame in finished.frames.items()}
    for (image_id, size), said in sorted(finished.captions.items()):
        values = {str(name): round(float(value), DIGITS) for name, value in scores[size][image_id].items()}
        row = BlessedCaption(
            image_id,
            size,
            said.caption or "",
            said.token_ids,
            None if said.score is None else round(said.score, DIGITS),
            {name: values[name] for name in TESTED if name in values},
            _statistics(values, "BLEU-4"),
            _statistics(values, "METEOR"),
        )
        # What acts instead of showing is written as an escape, so that a review shows what is there.
        shown = image_id + row.caption
        line = json.dumps(asdict(row), ensure_ascii=printable(shown) != shown, allow_nan=False)
        yield line.encode() + b"\n"


def _statistics(values: Mapping[str, float], name: str) -> tuple[float, ...] | None:
    if name not in values:
        return None
    found = (values[column] for column in STATISTICS[name])
    return tuple(int(value) if value.is_integer() else value for value in found)


def _terms(finished: FinishedRun, file: str, sha256: str, earlier: Terms | None) -> Terms:
    """What is held of a run, by the tolerances of an earlier baseline where there is one."""
    record = finished.record
    metrics = tuple(_metric_terms(finished))
    if not any(held.tol is not None for held in metrics):
        reasons = [f": {row.reason}" for row in record.metrics if row.reason]
        raise BaselineError(
            f"{record.name} has none of {', '.join(TESTED)}{printable(''.join(reasons[:1]))}; score it again"
        )
    device, dtype = model_place(record)
    speed = finished.speed
    terms = Terms(
        schema=SCHEMA,
        run=printable(record.name),
        data=printable(f"{record.data.name} ({record.data.split})"),
        images=len(next(iter(finished.frames.values()))),
        alpha=0.01,
        signature=printable(record.metric_signature),
        captions=CaptionsTerms(printable(file), sha256, references_sha256(finished.captions)),
        sha256=hashes(record),
        metric=metrics,
        limit=tuple(_limit_terms(finished)),
        device=device,
        encoder_dtype=dtype,
        machine=None if speed is None else machine_terms(speed),
        speed={} if speed is None else _speed_terms(speed),
    )  # fmt: skip
    return terms if earlier is None else _keep(terms, earlier, finished)


def _metric_terms(finished: FinishedRun) -> Iterator[MetricTerms]:
    for row in finished.record.metrics:
        tested = row.name in TESTED and row.name in finished.frames[row.beam_size]
        floored = row.unit == "share" and row.name != "Unknown words"  # which is among the limits
        if row.value is None or row.higher_is_better is None or not (tested or floored):
            continue
        part = 1.0 if row.unit == "share" else abs(row.value)
        # Two runs that are equally good differ by chance: two independent ones by more than 2 standard errors of
        # the difference in 5 % of cases, two over the same images much more seldom. No floor lies closer.
        width = 0.0 if row.ci_low is None or row.ci_high is None else row.ci_high - row.ci_low
        chance = 2 * math.sqrt(2) * width / (2 * 1.96)
        yield MetricTerms(
            name=printable(row.name),
            beam_size=row.beam_size,
            value=round(row.value, DIGITS),
            tol=_short(max(0.01 * part, 0.001)) if tested else None,
            hard_tol=_short(max(0.05 * part, chance, 0.005)),
            higher_is_better=row.higher_is_better,
            signature=None if row.signature is None else printable(row.signature),
        )


def _limit_terms(finished: FinishedRun) -> Iterator[LimitTerms]:
    for (name, size), value in sanity(finished).items():
        bounds = {
            "unknown_share": (None, value + 0.05),
            "empty_share": (None, value + 0.02),
            "mean_length": (0.8 * value, 1.2 * value),
            "distinct_share": (0.5 * value, None),
        }
        low, high = (None if bound is None else _short(bound) for bound in bounds[name])
        yield LimitTerms(name, size, low, high)


def _short(value: float) -> float:
    """Rounded to what a person would have written."""
    return float(f"{value:.3g}")


def _speed_terms(speed: SpeedRecord) -> dict[str, SpeedTerms]:
    terms = {}
    for row in speed.rows:
        on_cpu = speed.device.startswith("cpu")
        if not (is_timed(row.wall_ratios) and (is_timed(row.cpu_ratios) or not on_cpu)):
            raise BaselineError(
                f"{printable(row.name)} was timed in fewer than 2 rounds; measure the speed again"
            )
        cpu, wall = clock(row.cpu_ratios) if on_cpu else None, clock(row.wall_ratios)
        terms[printable(row.name)] = SpeedTerms(
            cpu_ratio=round(cpu.ratio, DIGITS) if cpu else None,
            cpu_error=round(cpu.error, DIGITS) if cpu else None,
            wall_ratio=round(wall.ratio, DIGITS),
            wall_error=round(wall.error, DIGITS),
            tol=0.1,
            captions_sha256=row.captions_sha256,
            sizes={printable(name): size for name, size in row.sizes.items()},
            exact={printable(name): number for name, number in row.exact.items()},
        )
    return terms


def _keep(terms: Terms, earlier: Terms, finished: FinishedRun) -> Terms:
    """The terms with the tolerances and limits of an earlier baseline, of which nothing may get lost unseen."""
    metrics = {(held.name, held.beam_size): held for held in terms.metric}
    limits = {(limit.name, limit.beam_size): limit for limit in terms.limit}
    speed = dict(terms.speed)
    for old in earlier.metric:
        key = (old.name, old.beam_size)
        if key not in metrics:
            row = finished.metric(*key)
            why = f" ({printable(row.reason)})" if row is not None and row.reason else ""
            raise _lost(f"{old.name} at {beam(old.beam_size)}", why)
        metrics[key] = replace(metrics[key], tol=old.tol, hard_tol=old.hard_tol)
    for name, old_speed in earlier.speed.items():
        if name not in speed:
            raise _lost(f"the benchmark {name}", "")
        speed[name] = replace(speed[name], tol=old_speed.tol)
    values = sanity(finished)
    for old_limit in earlier.limit:
        value = values.get((old_limit.name, old_limit.beam_size))
        if value is None:
            raise _lost(f"a limit of {LIMITS[old_limit.name]} at {beam(old_limit.beam_size)}", "")
        if not within(value, old_limit):
            raise BaselineError(
                f"{LIMITS[old_limit.name]} is {value:.4g} at {beam(old_limit.beam_size)}, outside the limits that the "
                "baseline sets; if that is intended, change them there first"
            )
        limits[old_limit.name, old_limit.beam_size] = old_limit
    return replace(
        terms,
        alpha=earlier.alpha,
        captions=replace(terms.captions, max_changed_share=earlier.captions.max_changed_share),
        metric=tuple(metrics.values()),
        limit=tuple(limits.values()),
        speed=speed,
    )


def _lost(what: str, why: str) -> BaselineError:
    return BaselineError(
        f"the baseline holds {what}, which this run lacks{why}; run it as before, or remove it from the baseline"
    )


def within(value: float, limit: LimitTerms) -> bool:
    """Whether the limit is kept to."""
    low = -math.inf if limit.at_least is None else limit.at_least
    return low <= value <= (math.inf if limit.at_most is None else limit.at_most)


def _toml(table: Mapping[str, object], path: tuple[str, ...] = ()) -> Iterator[str]:
    """Lines of a TOML document; None is left out. What a review compares stands on one line."""
    yield from (f"# {line}" for line in _COMMENTS.get(".".join(path), ()))
    inner = {key: value for key, value in table.items() if isinstance(value, Mapping) and len(path) < 2}
    for key, value in table.items():
        if isinstance(value, tuple):
            lines = [f"    {_toml_value(item)}," for item in value]
            yield from ("", *(f"# {line}" for line in _COMMENTS[key]), f"{key} = [", *lines, "]")
        elif value is not None and key not in inner:
            yield f"{_toml_key(key)} = {_toml_value(value)}"
    for key, value in inner.items():
        name = ".".join(map(_toml_key, (*path, key)))
        yield from ("", f"[{name}]", *_toml(value, (*path, key)))


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[\w-]+", key, re.ASCII) else _toml_value(key)


def _toml_value(value: object) -> str:
    if isinstance(value, str):
        assert printable(value) == value, "strings are made printable before they are held"
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, Mapping):
        pairs = (f"{_toml_key(key)} = {_toml_value(item)}" for key, item in value.items() if item is not None)
        return "{" + ", ".join(pairs) + "}"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _read_terms(path: Path) -> Terms:
    content = _content(path, _MAX_TERMS)
    if re.search(rb"^(<{7}|>{7})", content, re.MULTILINE):
        raise BaselineError(f"{path} holds merge markers (<<<<<<<); settle the merge, or bless a run again")
    try:
        table = tomllib.loads(content.decode())
        if type(table.get("schema")) is not int or table["schema"] != SCHEMA:
            raise BaselineError(
                f"{path} has schema {table.get('schema')!r:.40}; this program reads schema {SCHEMA}: open it with the "
                "gazebench that wrote it, or bless the run again"
            )
        terms = from_json(Terms, table, str(path))
        _refuse_unknown(table, asdict(terms), str(path))
    except BaselineError:
        raise
    except RunError as error:
        raise BaselineError(f"{error}; correct it, or bless a run again") from error
    except (ValueError, RecursionError) as error:
        raise BaselineError(f"{path} is not TOML ({error}); correct it, or bless a run again") from error
    if mistake := next(_mistakes(terms), None):
        raise BaselineError(f"{path}: {mistake}; correct it, or bless a run again")
    return terms


def _mistakes(terms: Terms) -> Iterator[str]:
    """What is of the right type but can't be."""
    if not 0.001 <= terms.alpha <= 0.5:
        yield f"alpha is {terms.alpha}; expected 0.001 to 0.5"
    if not 0 <= terms.captions.max_changed_share <= 1:
        yield f"max_changed_share is {terms.captions.max_changed_share}; expected a share from 0 to 1"
    if re.fullmatch(r"[^/\\\0]+\.captions\.jsonl", terms.captions.file) is None:
        yield f"captions are in {terms.captions.file!r:.80}; expected NAME.captions.jsonl in the same folder"
    names = Counter(
        [("metric", held.name, held.beam_size) for held in terms.metric]
        + [("limit", limit.name, limit.beam_size) for limit in terms.limit]
    )
    yield from (f"{' '.join(map(str, key))} is there twice" for key, number in names.items() if number > 1)
    for held in terms.metric:
        if min(held.hard_tol, held.tol or 0) < 0:
            yield f"a tolerance of {held.name} is negative"
        if held.tol is not None and (held.name not in TESTED or not held.higher_is_better):
            yield f"{held.name} has a tol; only {', '.join(TESTED)}, of which more is better, have a test"
    for limit in terms.limit:
        if limit.name not in LIMITS:
            yield f"there is no limit {limit.name!r:.80}; expected one of {', '.join(LIMITS)}"
    for name, speed in terms.speed.items():
        if (
            min(speed.cpu_ratio or 1.0, speed.wall_ratio) <= 0
            or speed.cpu_ratio == 0
            or min(speed.cpu_error or 0.0, speed.wall_error, speed.tol) < 0
        ):
            yield f"speed of {name} has a ratio, an error or a tol that can't be"


def _refuse_unknown(given: object, known: object, where: str) -> None:
    if isinstance(given, dict) and isinstance(known, dict):
        if unknown := [key for key in given if key not in known]:
            raise RunError(f"{where} holds {unknown[0]!r:.80}, which this program does not know")
        for key, value in given.items():
            _refuse_unknown(value, known[key], f"{where}: {key}")
    elif isinstance(given, list) and isinstance(known, tuple):
        for value, record in zip(given, known, strict=True):
            _refuse_unknown(value, record, where)


def _content(path: Path, limit: int) -> bytes:
    """The bytes of a plain file of bounded size."""
    try:
        if not path.is_file():
            raise BaselineError(
                f"{path} is not there, or no file; write it with `gazebench bless RUN -o {path.name}`"
            )
        if (size := path.stat().st_size) > limit:
            raise BaselineError(f"{path} has {size:,} bytes; at most {limit:,} are read")
        return path.read_bytes()
    except OSError as error:
        raise BaselineError(f"{path} can't be read ({error.strerror}); bless a run again") from error


def _read_captions(path: Path, terms: Terms) -> dict[Key, BlessedCaption]:
    beside = path.parent / terms.captions.file
    if not beside.resolve().is_relative_to(path.parent.resolve()):
        raise BaselineError(f"{beside} lies outside the folder of {path}; put the file itself there")
    content = _content(beside, _MAX_CAPTIONS)
    if re.search(rb"^(<{7}|>{7})", content, re.MULTILINE):
        raise BaselineError(f"{beside} holds merge markers (<<<<<<<); bless a run again")
    if (found := hashlib.sha256(content).hexdigest()) != terms.captions.sha256:
        raise BaselineError(
            f"{beside} has SHA-256 {found[:12]}…, {path.name} expects {terms.captions.sha256:.12}…: they are not from "
            "the same blessing, or line ends were converted; check both out again, or bless the run again"
        )
    captions = {}
    for number, line in enumerate(content.splitlines(), start=1):
        where = f"{beside}, line {number}"
        try:
            raw = json.loads(line, parse_constant=_no_constant)
            row = from_json(BlessedCaption, raw, where)
            _refuse_unknown(raw, asdict(row), where)
        except RunError as error:
            raise BaselineError(f"{error}; bless the run again") from error
        except (ValueError, RecursionError) as error:
            raise BaselineError(f"{where} is not JSON ({error}); bless the run again") from error
        captions[row.image_id, row.beam_size] = row
    return captions


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
