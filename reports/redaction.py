"""What a report that is sent to others leaves out: where things lie on the machine that made the run.

Absolute paths carry the names of users and hosts. Of each only the last part is kept, `/home/ann/data/best.pth` being
shown as `…/best.pth`. Nothing is asked of the machine that writes the report: what it is called says nothing of others.
"""

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any, TypeVar

from reports.records import Failure, RunRecord
from reports.training import TrainingRecord

_R = TypeVar("_R", RunRecord, TrainingRecord)

_GONE = "…"
_HOMES = ("home", "users")

# Where a path may begin. What stands before decides: "1/3", "and/or", "./x" and "$HOME/x" are no absolute paths.
_AFTER = r"(?:(?<=\s-[A-Za-z])|(?<=^-[A-Za-z])|(?<![\w.…/\\)\]%~$}*+]))"
_SCHEMES = "(?:file|smb|nfs|ssh|sftp|scp|rsync)"
_STARTS = "|".join((
    r"(?<![\w…])[A-Za-z]:[\\/]+(?=[^\s\\/])",
    r"(?<![\w…\\])\\\\+(?=[\w?.])[^\s\\]+\\+(?=[^\s\\])",
))  # fmt: skip
_OTHERS = rf"(?<!\w){_SCHEMES}://+(?=[^\s/])|(?<![\w…/\\])~(?:[A-Za-z_][\w.-]*)?[/\\]+(?=[^\s\\/])"


def _posix(part: str) -> str:
    """The beginning of a path with two parts or more, the first of which is made of `part`."""
    return rf"{_AFTER}/+(?=(?![\s…]){part}+/+[^/\s])"


_IN_LINE, _IN_QUOTES = _posix(r"(?:\\.|[^/\s\\])"), _posix(r"[^/\n]")
# One character of a path in running text; of Windows also a space where a backslash follows: "C:\Users\Ann Lee\x.pth".
_CHARACTER = r"(?:\\.|'(?=\w)|[^\s\"'`<>|\\])"
_WINDOWS = r"(?:[^\s\"'`<>|]|[ ](?=[^\\/:\"'`<>|\n]{0,80}\\))"
_URL = rf"(?<!\w)(?!{_SCHEMES}:)[a-z][a-z0-9+.-]{{0,30}}://"
_PATHS = re.compile(
    rf"""
    (?P<url>{_URL})(?P<login>[^\s/@"'`]+@)?(?P<rest>[^\s"'`<>,;|()]*)
    | (?P<quote>["'`])(?P<before>[^\s"'`/\\]*?)
        (?P<quoted>(?:{_IN_QUOTES}|{_STARTS}|{_OTHERS})(?:(?!(?P=quote))[^\n])+)(?P=quote)
    | (?P<windows>(?:{_STARTS}){_WINDOWS}*)
    | (?P<bare>(?:{_IN_LINE}|{_OTHERS}){_CHARACTER}*)
    | (?P<remote>(?<![\w.+@-])[\w.+-]+@(?:[A-Za-z][\w.-]*|\d+(?:\.\d+){{3}}):(?=[\w~/.\\…]))
    """,
    re.VERBOSE | re.IGNORECASE,
)
_WHOLE = re.compile(rf"[^\s/\\]*?(?P<path>(?:{_IN_QUOTES}|{_STARTS}|{_OTHERS}).*)", re.DOTALL | re.IGNORECASE)


def without_paths(text: str) -> str:
    """The text without the folders of absolute paths, and without `user@host:` before paths and in addresses.

    Paths with spaces are known by their quotes, or by the backslashes that follow. URLs, ratios, options and relative
    paths stay as they are. Doing it twice changes nothing more.

    Args:
        text: a sentence, a setting, a message.

    Returns:
        The text; of a home folder, whose name is the user's, not even the last part is left.
    """
    # Each round makes the text shorter or leaves it alone; what comes apart may hold another path.
    while (shorter := _PATHS.sub(_replaced, text)) != text:
        text = shorter
    return text


def without_folder(text: str) -> str:
    """`without_paths` for a name, an id or a setting: if it is nothing but a path, it may hold spaces.

    Args:
        text: such as `/data/my pictures/a b.jpg` or `--images=/data/my pictures`.

    Returns:
        The text; of running text what `without_paths` returns.
    """
    found = _WHOLE.fullmatch(text)
    if found is None or re.search(_URL, text, re.IGNORECASE):
        return without_paths(text)
    return without_paths(text[: found.start("path")] + _last_part(found["path"]))


def _replaced(found: re.Match[str]) -> str:
    if found["url"]:
        return found["url"] + found["rest"]
    if found["quote"]:
        return f"{found['quote']}{found['before']}{_last_part(found['quoted'])}{found['quote']}"
    return "" if found["remote"] else _last_part(found["windows"] or found["bare"])


def _last_part(path: str) -> str:
    scheme, _, after = path.rpartition("://")
    is_windows = "\\" in after and not after.startswith("/")
    parts = [part for part in re.split(r"[\\/]+" if is_windows else "/+", after) if part]
    if len(parts) < 2 and not scheme:
        return _GONE
    if len(parts) > 1 and parts[-2].lower() in _HOMES:
        return _GONE
    return f"{_GONE}/{parts[-1]}" if parts else _GONE


def redacted(record: _R) -> _R:
    """The record without absolute paths, in every text that it holds.

    Args:
        record: of a run or a training.

    Returns:
        A record that can be shown to others. Where two keys of a mapping come out alike, the first has its value.
    """
    shown: _R = _walk(record, _within(record.config))
    return shown


def redacted_failure(failure: Failure) -> Failure:
    """The failure without absolute paths in its reason and image id."""
    shown: Failure = _walk(failure, without_paths)
    return shown


def _walk(value: Any, shown: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return shown(value)
    if is_dataclass(value) and not isinstance(value, type):
        kept = {field.name: getattr(value, field.name) for field in fields(value)}
        return replace(value, **{name: _walk(item, _OF.get(name, shown)) for name, item in kept.items()})
    if isinstance(value, Mapping):
        known: dict[object, object] = {}
        for key, item in value.items():
            known.setdefault(_walk(key, without_folder), _walk(item, without_folder))
        return known
    if isinstance(value, tuple | list):
        return type(value)(_walk(item, shown) for item in value)
    return value


def _command(text: str) -> str:
    """A command line, word by word; as it is where no word holds a path."""
    try:
        words = shlex.split(text)
    except ValueError:  # a quote that is never closed
        return without_paths(text)
    shown = [without_folder(word) for word in words]
    return text if shown == words else " ".join(map(_quoted, shown))


def _quoted(word: str) -> str:
    """The word as a shell takes it; `…` is no sign of the shell's, though `shlex` is careful about it."""
    plain = word.replace(_GONE, "")
    return word if plain and shlex.quote(plain) == plain else shlex.quote(word)


_OF = {"command": _command, "name": without_folder, "missing": without_folder, "image_id": without_folder}


def _within(config: Mapping[str, object]) -> Callable[[str], str]:
    """`without_paths` that knows paths with spaces from the run's settings, whoever forgets to quote them."""
    known = [text for text in _texts(config) if " " in text and without_folder(text) != text]
    return partial(
        _without_known, {text: without_folder(text) for text in sorted(known, key=len, reverse=True)}
    )


def _without_known(known: Mapping[str, str], text: str) -> str:
    for path, shown in known.items():
        text = text.replace(path, shown)
    return without_paths(text)


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    return [text for item in inner for text in _texts(item)]
