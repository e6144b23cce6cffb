"""Reading a baseline. Nothing in it is executed, and it names no file outside its folder."""

import hashlib
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from reports.corpus import corpus_scores
from reports.records import RunError, from_json, refuse_constant
from reports.terms import (
    DIGITS,
    LIMITS,
    SCHEMA,
    SLACK,
    STATISTICS,
    TESTED,
    Baseline,
    BaselineError,
    BlessedCaption,
    Key,
    SpeedTerms,
    Terms,
)
from reports.wording import beam

_MAX_TERMS = 2 << 20
_MAX_CAPTIONS = 512 << 20


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
    terms = read_terms(path)
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
        if found is None or abs(found - held.value) > SLACK:
            raise BaselineError(
                f"{path} says {name} {held.value} at {beam(held.beam_size)}, its captions "
                f"{'lack it' if found is None else f'{found:.{DIGITS}f}'}; bless the run again"
            )
    return Baseline(terms, captions, frames)


def read_terms(path: Path) -> Terms:
    """The file that is reviewed, without the captions beside it; raises `BaselineError` if it can't be used."""
    content = _content(path, _MAX_TERMS)
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
        if not _is_possible(speed):
            yield f"speed of {name} has a ratio, an error or a tol that can't be"


def _is_possible(speed: SpeedTerms) -> bool:
    ratios, errors = (speed.cpu_ratio, speed.wall_ratio), (speed.cpu_error, speed.wall_error, speed.tol)
    return all(x is None or x > 0 for x in ratios) and all(x is None or x >= 0 for x in errors)


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
    """The bytes of a plain file of bounded size, which no merge has left unsettled."""
    try:
        if not path.is_file():
            raise BaselineError(
                f"{path} is not there, or no file; write it with `gazebench bless RUN -o {path.name}`"
            )
        if (size := path.stat().st_size) > limit:
            raise BaselineError(f"{path} has {size:,} bytes; at most {limit:,} are read")
        content = path.read_bytes()
    except OSError as error:
        raise BaselineError(f"{path} can't be read ({error.strerror}); bless a run again") from error
    if re.search(rb"^(<{7}|>{7})", content, re.MULTILINE):
        raise BaselineError(f"{path} holds merge markers (<<<<<<<); settle the merge, or bless a run again")
    return content


def _read_captions(path: Path, terms: Terms) -> dict[Key, BlessedCaption]:
    beside = path.parent / terms.captions.file
    if not beside.resolve().is_relative_to(path.parent.resolve()):
        raise BaselineError(f"{beside} lies outside the folder of {path}; put the file itself there")
    content = _content(beside, _MAX_CAPTIONS)
    if (found := hashlib.sha256(content).hexdigest()) != terms.captions.sha256:
        raise BaselineError(
            f"{beside} has SHA-256 {found[:12]}…, {path.name} expects {terms.captions.sha256:.12}…: they are not from "
            "the same blessing, or line ends were converted; check both out again, or bless the run again"
        )
    captions = {}
    for number, line in enumerate(content.splitlines(), start=1):
        where = f"{beside}, line {number}"
        try:
            raw = json.loads(line, parse_constant=refuse_constant)
            row = from_json(BlessedCaption, raw, where)
            _refuse_unknown(raw, asdict(row), where)
        except RunError as error:
            raise BaselineError(f"{error}; bless the run again") from error
        except (ValueError, RecursionError) as error:
            raise BaselineError(f"{where} is not JSON ({error}); bless the run again") from error
        captions[row.image_id, row.beam_size] = row
    return captions


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
