"""Making a run the one that later runs are compared with."""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from reports.baseline import read_baseline, read_terms
from reports.finished_run import (
    FinishedRun,
    hashes,
    is_timed,
    machine_terms,
    model_place,
    read_finished,
    references_sha256,
    sanity,
)
from reports.records import RunError
from reports.speed import SpeedRecord, clock
from reports.store import write_atomically
from reports.terms import (
    DIGITS,
    LIMITS,
    SCHEMA,
    STATISTICS,
    TESTED,
    Baseline,
    BaselineError,
    BlessedCaption,
    CaptionsTerms,
    LimitTerms,
    MetricTerms,
    SpeedTerms,
    Terms,
    within,
)
from reports.wording import beam, printable

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
            earlier = read_terms(out)
        except BaselineError as error:
            raise BaselineError(f"{error}; its tolerances would be lost: repair it, or remove it") from error
    lines = b"".join(_lines(finished))
    terms = _terms(finished, f"{out.stem}.captions.jsonl", hashlib.sha256(lines).hexdigest(), earlier)
    with write_atomically(out.parent / terms.captions.file) as file:
        file.write(lines)
    with write_atomically(out) as file:
        file.write("\n".join([*_toml(asdict(terms)), ""]).encode())
    return read_baseline(out)


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
