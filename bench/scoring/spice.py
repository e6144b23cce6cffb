"""SPICE (Anderson et al. 2016): the program that pycocoevalcap ships, with the parser that the user put in place.

pycocoevalcap's own driver downloads that parser (384 MB) without asking, writes into the installed package, fails on
Java 15 and later, and hands out scores in another order than captions came in.
"""

import json
import math
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile, ZipFile

import pycocoevalcap

from bench.errors import JavaError

VARIABLE = "GAZEBENCH_SPICE"
"""Environment variable with the folder of Stanford CoreNLP 3.6.0."""
SOURCE = "http://nlp.stanford.edu/software/stanford-corenlp-full-2015-12-09.zip"
"""Where pycocoevalcap takes it from."""
_FOLDER = Path(next(iter(pycocoevalcap.__path__)), "spice")
_PLAIN_JSON = Path(__file__).parent / "plain_json"
_JARS = {
    "stanford-corenlp-3.6.0.jar": (
        "edu/stanford/nlp/pipeline/StanfordCoreNLP.class",
        "edu/stanford/nlp/trees/UniversalEnglishGrammaticalRelations.class",  # not in 3.4.1, the tokenizer's
    ),
    "stanford-corenlp-3.6.0-models.jar": (
        "edu/stanford/nlp/models/lexparser/englishPCFG.ser.gz",
        "edu/stanford/nlp/models/ner/english.all.3class.distsim.crf.ser.gz",
    ),
}
"""The files to find, and what each must hold."""
# What SPICE's authors ask for; it is a limit, not a reservation. Numbers are read and written by the locale.
_FLAGS = ("-Xmx8G", "-XX:+UseSerialGC", "-Duser.language=en", "-Duser.country=US")
_JAVA_ERROR = re.compile(r"(?:[a-z]\w*\.)+\w*(?:Exception|Error): .+")


class SpiceJars(NamedTuple):
    """The two files of Stanford CoreNLP 3.6.0 that SPICE needs."""

    corenlp: Path
    models: Path


def find_spice() -> SpiceJars | None:
    """What `require_spice` returns, or None where it raises."""
    try:
        return require_spice()
    except JavaError:
        return None


def require_spice() -> SpiceJars:
    """Stanford CoreNLP 3.6.0, from the folder GAZEBENCH_SPICE or else from where pycocoevalcap puts it.

    Returns:
        Its files, which are what they should be as far as their tables of contents tell.

    Raises:
        JavaError: if one is missing or something else; the message says how to get it.
    """
    given = os.environ.get(VARIABLE)
    folder = Path(given).expanduser().absolute() if given else _FOLDER / "lib"
    for name, entries in _JARS.items():
        if flaw := _flaw(folder / name, entries):
            raise JavaError(
                f"SPICE needs Stanford CoreNLP 3.6.0, but {folder / name} {flaw}; unpack {SOURCE} (384 MB) and "
                f"set {VARIABLE} to the folder that holds {' and '.join(_JARS)}"
            )
    return SpiceJars(*(folder / name for name in _JARS))


def _flaw(path: Path, entries: Sequence[str]) -> str | None:
    try:
        if not path.is_file():
            return "is missing"
        with path.open("rb") as file:
            begin = file.read(100).lstrip()
        with ZipFile(path) as jar:
            lacking = set(entries).difference(jar.namelist())
    except OSError as error:
        return f"can't be read ({error.strerror})"
    except (BadZipFile, NotImplementedError, ValueError):
        if begin.startswith(b"version https://git-lfs"):
            return "is a Git LFS pointer instead of the file"
        if begin.startswith(b"<"):
            return "is a web page instead of the file"
        return "is no whole jar file, perhaps a download that broke off"
    return f"lacks {min(lacking)}" if lacking else None


def spice_scores(
    pairs: Sequence[tuple[str, Sequence[str]]], jars: SpiceJars, java: Path, deadline: float
) -> list[float | None]:
    """SPICE's F-score of each caption, by a process of its own; nothing it parsed is kept.

    Args:
        pairs: tokenised caption and tokenised references.
        jars: Stanford CoreNLP.
        java: the Java program, version 8 or later.
        deadline: seconds after which the process is killed. Loading the models takes about ten; then each caption and
            each reference is parsed.

    Returns:
        Scores, 0 to 1, in the order of `pairs`; None where there is no finite one.

    Raises:
        JavaError: if the program fails, takes too long, or does not score every caption.
    """
    # Without a cache of parsed captions SPICE needs neither its native library nor Java's private fields.
    class_path = (
        _PLAIN_JSON,
        _FOLDER / "spice-1.0.jar",
        *jars,
        *sorted((_FOLDER / "lib").glob("*.jar")),
    )
    # Positions stand for the images: SPICE's answer may come in any order.
    items = [
        {"image_id": number, "test": caption, "refs": list(references)}
        for number, (caption, references) in enumerate(pairs)
    ]
    with tempfile.TemporaryDirectory(prefix="gazebench-spice-") as folder:
        captions, scores = Path(folder, "captions.json"), Path(folder, "scores.json")
        captions.write_text(json.dumps(items))
        command = [
            str(java),
            *_FLAGS,
            "-cp",
            os.pathsep.join(map(str, class_path)),
            "edu.anu.spice.SpiceScorer",
        ]
        try:
            done = subprocess.run(
                [*command, str(captions), "-out", str(scores), "-silent"],
                capture_output=True,
                cwd=folder,
                env=os.environ | {"LC_ALL": "C.UTF-8"},
                timeout=deadline,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise JavaError(f"SPICE did not answer within {deadline:g} s and was stopped") from None
        except OSError as error:
            raise JavaError(f"SPICE could not be started with {java}: {error}") from error
        if done.returncode != 0 or not scores.is_file():
            raise JavaError(f"SPICE ended (exit code {done.returncode}): {_complaint(done.stderr)}")
        return _read_scores(scores.read_text(errors="replace"), len(pairs))


def _read_scores(text: str, count: int) -> list[float | None]:
    try:
        found = {row["image_id"]: row["scores"]["All"]["f"] for row in json.loads(text)}
        finite = {
            number: None if f is None or not math.isfinite(f) else float(f) for number, f in found.items()
        }
    except (KeyError, TypeError, ValueError):
        raise JavaError(f"SPICE answered {text[:100]!r} instead of scores") from None
    if finite.keys() != set(range(count)):
        raise JavaError(f"SPICE was given {count} captions and answered with scores of {len(finite)}")
    return [finite[number] for number in range(count)]


def _complaint(stream: bytes) -> str:
    """The first Java error with a message in an error stream, else how the stream begins."""
    text = stream.decode(errors="replace")
    named = _JAVA_ERROR.search(text)
    return (named.group() if named else " ".join(text.split()))[:300] or "no message"
