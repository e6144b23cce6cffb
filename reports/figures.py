"""Figures as inline SVG. Equal input gives equal bytes.

Colours in the SVG are CSS variables of the page, so that one figure serves the light and the dark theme.
"""

import io
import itertools
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.legend import CAPTIONS, measure_of
from reports.records import PATHS, TRIAL_DROPS, MethodInfo, MetricRow
from reports.stats import Interval
from reports.summary import ALL, Estimate, Table
from reports.wording import printable

# Stand-ins that matplotlib accepts as colours, and the CSS variable that takes the place of each.
INK, FAINT, MAIN, MARK = "#010101", "#020202", "#030303", "#040404"
_VARIABLES = {INK: "--ink", FAINT: "--rule", MAIN: "--accent", MARK: "--mark"}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gazebench",
    "font.size": 11,
    "axes.titlesize": 11,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.edgecolor", "grid.color"), FAINT),
    **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
    # Off: a "$" in a stranger's label must not start a formula.
    **dict.fromkeys(("text.parse_math", "axes.spines.top", "axes.spines.right"), False),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 0),
}
# Okabe & Ito's colour-blind safe blue and orange, and a grey; each with the text colour that reads on it.
_PATH_LOOKS = (
    ("this step’s attention", "#0072b2", "white"),
    ("earlier steps", "#e69f00", "black"),
    ("initial state", "#9a9a9a", "black"),
)


# Okabe & Ito again, without those that are hard to see on white or black; each with a dash of its own.
_LINES = (
    ("#0072b2", "-"), ("#d55e00", "--"), ("#009e73", "-."), ("#cc79a7", ":"), ("#9a9a9a", "-"), ("#e69f00", "--"),
)  # fmt: skip


def scores_by_beam(metrics: Iterable[MetricRow]) -> str | None:
    """One panel per metric: value and 95 % interval at each beam size; None if nothing was scored."""
    panels: dict[str, list[MetricRow]] = {name: [] for name in ("BLEU-4", "METEOR", "ROUGE-L", "CIDEr")}
    for row in sorted(metrics, key=lambda row: row.beam_size):
        if row.name in panels and row.value is not None:
            panels[row.name].append(row)
    panels = {name: rows for name, rows in panels.items() if rows}
    if not panels:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.6 * len(panels) + 0.2, 2.9), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for ax, (name, rows) in zip(axes, panels.items(), strict=True):
            beams = [str(row.beam_size) for row in rows]
            for beam, row in zip(beams, rows, strict=True):
                if row.ci_low is not None and row.ci_high is not None:
                    ax.plot([beam, beam], [row.ci_low, row.ci_high], color=MAIN, linewidth=2, alpha=0.45)
            values = [row.value for row in rows]
            sns.scatterplot(x=beams, y=values, ax=ax, color=MAIN, s=60, linewidth=0, zorder=3)
            unit = CAPTIONS[name].range
            ax.set(title=name, xlabel="beam size", ylabel=f"{unit}, higher is better", xmargin=0.25)
            _spread(ax, unit)
            ax.xaxis.grid(visible=False)
        return as_svg(figure, "scores", "Caption scores by beam size with 95 % intervals")


def quality_against_time(points: Mapping[str, tuple[float, Interval]], metric: str) -> str | None:
    """One labelled point per beam size, joined by a line: the score with its 95 % interval against the time.

    Args:
        points: beam size, as it is called -> milliseconds per image and score, in the order of the line.
        metric: the score's name.

    Returns:
        An SVG element; None for fewer than two points.
    """
    if len(points) < 2:
        return None
    unit = CAPTIONS[metric].range
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.8, 3.6), layout="constrained")
        ax = figure.subplots()
        times, scores = [time for time, _ in points.values()], [found for _, found in points.values()]
        ax.plot(times, [found.value for found in scores], color=MAIN, linewidth=1.2, alpha=0.6)
        for time, found in points.values():
            if found.low is not None and found.high is not None:
                ax.plot([time, time], [found.low, found.high], color=MAIN, linewidth=2.5, alpha=0.45)
        sns.scatterplot(
            x=times, y=[found.value for found in scores], ax=ax, color=MAIN, s=70, linewidth=0, zorder=3
        )
        # Labels go left of the first point and right of the others, where the line does not run: above the last, below
        # the one before, as larger beams hardly differ.
        for place, (label, (time, found)) in enumerate(list(points.items())[::-1]):
            is_first = place == len(points) - 1
            beside, side = ((-9, 9), "right") if is_first else ((9, (9, -18)[place % 2]), "left")
            ax.annotate(label, (time, found.value), beside, textcoords="offset points", ha=side)
        ax.set(
            xlabel="milliseconds per image, lower is better", ylabel=f"{metric}, {unit}\nhigher is better",
            xmargin=0.2,
        )  # fmt: skip
        # Nor should a tenth more time look like a multiple.
        spare = max(0.0, 0.4 * max(times) - (max(times) - min(times))) / 2
        ax.set_xlim(max(0.0, ax.get_xlim()[0] - spare), ax.get_xlim()[1] + spare)
        _spread(ax, unit)
        return as_svg(figure, "beams", f"{metric} against milliseconds per image, by beam size")


def _spread(ax: Axes, unit: str) -> None:
    """Shows a twentieth of the scale at least, or rounding errors would look like findings."""
    low, high = ax.get_ylim()
    spare = max(0.0, 0.05 * float(unit.split()[-1]) - (high - low)) / 2
    ax.set_ylim(low - spare, high + spare)


def measures_by_method(
    table: Table,
    groups: Iterable[Sequence[MethodInfo]],
    measures: Sequence[str],
    *,
    name: str,
    title: str,
    ceiling: str = "ceiling: the true mask at this resolution",
) -> str | None:
    """One panel per measure, one line per method: value with interval, null and ceiling as marks.

    Args:
        table: of methods.
        groups: the methods, with a gap after each group; within a group the best of the first panel comes first.
        measures: the panels.
        name: prefix of the ids inside the SVG, unique in the page.
        title: what a screen reader says.
        ceiling: what the ceiling is called.

    Returns:
        An SVG element; None if no method has a value.
    """
    measures = [measure for measure in measures if any(measure in row for row in table.values())]
    if not measures:
        return None
    lines: dict[str, tuple[float, str]] = {}
    for gaps, group in enumerate(groups):
        known = sorted(
            (m for m in group if m.name in table), key=lambda m: _place(table[m.name], measures[0])
        )
        lines |= {m.name: (len(lines) + i + 0.7 * gaps, m.label) for i, m in enumerate(known)}
    return _panels(table, lines, measures, name=name, title=title, ceiling=ceiling) if lines else None


def _place(row: Mapping[str, Estimate], measure: str) -> float:
    """The better, the lower; methods without a value come last."""
    if measure not in row:
        return np.inf
    value = row[measure].interval.value
    return -value if measure_of(measure).higher_is_better else value


def trial_drops(trial: Table) -> str | None:
    """One panel per way of tampering, one line per word class: what a word's probability loses."""
    rows = {name: row for name, row in trial.items() if any(drop in row for drop in TRIAL_DROPS)}
    measures = [drop for drop in TRIAL_DROPS if any(drop in row for row in rows.values())]
    lines = {name: (float(place), name) for place, name in enumerate(rows)}
    title = "What a word’s probability loses when attention is tampered with, per word class"
    return (
        _panels(rows, lines, measures, name="trial", title=title, ceiling="", same=True) if measures else None
    )


def _panels(
    table: Table,
    lines: Mapping[str, tuple[float, str]],
    measures: Sequence[str],
    *,
    name: str,
    title: str,
    ceiling: str,
    same: bool = False,
) -> str:
    """Panels side by side.

    Args:
        table: of what the lines stand for.
        lines: height, from the top, and label of each.
        measures: one panel each.
        name: prefix of ids.
        title: of the figure.
        ceiling: what the ceiling is called.
        same: whether all panels have the same scale.

    Returns:
        An SVG element.
    """
    heights, labels = zip(*lines.values(), strict=True)
    with mpl.rc_context(STYLE):
        width = 2.4 + 1.6 * len(measures) if same else min(10.8, 2.4 + 2.1 * len(measures))
        size = (width, 1.6 + 0.28 * heights[-1])
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(1, len(measures), sharey=True, sharex=same, squeeze=False)[0]
        marks: dict[str, Any] = {}
        for ax, measure in zip(axes, measures, strict=True):
            found = [(y, table[m][measure]) for m, (y, _) in lines.items() if measure in table[m]]
            marks |= _draw_marks(ax, found, ceiling)
            meaning = measure_of(measure)
            words = {True: "higher is better", False: "lower is better", None: "0: it loses nothing"}
            ax.set(
                title=meaning.label,
                xlabel=f"{meaning.range}\n{words[meaning.higher_is_better]}",
                ylim=(heights[-1] + 0.6, -0.6),
            )
            if meaning.range == "0 to 1":
                ax.set(xlim=(-0.04, 1.06), xticks=(0, 0.5, 1), xticklabels=("0", "0.5", "1"))
        axes[0].set_yticks(heights, [printable(label)[:40] for label in labels])
        figure.legend(marks.values(), marks.keys(), loc="outside upper left", ncols=4, frameon=False)
        return as_svg(figure, name, title)


def lag_profile(lags: Mapping[str, Mapping[int, Mapping[str, Estimate]]]) -> str | None:
    """Attention on a word's place, steps before and after it is said: a line per word class, with 95 % intervals."""
    classes = [name for name in lags if name != ALL] or list(lags)
    measures = [
        m for m in ("mass", "pointing") if any(m in row for name in classes for row in lags[name].values())
    ]
    if not measures:
        return None
    looks = dict(zip(classes, itertools.cycle(_LINES), strict=False))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.8, 3.2), layout="constrained")
        axes = figure.subplots(1, len(measures), squeeze=False)[0]
        for ax, measure in zip(axes, measures, strict=True):
            for number, (name, (colour, style)) in enumerate(looks.items()):
                profile = {
                    lag: row[measure].interval for lag, row in sorted(lags[name].items()) if measure in row
                }
                steps = [lag + 0.06 * (number - (len(looks) - 1) / 2) for lag in profile]
                values = [found.value for found in profile.values()]
                label = printable(name)[:40]
                ax.plot(steps, values, linestyle=style, marker="o", color=colour, markersize=5, label=label)
                for step, found in zip(steps, profile.values(), strict=True):
                    if found.low is not None and found.high is not None:
                        ax.plot([step, step], [found.low, found.high], color=colour, alpha=0.5, linewidth=2)
            ax.set(
                title=measure_of(measure).label, ylabel="0 to 1, higher is better", ylim=(-0.04, 1.04),
                xlabel="attention so many steps after the word’s own", xticks=range(-2, 3),
            )  # fmt: skip
            ax.xaxis.grid(visible=False)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=6, frameon=False)
        return as_svg(figure, "lags", "Attention on a word’s place some steps before and after it is said")


def _draw_marks(ax: Axes, found: Sequence[tuple[float, Estimate]], ceiling: str) -> dict[str, Any]:
    """Draws one panel; returns what its legend shows."""
    for y, estimate in found:
        low, high = estimate.interval.low, estimate.interval.high
        if low is not None and high is not None:
            ax.plot([low, high], [y, y], color=MAIN, linewidth=2.5, alpha=0.45)
    for label, values, marker, size, colour in (
        ("value, 95 % interval", [e.interval.value for _, e in found], "o", 42, MAIN),
        ("null: by chance", [e.null for _, e in found], "|", 120, MARK),
        (ceiling, [e.ceiling for _, e in found], ">", 34, MARK),
    ):
        xs, ys = (
            [v for v in values if v is not None],
            [y for v, (y, _) in zip(values, found, strict=True) if v is not None],
        )
        if xs:
            width = 1.6 if marker == "|" else 0
            above = 3 if marker == "o" else 2
            ax.scatter(
                xs, ys, s=size, marker=marker, color=colour, linewidth=width, label=label, zorder=above
            )
    ax.xaxis.grid(visible=False)
    handles, labels = ax.get_legend_handles_labels()
    return dict(zip(labels, handles, strict=True))


def multiples_of_floor(rows: Mapping[str, Mapping[str, float]]) -> str | None:
    """One bar per benchmark: its time as a multiple of the least that the machine would need.

    Args:
        rows: group -> benchmark -> multiple.

    Returns:
        An SVG element; None if there is no benchmark.
    """
    lines = [(name, value) for group in rows.values() for name, value in group.items()]
    if not lines:
        return None
    gaps = np.repeat(np.arange(len(rows)), [len(group) for group in rows.values()])
    heights = np.arange(len(lines)) + 0.7 * gaps
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.8, 1.4 + 0.28 * (heights[-1] + 1)), layout="constrained")
        ax = figure.subplots()
        widths = [value for _, value in lines]
        right = 1.12 * max(1.0, *widths)
        ax.barh(heights, widths, 0.62, color=MAIN, alpha=0.55)
        ax.axvline(1, color=MARK, linewidth=1.6, linestyle="--", label="the floor")
        for y, width in zip(heights, widths, strict=True):
            ax.text(right, y, f"{width:.2f}", ha="right", va="center")
        ax.set_yticks(heights, [printable(name)[:60] for name, _ in lines])
        ax.set(
            ylim=(heights[-1] + 0.6, -0.6), xlim=(0, right),
            xlabel="time as a multiple of the floor, lower is better",
        )  # fmt: skip
        ax.yaxis.grid(visible=False)
        figure.legend(loc="outside upper left", frameon=False)
        return as_svg(figure, "floors", "Time of each benchmark as a multiple of the floor")


def path_shares(paths: Table) -> str | None:
    """Stacked bars, one per word class: which path the gradient takes; None if paths were not measured."""
    rows = {name: row for name, row in paths.items() if set(PATHS) <= set(row)}
    if not rows:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.8, 1.2 + 0.42 * len(rows)), layout="constrained")
        ax = figure.subplots()
        left = np.zeros(len(rows))
        for path, (label, colour, ink) in zip(PATHS, _PATH_LOOKS, strict=True):
            widths = [row[path].interval.value for row in rows.values()]
            bars = ax.barh(range(len(rows)), widths, 0.72, left=left, color=colour, label=label)
            shown = [f"{100 * width:.0f} %" if width > 0.06 else "" for width in widths]
            ax.bar_label(bars, shown, label_type="center", color=ink)
            left += widths
        ax.set_yticks(range(len(rows)), [printable(name)[:40] for name in rows])
        ax.invert_yaxis()
        ax.set(xlim=(0, 1), xlabel="share of the word’s gradient (0 to 1, describes only)")
        sns.despine(ax=ax, left=True)
        ax.grid(visible=False)
        figure.legend(loc="outside upper left", ncols=3, frameon=False)
        return as_svg(figure, "paths", "Path shares per word class")


_UNWANTED = re.compile(
    r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->|font-family: [^;\"]*;? ?", re.DOTALL
)


def as_svg(figure: Figure, name: str, title: str) -> str:
    """The figure as one SVG element: themed, with ids of its own, without fonts, metadata and comments."""
    drawn = io.StringIO()
    with warnings.catch_warnings():
        # A stranger's label may need characters that no font here has; the reader's browser will draw them.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    svg = drawn.getvalue()
    svg = _UNWANTED.sub("", svg[svg.index("<svg") :])
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    width, height = (72 * inches for inches in figure.get_size_inches())
    # Smaller, the text is hard to read: then the figure scrolls. Larger, it would shout beside the page's.
    size = f"min-width: {width:.0f}px; max-width: min(62rem, {1.28 * width:.0f}px)"
    style = f'style="{size}" viewBox="0 0 {width:g} {height:g}"'
    return re.sub("<svg[^>]*>", f'<svg role="img" aria-label="{title}" {style}>', svg, count=1).strip()
