"""Figures as inline SVG, and maps as tiny pictures. Equal input gives equal bytes.

Colours in the SVG are CSS variables of the page, so that one figure serves the light and the dark theme.
"""

import base64
import io
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from reports.legend import CAPTIONS, MEASURES
from reports.records import PATHS, MethodInfo, MetricRow
from reports.summary import Estimate, Table
from reports.wording import printable

# Stand-ins that matplotlib accepts as colours, and the CSS variable that takes the place of each.
_INK, _FAINT, _MAIN, _MARK = "#010101", "#020202", "#030303", "#040404"
_VARIABLES = {_INK: "--ink", _FAINT: "--rule", _MAIN: "--accent", _MARK: "--mark"}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gazebench",
    "font.size": 11,
    "axes.titlesize": 11,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), _INK),
    **dict.fromkeys(("axes.edgecolor", "grid.color"), _FAINT),
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


def scores_by_beam(metrics: Iterable[MetricRow]) -> str | None:
    """One panel per metric: value and 95 % interval at each beam size; None if nothing was scored."""
    panels: dict[str, list[MetricRow]] = {name: [] for name in ("BLEU-4", "METEOR", "ROUGE-L", "CIDEr")}
    for row in sorted(metrics, key=lambda row: row.beam_size):
        if row.name in panels and row.value is not None:
            panels[row.name].append(row)
    panels = {name: rows for name, rows in panels.items() if rows}
    if not panels:
        return None
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(2.6 * len(panels) + 0.2, 2.9), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for ax, (name, rows) in zip(axes, panels.items(), strict=True):
            beams = [str(row.beam_size) for row in rows]
            for beam, row in zip(beams, rows, strict=True):
                if row.ci_low is not None and row.ci_high is not None:
                    ax.plot([beam, beam], [row.ci_low, row.ci_high], color=_MAIN, linewidth=2, alpha=0.45)
            values = [row.value for row in rows]
            sns.scatterplot(x=beams, y=values, ax=ax, color=_MAIN, s=60, linewidth=0, zorder=3)
            unit = CAPTIONS[name].range
            ax.set(title=name, xlabel="beam size", ylabel=f"{unit}, higher is better", xmargin=0.25)
            # At least a twentieth of the scale, or rounding errors would look like findings.
            low, high = ax.get_ylim()
            spare = max(0.0, 0.05 * float(unit.split()[-1]) - (high - low)) / 2
            ax.set_ylim(low - spare, high + spare)
            ax.xaxis.grid(visible=False)
        return _svg(figure, "scores", "Caption scores by beam size with 95 % intervals")


def measures_by_method(
    table: Table, groups: Iterable[Sequence[MethodInfo]], measures: Sequence[str], *, name: str, title: str
) -> str | None:
    """One panel per measure, one line per method: value with interval, null and ceiling as marks.

    Args:
        table: of methods.
        groups: the methods, with a gap after each group.
        measures: the panels.
        name: prefix of the ids inside the SVG, unique in the page.
        title: what a screen reader says.

    Returns:
        An SVG element; None if no method has a value.
    """
    lines: dict[str, tuple[float, str]] = {}
    for gaps, group in enumerate(groups):
        lines |= {
            m.name: (len(lines) + i + 0.7 * gaps, m.label) for i, m in enumerate(group) if m.name in table
        }
    measures = [measure for measure in measures if any(measure in table[method] for method in lines)]
    if not measures:
        return None
    heights, labels = zip(*lines.values(), strict=True)
    with mpl.rc_context(_STYLE):
        size = (2.4 + 2.1 * len(measures), 1.6 + 0.28 * heights[-1])
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
        marks: dict[str, Any] = {}
        for ax, measure in zip(axes, measures, strict=True):
            found = [(y, table[m][measure]) for m, (y, _) in lines.items() if measure in table[m]]
            marks |= _draw_marks(ax, found)
            meaning = MEASURES[measure]
            direction = "higher is better" if meaning.higher_is_better else "lower is better"
            ax.set(
                title=meaning.label, xlabel=f"{meaning.range}\n{direction}", ylim=(heights[-1] + 0.6, -0.6)
            )
            if meaning.range == "0 to 1":
                ax.set(xlim=(-0.04, 1.06), xticks=(0, 0.5, 1))
        axes[0].set_yticks(heights, [printable(label)[:40] for label in labels])
        figure.legend(marks.values(), marks.keys(), loc="outside upper left", ncols=4, frameon=False)
        return _svg(figure, name, title)


def _draw_marks(ax: Axes, found: Sequence[tuple[float, Estimate]]) -> dict[str, Any]:
    """Draws one panel; returns what its legend shows."""
    for y, (interval, _, _) in found:
        if interval.low is not None and interval.high is not None:
            ax.plot([interval.low, interval.high], [y, y], color=_MAIN, linewidth=2.5, alpha=0.45)
    for label, values, marker, size, colour in (
        ("value, 95 % interval", [e.interval.value for _, e in found], "o", 42, _MAIN),
        ("null: by chance", [e.null for _, e in found], "|", 120, _MARK),
        ("ceiling: the true mask at this resolution", [e.ceiling for _, e in found], ">", 34, _MARK),
    ):
        xs, ys = (
            [v for v in values if v is not None],
            [y for v, (y, _) in zip(values, found, strict=True) if v is not None],
        )
        if xs:
            look = {"marker": marker, "s": size, "color": colour, "linewidth": 1.6 if marker == "|" else 0}
            sns.scatterplot(
                x=xs, y=ys, ax=ax, label=label, legend=False, zorder=3 if marker == "o" else 2, **look
            )
    ax.xaxis.grid(visible=False)
    handles, labels = ax.get_legend_handles_labels()
    return dict(zip(labels, handles, strict=True))


def path_shares(paths: Table) -> str | None:
    """Stacked bars, one per word class: which path the gradient takes; None if paths were not measured."""
    rows = {name: row for name, row in paths.items() if set(PATHS) <= set(row)}
    if not rows:
        return None
    with mpl.rc_context(_STYLE):
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
        return _svg(figure, "paths", "Path shares per word class")


_UNWANTED = re.compile(
    r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->|font-family: [^;\"]*;? ?", re.DOTALL
)


def _svg(figure: Figure, name: str, title: str) -> str:
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
    # Below four fifths of its size the text is too small to read: then the figure scrolls.
    style = f'style="min-width: {0.8 * width:.0f}px" viewBox="0 0 {width:g} {height:g}"'
    return re.sub("<svg[^>]*>", f'<svg role="img" aria-label="{title}" {style}>', svg, count=1).strip()


def overlay_png(cells: Float[np.ndarray, "rows columns"]) -> str:
    """A map as a PNG with one pixel per cell, to be laid over its picture by the browser.

    Cells glow from clear through magenta and orange to yellow; those below 0, which speak against the word, are
    teal. The more a cell says, the less of the picture shows through it.

    Args:
        cells: any scale; what is not finite counts as 0.

    Returns:
        A data URI.
    """
    values = np.nan_to_num(cells.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    strength = np.abs(values) / (np.abs(values).max() or 1.0)
    warm, cool = (sns.color_palette(palette, as_cmap=True) for palette in ("inferno", "mako"))
    rgba = np.where((values >= 0)[..., None], warm(0.45 + 0.4 * strength), cool(0.5 + 0 * strength))
    # Below 1, so that what is half as strong is still seen beside a single bright cell.
    rgba[..., 3] = 0.9 * strength**0.75
    png = io.BytesIO()
    Image.fromarray((rgba * 255).round().astype(np.uint8)).save(png, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
