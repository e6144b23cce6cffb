"""The curves of a training, one small panel each, so that they stand side by side or, on a phone, below each other."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from reports.figures import INK, MAIN, MARK, STYLE, as_svg
from reports.tables import number
from reports.training import EpochRow
from reports.training_curves import Leg

MARKED = 60
"""Up to so many epochs have a dot each; of more, a line has that many times two points."""
_SIZE = (4.8, 2.9)
_STEEP = 30
"""A curve whose largest value is so many times its smallest stands on a logarithmic axis."""

Column = Literal["loss", "reward", "learning_rate", "gradient_norm"]
Value = Callable[[EpochRow], float | None]


class Curves(NamedTuple):
    """A training as it is drawn."""

    legs: Sequence[Leg]
    epochs: Sequence[EpochRow]
    places: Sequence[float]
    """Of the epochs' ends, in steps."""
    best: int | None
    """Place in `epochs`."""


class Panel(NamedTuple):
    """A drawing and what it says, for those who don't see it."""

    svg: str
    text: str


def panels(curves: Curves) -> dict[str, Panel]:
    """All panels that there is anything to draw in.

    Args:
        curves: of a training.

    Returns:
        By name: loss, cider, bleu, rate, norm, reward.
    """
    drawn = {
        "loss": _loss(curves),
        "cider": _scores(
            curves, "cider", "CIDEr, 0 to 10\nhigher is better", {"beam search": lambda row: row.val_cider}
        ),
        "bleu": _scores(
            curves,
            "bleu",
            "BLEU-4, 0 to 1\nhigher is better",
            {
                "beam search": lambda row: row.val_bleu4,
                "teacher-forced": lambda row: row.val_bleu4_teacher_forced,
            },
        ),
        "rate": _of_steps(curves, "rate", "learning_rate", "learning rate", "The learning rate"),
        "norm": _of_steps(curves, "norm", "gradient_norm", "norm\nbefore clipping", "The gradient’s norm"),
        "reward": _of_steps(curves, "reward", "reward", "reward\nhigher is better", "The mean reward"),
    }
    return {name: panel for name, panel in drawn.items() if panel}


def _loss(curves: Curves) -> Panel | None:
    validation = _of_epochs(curves, lambda row: row.val_loss)
    told = _told(curves, "loss")
    if not told and not validation:
        return None
    text = ""
    with mpl.rc_context(STYLE):
        figure, ax = _panel(curves, "nats per word\nlower is better")
        if told:
            _draw_steps(ax, curves, "loss", "training, smoothed")
            text = f"Training loss goes from {number(told[0], 2)} to {number(told[-1], 2)} nats per word. "
        if validation:
            _draw_epochs(ax, validation, "validation", MARK, "--")
            place, least = min(validation, key=lambda found: found[1])
            text += f"Validation loss is lowest at {number(least, 2)}, after {place:,.0f} steps."
        # Spikes of the pale line are cut off, or they would press all else to the ground.
        values = told + [value for _, value in validation]
        spare = 0.08 * (max(values) - min(values)) or 0.5
        ax.set_ylim(min(values) - spare, max(values) + spare)
        _legend(figure)
        return Panel(as_svg(figure, "loss", text.strip()), text.strip())


def _scores(curves: Curves, name: str, label: str, values: dict[str, Value]) -> Panel | None:
    found = {what: _of_epochs(curves, value) for what, value in values.items()}
    found = {what: line for what, line in found.items() if line}
    if not found:
        return None
    measure = label.split(",")[0]
    told = []
    with mpl.rc_context(STYLE):
        figure, ax = _panel(curves, label)
        for what, line in found.items():
            is_real = what == "beam search"
            _draw_epochs(ax, line, what, MAIN if is_real else MARK, "-" if is_real else "--")
            place, most = max(line, key=lambda point: point[1])
            told.append(
                f"{measure} ({what}) goes from {number(line[0][1])} to {number(line[-1][1])} and is highest at "
                f"{number(most)}, after {place:,.0f} steps."
            )
        if curves.best is not None:
            best = next(iter(values.values()))(curves.epochs[curves.best])
            if best is not None:
                ring: dict[str, Any] = {
                    "facecolors": "none",
                    "edgecolors": INK,
                    "s": 110,
                    "linewidth": 1.5,
                    "zorder": 5,
                    "clip_on": False,
                }
                ax.scatter([curves.places[curves.best]], [best], label="kept", **ring)
        ax.set_ylim(0, 1.1 * max(value for line in found.values() for _, value in line) or 1.0)
        _legend(figure)
        return Panel(as_svg(figure, name, " ".join(told)), " ".join(told))


def _of_steps(curves: Curves, name: str, column: Column, label: str, what: str) -> Panel | None:
    told = _told(curves, column)
    if not told:
        return None
    text = (
        f"{what} goes from {told[0]:.3g} to {told[-1]:.3g}; lowest {min(told):.3g}, highest {max(told):.3g}."
    )
    with mpl.rc_context(STYLE):
        figure, ax = _panel(curves, label)
        _draw_steps(ax, curves, column)
        if min(told) > 0 and max(told) > _STEEP * min(told):
            ax.set_yscale("log")
            ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")  # its own writes formulae
            ax.minorticks_off()
        elif min(told) >= 0:
            ax.set_ylim(bottom=0)
        return Panel(as_svg(figure, name, text), text)


def _told(curves: Curves, column: Column) -> list[float]:
    """The smoothed values of all stages, as the texts and the axes take them."""
    return [value for leg in curves.legs for value in leg.smoothed(column) if value is not None]


def _draw_steps(ax: Axes, curves: Curves, column: Column, label: str | None = None) -> None:
    """A pale line through the points, and a smoothed one; a rate has no noise to smooth."""
    for leg in curves.legs:
        places, smooth = [point.place for point in leg.points], _gaps(leg.smoothed(column))
        if not np.isfinite(smooth).any():
            continue
        raw = _gaps([getattr(point, column) for point in leg.points])
        if column == "learning_rate":
            ax.plot(places, raw, color=MAIN, linewidth=1.8)
            continue
        ax.plot(places, raw, color=MAIN, linewidth=0.9, alpha=0.35)
        ax.plot(places, smooth, color=MAIN, linewidth=1.8, label=label)
        label = None


def _gaps(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def _panel(curves: Curves, label: str) -> tuple[Figure, Axes]:
    """An empty panel with its axes, its stages marked where there are several."""
    figure = Figure(figsize=_SIZE)
    # The same margins in all, so that panels below each other are aligned.
    ax = figure.add_axes((0.2, 0.17, 0.78, 0.65))
    ends = [leg.before + leg.steps for leg in curves.legs] + list(curves.places)
    last = max(ends, default=1.0)
    ax.set(xlabel="steps", ylabel=label, xlim=(0, 1.02 * last))
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda step, _: short(step)))
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)))
    ax.yaxis.set_label_coords(-0.13, 0.5)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: narrow(value)))
    ax.xaxis.grid(visible=False)
    for place, leg in enumerate(curves.legs if len(curves.legs) > 1 else [], start=1):
        if place > 1:
            ax.axvline(leg.before, color=INK, linewidth=0.8, alpha=0.35)
        if leg.steps > 0.05 * last:
            middle, above = leg.before + leg.steps / 2, ax.get_xaxis_transform()
            ax.text(middle, 1.02, str(place), transform=above, ha="center", va="bottom", alpha=0.75)
    return figure, ax


def narrow(value: float) -> str:
    """A number in four characters, where that is enough for it."""
    if value and abs(value) < 0.01:
        digits, power = f"{value:.0e}".split("e")
        return f"{digits}e{int(power)}"
    return f"{value:.4g}".replace("-", "−")


def short(steps: float) -> str:
    """A number of steps as short as an axis needs it."""
    for size, unit in ((1e9, " bn"), (1e6, " m"), (1e4, "k")):
        if abs(steps) >= size:
            return f"{steps / (1e3 if unit == 'k' else size):g}{unit}"
    return f"{steps:,.0f}"


def _draw_epochs(ax: Axes, line: Sequence[tuple[float, float]], label: str, colour: str, dash: str) -> None:
    xs, ys = zip(*line, strict=True)
    size = 4 if len(line) <= MARKED else 0
    ax.plot(xs, ys, color=colour, linestyle=dash, linewidth=1.6, label=label, marker="o", markersize=size)


def _of_epochs(curves: Curves, value: Value) -> list[tuple[float, float]]:
    """Place and value of the epochs that have one; of very many only some, the best and the last included."""
    found = [
        (place, index, value(row))
        for index, (place, row) in enumerate(zip(curves.places, curves.epochs, strict=True))
    ]
    kept = [(place, index, known) for place, index, known in found if known is not None]
    stride = -(-len(kept) // (2 * MARKED)) or 1
    return [
        (place, known)
        for order, (place, index, known) in enumerate(kept)
        if order % stride == 0 or order == len(kept) - 1 or index == curves.best
    ]


def _legend(figure: Figure) -> None:
    spacing = {"handlelength": 1.6, "handletextpad": 0.5, "columnspacing": 1.0, "borderaxespad": 0.3}
    figure.legend(loc="upper left", bbox_to_anchor=(0.18, 1.01), ncols=3, frameon=False, **spacing)
