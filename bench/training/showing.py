"""A recipe as a person reads it: every hyper-parameter with its value and what it means."""

import ast
import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

from bench.training.recipe import AttentionPenalty, HardAttention, Stage, TrainingConfig

_WIDTH = 110
_TOLD_APART = ("source", "stages", "preprocessing", "decoder")
_FROM_DATA = ("vocabulary_size", "annotation_dim")
"""Fields of the decoder that follow from the captions and the encoder."""


def show(config: TrainingConfig, name: str) -> str:
    """A recipe for a terminal.

    Args:
        config: the recipe.
        name: what it is called.

    Returns:
        Lines of up to 110 characters: what it is from, then value and meaning of each hyper-parameter.
    """
    whole = complete(config)
    lines = [
        f"preset {name}",
        *textwrap.wrap(config.source, _WIDTH - 2, initial_indent="  ", subsequent_indent="  "),
    ]
    kinds = _kinds()
    sections: list[tuple[str, Mapping[str, Any], Mapping[str, str]]] = [
        ("training", {key: whole[key] for key in whole if key not in _TOLD_APART}, meanings(TrainingConfig)),
        ("picture", whole["preprocessing"], meanings(kinds["preprocessing"])),
        ("decoder", whole["decoder"], meanings(kinds["decoder"])),
    ]
    for number, stage in enumerate(whole["stages"], start=1):
        sections.append((f"stage {number}: {stage['name']}", _flat(stage), _stage_meanings()))
    width = max(len(f"{key} = {_text(value)}") for _, values, _ in sections for key, value in values.items())
    for title, values, meaning in sections:
        lines += ["", title]
        for key, value in values.items():
            lines += _line(f"  {key} = {_text(value)}", meaning[key], min(width, 44) + 4)
    return "\n".join(lines)


def complete(config: TrainingConfig) -> dict[str, Any]:
    """A recipe as JSON values, with those that it leaves at their defaults, and without folders.

    Args:
        config: the recipe.

    Returns:
        Fields of `TrainingConfig` by name.
    """
    whole = config.plain()
    for name, kind in _kinds().items():
        given: Mapping[str, Any] = whole[name]
        defaults = {f.name: f.default for f in fields(kind) if f.name not in _FROM_DATA}
        whole[name] = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in {**defaults, **given}.items()
        }
    return whole


def meanings_by_part() -> dict[str, dict[str, str]]:
    """What all fields mean: of the recipe, of its stages (`penalty.weight` for a field of `penalty`), and of its parts.

    Returns:
        Part -> field -> meaning.
    """
    parts = {name: meanings(kind) for name, kind in _kinds().items()}
    return {"training": meanings(TrainingConfig), "stage": _stage_meanings(), **parts}


@cache
def meanings(kind: type) -> dict[str, str]:
    """What the fields of a dataclass mean, from the line that stands under each in the source.

    Args:
        kind: a dataclass whose fields each have such a line.

    Returns:
        Field -> its line, wrapped lines joined.
    """
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for statement, after in zip(body.body, body.body[1:], strict=False):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found[statement.target.id] = " ".join(str(after.value.value).split()).replace("`", "")
    return found


def _kinds() -> dict[str, Any]:
    # They bring torch along, which recipes are read without.
    from models.decoder import DecoderConfig
    from models.preprocessing import Preprocessing

    return {"preprocessing": Preprocessing, "decoder": DecoderConfig}


def _stage_meanings() -> dict[str, str]:
    found = dict(meanings(Stage))
    for name, kind in (("penalty", AttentionPenalty), ("hard", HardAttention)):
        assert is_dataclass(kind)
        found |= {f"{name}.{key}": meaning for key, meaning in meanings(kind).items()}
    return found


def _flat(stage: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in stage.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat


def _text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _line(setting: str, meaning: str, width: int) -> list[str]:
    """The setting, and its meaning in a column beside it."""
    column = textwrap.wrap(meaning, _WIDTH - width)
    if len(setting) >= width:
        column.insert(0, "")
    first, *rest = column
    return [f"{setting:<{width}}{first}".rstrip(), *(" " * width + line for line in rest)]
