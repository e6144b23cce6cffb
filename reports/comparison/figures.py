"""The figure of a comparison: by how much each run differs from the first."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.comparison.compare import Against, Comparison
from reports.comparison.scores import MetricTest
from reports.figures import INK, MAIN, STYLE, as_svg
from reports.legend import CAPTIONS
from reports.terms import TESTED
from reports.wording import printable

_RANGES = {name: CAPTIONS[name].range for name in TESTED}
_LABEL = 40  # characters of a run's name


def differences(comparison: Comparison) -> str | None:
    """One panel per metric, one line per run: the difference from the first run with its 95 % interval.

    Filled dots are beyond noise, hollow ones are not.

    Args:
        comparison: of two or more runs.

    Returns:
        An SVG element; None if no metric is compared.
    """
    names = [metric.name for metric in comparison.metrics]
    if not names:
        return None
    labels = [printable(comparison.runs[against.run].name)[:_LABEL] for against in comparison.against]
    with mpl.rc_context(STYLE):
        size = (2.2 + 2.1 * len(names), 1.5 + 0.34 * len(labels))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
        tests = {name: [_test(against, name) for against in comparison.against] for name in names}
        reach = _reach(tests)
        for ax, name in zip(axes, names, strict=True):
            ax.axvline(0, color=INK, linewidth=1, alpha=0.6)
            _draw(ax, tests[name])
            ax.set(
                title=name,
                xlabel=f"difference, of {_RANGES[name]}\nright is better",
                xlim=(-reach[name], reach[name]),
                ylim=(len(labels) - 0.4, -0.6),
            )
            ax.locator_params(axis="x", nbins=4)
            ax.yaxis.grid(visible=False)
        axes[0].set_yticks(range(len(labels)), labels)
        return as_svg(figure, "differences", "Differences from the first run with 95 % intervals")


def _test(against: Against, metric: str) -> MetricTest:
    return next(test for test in against.pair.tests if test.metric == metric)


def _reach(tests: Mapping[str, Sequence[MetricTest]]) -> dict[str, float]:
    """How far each panel's axis goes: the same for metrics of the same range.

    At least a hundredth of the range, or rounding errors would look like findings.
    """
    most: dict[str, float] = {}
    for name, found in tests.items():
        ends = [end for t in found for end in (t.test.low, t.test.high, t.test.difference) if end is not None]
        farthest = max(map(abs, ends), default=0.0)
        least = 0.01 * float(_RANGES[name].split()[-1])
        most[_RANGES[name]] = max(most.get(_RANGES[name], least), 1.15 * farthest)
    return {name: most[_RANGES[name]] for name in tests}


def _draw(ax: Axes, tests: Sequence[MetricTest]) -> None:
    for y, found in enumerate(tests):
        if found.test.low is not None and found.test.high is not None:
            ax.plot([found.test.low, found.test.high], [y, y], color=MAIN, linewidth=2.5, alpha=0.45)
        beyond = found.outcome != "level"
        ax.scatter(
            [found.test.difference], [y], s=48, color=MAIN if beyond else "none", edgecolors=MAIN,
            linewidth=1.6, zorder=3,
        )  # fmt: skip
