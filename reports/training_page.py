"""The page of a training: its curves, its epochs, and every setting, made from the training directory alone."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from reports.page import render, write_page
from reports.records import Json
from reports.redaction import redacted, without_folder
from reports.tables import EMPTY, Cell, Grid, Row, count, number
from reports.training import (
    BEST,
    EPOCHS,
    LAST,
    PAGE,
    STEPS,
    TENSORBOARD,
    EpochRow,
    TrainingRecord,
    TrainingStore,
)
from reports.training_curves import Leg, legs, places
from reports.training_figures import Curves, panels
from reports.training_findings import Stage, findings, stages, warnings
from reports.wording import clip

_EPOCHS_SHOWN = 40
_STAGES_SHOWN = 12
_SETTINGS_SHOWN = 200
LEFT_OUT_SHOWN = 100
"""Pictures that are listed by name."""
_COLUMNS = (
    Cell("Step"),
    Cell("Training loss", ("↓ nats per word",)),
    Cell("Validation loss", ("↓ nats per word",)),
    Cell("CIDEr", ("↑ 0 to 10",)),
    Cell("BLEU‑4", ("↑ 0 to 1",)),
    Cell("Teacher-forced", ("BLEU-4, no score",)),
    Cell("Learning rate"),
    Cell("Words per second"),
)


def write_training_page(folder: Path, out: Path | None = None, *, with_paths: bool = False) -> Path:
    """Writes the page of a training that is finished, running or interrupted; the same folder gives the same page.

    Args:
        folder: the training directory; nothing else is read.
        out: the file to write; training.html in the folder if None.
        with_paths: whether absolute paths, which name users and machines, are shown.

    Returns:
        The file written; a folder that can't be read is a `RunError`.
    """
    out = out or folder / PAGE
    write_page(render("training.html.j2", **_context(TrainingStore(folder), with_paths=with_paths)), out)
    return out


def _context(store: TrainingStore, *, with_paths: bool) -> dict[str, Any]:
    record, found = store.read_training(), legs(store.read_steps())
    record = record if with_paths else redacted(record)
    plan = stages(record.config)
    drawn = panels(Curves(found, record.epochs, places(record.epochs, found), record.best))
    return {
        "record": record,
        "with_paths": with_paths,
        "findings": findings(record, plan, sum(leg.steps for leg in found)),
        "warnings": warnings(record, plan),
        "left_out": record.data.left_out,
        "left_out_shown": LEFT_OUT_SHOWN,
        # Markup is right here: matplotlib drew these elements, and no stranger's text is in them.
        "panels": {name: (Markup(panel.svg), panel.text) for name, panel in drawn.items()},  # noqa: S704
        "stages": _stage_table(record, plan, found),
        "epochs": _epoch_table(record),
        "settings": _settings(record.config),
        "stage_settings": _stage_settings(plan),
        "objectives": {stage.objective for stage in plan},
        "folder": _folder(store.path, with_paths=with_paths),
        "files": {"best": BEST, "last": LAST, "steps": STEPS, "epochs": EPOCHS, "tensorboard": TENSORBOARD},
    }


def _folder(path: Path, *, with_paths: bool) -> str:
    """The training directory as a shell takes it; a placeholder where its name is a user's."""
    name = path.resolve().name
    is_private = not with_paths and not without_folder(str(path.resolve())).endswith(name)
    return "DIR" if is_private else shlex.quote(name)


def _epoch_table(record: TrainingRecord) -> Grid | None:
    """A line for each epoch; of very many, some evenly spread, with the best and the last."""
    epochs = record.epochs
    if not epochs:
        return None
    stride = -(-len(epochs) // _EPOCHS_SHOWN)
    kept = {*range(0, len(epochs), stride), len(epochs) - 1} | ({record.best} - {None})
    groups: dict[str, list[Row]] = {}
    several = len({row.stage for row in epochs}) > 1
    for place in sorted(place for place in kept if place is not None):
        title = clip(epochs[place].stage, 80) if several else ""
        groups.setdefault(title, []).append(_epoch(place, epochs[place], is_best=place == record.best))
    shown = sum(map(len, groups.values()))
    caption = "What each epoch came to"
    if shown < len(epochs):
        caption = f"What epochs came to: {shown} of {len(epochs):,}; all are in {EPOCHS}"
    rewarded = any(row.reward is not None for row in epochs)
    columns = (
        (*_COLUMNS[:2], Cell("Reward", ("↑ higher is better",)), *_COLUMNS[2:]) if rewarded else _COLUMNS
    )
    if not rewarded:
        groups = {
            title: [row._replace(cells=(*row.cells[:2], *row.cells[3:])) for row in rows]
            for title, rows in groups.items()
        }
    return Grid(caption, "Epoch", columns, groups)


def _epoch(place: int, row: EpochRow, *, is_best: bool) -> Row:
    values = [
        Cell(f"{row.step:,}"),
        _number(row.loss),
        _number(row.reward),
        _number(row.val_loss),
        _number(row.val_cider),
        _number(row.val_bleu4),
        _number(row.val_bleu4_teacher_forced),
        Cell(f"{row.learning_rate:.2g}"),
        Cell(f"{row.words_per_second:,.0f}"),
    ]
    if row.reason and row.val_cider is None and row.val_bleu4 is None:
        values[4] = Cell("–", (clip(row.reason, 200),))
    return Row(f"{place + 1:,}{' · kept' if is_best else ''}", tuple(values))


def _number(value: float | None) -> Cell:
    return EMPTY if value is None else Cell(number(value))


def _stage_table(record: TrainingRecord, plan: Sequence[Stage], curves: Sequence[Leg]) -> Grid | None:
    """What the numbers above the curves stand for; None where there is one stage."""
    if len(plan) < 2:
        return None
    steps = {leg.stage: leg.steps for leg in curves}
    rows = []
    for place, stage in enumerate(plan[:_STAGES_SHOWN], start=1):
        ended = [row for row in record.epochs if row.stage == stage.name]
        best = max((row.val_cider for row in ended if row.val_cider is not None), default=None)
        planned = "" if stage.epochs is None else f" of {stage.epochs:,}"
        cells = (
            Cell(clip(stage.objective, 60) or "–"),
            Cell("stays as it is" if stage.is_frozen else "is trained"),
            Cell(f"{len(ended):,}{planned}"),
            Cell(f"{steps.get(stage.name, 0):,}"),
            _number(best),
        )
        rows.append(Row(f"{place} · {clip(stage.name, 80)}", cells))
    heads = ("Learns by", "Trunk", "Epochs", "Steps")
    columns = (*map(Cell, heads), Cell("Best CIDEr", ("↑ 0 to 10, validation",)))
    return Grid("The numbers above the curves are those of the stages", "Stage", columns, {"": rows})


def _settings(config: Json) -> dict[str, str]:
    """Every setting but those that stand elsewhere, mappings within mappings as a.b, up to a bounded number."""
    found: dict[str, str] = {}
    _spread({key: value for key, value in config.items() if key not in ("stages", "source")}, "", found)
    return found


def _spread(values: Mapping[str, object], above: str, found: dict[str, str]) -> None:
    for key, value in values.items():
        if len(found) >= _SETTINGS_SHOWN:
            return
        if isinstance(value, dict) and value:
            _spread(value, f"{above}{clip(key, 60)}.", found)
        else:
            found[f"{above}{clip(key, 60)}"] = _shown(value)


def _stage_settings(plan: Sequence[Stage]) -> Grid | None:
    """A line for each setting, a column for each stage."""
    shown = plan[:_STAGES_SHOWN]
    flat: list[dict[str, str]] = []
    for stage in shown:
        flat.append({})
        _spread({key: value for key, value in stage.settings.items() if key != "name"}, "", flat[-1])
    names = list(dict.fromkeys(name for settings in flat for name in settings))[:_SETTINGS_SHOWN]
    rows = [Row(name, tuple(Cell(settings.get(name, "–")) for settings in flat)) for name in names]
    heads = tuple(Cell(f"{place} · {clip(stage.name, 80)}") for place, stage in enumerate(shown, start=1))
    caption = f"Settings of {count(len(shown), 'stage')}"
    return Grid(caption, "Setting", heads, {"": rows}) if rows else None


def _shown(value: object) -> str:
    return "–" if value is None else clip(str(value), 200)
