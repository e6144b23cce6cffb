"""What beam search buys and costs: a run's beam sizes beside each other, image by image."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import pandas as pd

from reports.corpus import statistics_of
from reports.legend import CAPTIONS, arrow
from reports.records import FROM_FILE, MetricRow, RunRecord
from reports.stats import Interval, PairedTest, paired_tests, share_interval
from reports.store import RunStore
from reports.summary import Material, Summary, read_material
from reports.tables import EMPTY, Cell, Grid, Row, count, number, span
from reports.wording import beam, measured, percent, row_span

PICTURES, SEARCH = "decode: pictures", "decode: {}"
"""Names of the stages that are timed: reading and encoding, and the search with one beam size."""

_UNTIMED = (
    "How long each beam size takes is not stored in this run; decoding it anew with `--fresh` stores it."
)


class Cost(NamedTuple):
    """The time that an image takes, in milliseconds."""

    search: float
    pictures: float | None
    """Reading and encoding, which all beam sizes share; None if it was not timed."""

    @property
    def total(self) -> float:
        """From the file to the caption, as far as it was timed."""
        return self.search + (self.pictures or 0.0)


class BeamTable(NamedTuple):
    """A run's beam sizes, smallest first."""

    metric: str
    """CIDEr, or BLEU-4 where there is no CIDEr."""
    sentences: tuple[str, ...]
    """The findings in words."""
    grid: Grid
    points: Mapping[str, tuple[float, Interval]]
    """Beam size -> milliseconds per image and quality, for `reports.figures.quality_against_time`; empty if untimed."""


def beams(store: RunStore, summary: Summary, material: Material | None = None) -> BeamTable | None:
    """Compares a run's beam sizes.

    A beam size gains if its paired difference to a smaller one is above 0: both are scored on the same images, and
    images are resampled for the 95 % interval of the difference. It is beyond noise if the interval excludes 0. Times
    are those that the run stored; their ratios count everything from the file to the caption that was timed.

    Args:
        store: the run.
        summary: of this run.
        material: of this run, if it has been read.

    Returns:
        The table; None if fewer than two beam sizes were scored.
    """
    metric = summary.best.name if summary.best else "CIDEr"
    rows = _by_beam(summary.record, metric)
    if len(rows) < 2:
        return None
    sizes, costs = list(rows), _costs(summary.record, rows)
    material = material or read_material(store)
    scores = _frames(material.scores, metric)
    lengths, unfinished = (_by_beam(summary.record, name) for name in ("Mean length", "Unfinished captions"))
    steps: dict[int, PairedTest | None] = {}
    lines = []
    for size, smaller in zip(sizes, (None, *sizes), strict=False):
        gained = changed = EMPTY
        if smaller is not None:
            steps[size] = _gain(scores, metric, smaller, size)
            gained = _gain_cell(steps[size])
            changed = _changed(*material.overview.changed(smaller, size))
        described = (_described(found.get(size)) for found in (lengths, unfinished))
        cells = (_described(rows[size]), gained, changed, *described, *_time_cells(costs, size, sizes[0]))
        lines.append(Row(f"{beam(size).capitalize()}{' (greedy)' if size == 1 else ''}", cells))
    n = count(rows[sizes[0]].n, "image")
    grid = Grid(
        f"Beam sizes beside each other, over {n}; ranges are 95 % intervals", "Beam size",
        _columns(metric, timed=bool(costs)), {"": lines},
    )  # fmt: skip
    sentences = [_headline(rows, metric, scores, costs), *_where_it_ends(steps)]
    points = {beam(size): (costs[size].total, _interval(rows[size])) for size in sizes if size in costs}
    return BeamTable(metric, (*sentences, *([] if costs else [_UNTIMED])), grid, points)


def _columns(metric: str, *, timed: bool) -> tuple[Cell, ...]:
    return (
        Cell(metric, (CAPTIONS[metric].range, arrow(True))),
        Cell(f"{metric} gained", ("over the row above", arrow(True))),
        Cell("Captions changed", ("against the row above",)),
        Cell("Mean length", ("words",)),
        Cell("Unfinished", ("at the length limit", arrow(False))),
        *([Cell("Time per image", (arrow(False),))] if timed else []),
    )


def _by_beam(record: RunRecord, name: str) -> dict[int, MetricRow]:
    rows = {row.beam_size: row for row in record.metrics if row.name == name and row.value is not None}
    return {size: rows[size] for size in sorted(rows) if size != FROM_FILE}


def _frames(scores: pd.DataFrame | None, metric: str) -> dict[int, pd.DataFrame]:
    """The metric's columns by beam size, one row per image."""
    columns = list(dict.fromkeys((metric, *statistics_of(metric))))
    if scores is None or any(column not in scores for column in columns):
        return {}
    rows = scores.set_index("image_id")
    return {
        size: rows.loc[rows["beam_size"] == size, columns] for size in rows["beam_size"].unique().tolist()
    }


def _gain(scores: Mapping[int, pd.DataFrame], metric: str, small: int, large: int) -> PairedTest | None:
    """By how much a beam size is ahead of another; None if no image has both scores."""
    if small not in scores or large not in scores:
        return None
    both = scores[small].index.intersection(scores[large].index)
    # The interval says what is asked here; of the p-values a single permutation says nothing, and costs nothing.
    found = paired_tests(scores[small].loc[both], scores[large].loc[both], permutations=1)
    return found.get(metric)


def _beyond_noise(gain: PairedTest) -> bool:
    return gain.low is not None and gain.high is not None and not gain.low <= 0 <= gain.high


def _gain_cell(gain: PairedTest | None) -> Cell:
    if gain is None:
        return EMPTY
    ends = span(_as_interval(gain))
    noise = "beyond noise" if _beyond_noise(gain) else "may be noise"
    return Cell(_signed(gain.difference), (ends, noise))


def _as_interval(gain: PairedTest) -> Interval:
    return Interval(gain.difference, gain.low, gain.high, gain.n)


def _interval(row: MetricRow) -> Interval:
    return Interval(row.value or 0.0, row.ci_low, row.ci_high, row.n)


def _signed(value: float) -> str:
    shown = number(abs(value))
    return shown if float(shown.replace(",", "")) == 0 else f"{'+' if value > 0 else '−'}{shown}"


def _changed(changed: int, captions: int) -> Cell:
    if not captions:
        return EMPTY
    share = share_interval(changed, captions)
    return Cell(percent(share.value), (span(share, unit="share"), f"of {count(share.n, 'image')}"))


def _described(row: MetricRow | None) -> Cell:
    if row is None:
        return EMPTY
    return Cell(measured(row.value or 0.0, row.unit), tuple(filter(None, [row_span(row)])))


def _costs(record: RunRecord, sizes: Iterable[int]) -> dict[int, Cost]:
    """By beam size, as far as it was timed; several stages of one name are those of a run that was resumed."""
    seconds: dict[str, float] = {}
    images: dict[str, int] = {}
    for stage in record.stages:
        seconds[stage.name] = seconds.get(stage.name, 0.0) + stage.seconds
        images[stage.name] = images.get(stage.name, 0) + stage.items
    each = {name: 1e3 * seconds[name] / images[name] for name in seconds if images[name] > 0}
    searches = {size: each.get(SEARCH.format(beam(size))) for size in sizes}
    return {size: Cost(search, each.get(PICTURES)) for size, search in searches.items() if search}


def _time_cells(costs: Mapping[int, Cost], size: int, smallest: int) -> tuple[Cell, ...]:
    if not costs:
        return ()
    if size not in costs:
        return (EMPTY,)
    cost = costs[size]
    times = (
        [f"{_times(costs, size, smallest)} times as long"] if size != smallest and smallest in costs else []
    )
    part = f"of which search {number(cost.search, 2)}" if cost.pictures is not None else "of the search alone"
    return (Cell(f"{number(cost.total, 2)} ms", (*times, part)),)


def _times(costs: Mapping[int, Cost], size: int, smallest: int) -> str:
    ratio = costs[size].total / costs[smallest].total
    return number(ratio, 2 if ratio < 2 else 1)


def _name(size: int) -> str:
    return "greedy decoding" if size == 1 else beam(size)


def _headline(
    rows: Mapping[int, MetricRow],
    metric: str,
    scores: Mapping[int, pd.DataFrame],
    costs: Mapping[int, Cost],
) -> str:
    """The beam size with the best score against the smallest; where that is the best, the largest against it."""
    smallest, largest = min(rows), max(rows)
    best = max(rows, key=lambda size: (rows[size].value or 0.0, -size))
    judged = largest if best == smallest else best
    first = f"No larger beam scores higher than {_name(smallest)}. " if best == smallest else ""
    name, gain = beam(judged).capitalize(), _gain(scores, metric, smallest, judged)
    times = _how_much_longer(costs, judged, smallest)
    if gain is None:  # images are not known, only the scores over all of them
        return f"{first}{name} scores {_described(rows[judged]).value} {metric}{' and ' + times if times else ''}."
    if _signed(gain.difference) == number(0.0):
        return f"{first}{name} scores what {_name(smallest)} does{' and ' + times if times else ''}."
    found = _as_interval(gain)
    verb, against = ("gains", "over") if gain.difference > 0 else ("loses", "against")
    if found.low is not None and found.high is not None and gain.difference < 0:
        found = Interval(-found.value, -found.high, -found.low, found.n)
    ends = "" if found.low is None else f" ({span(found)})"
    noise = "beyond noise" if _beyond_noise(gain) else "which may be noise"
    return (
        f"{first}{name} {verb} {number(abs(gain.difference))} {metric}{ends} {against} {_name(smallest)}, {noise}"
        f"{', and ' + times if times else ''}."
    )


def _how_much_longer(costs: Mapping[int, Cost], size: int, smallest: int) -> str:
    """In words; empty where either was not timed."""
    if size not in costs or smallest not in costs:
        return ""
    what = "for the search alone" if costs[size].pictures is None else "with reading and encoding the picture"
    before, after = (number(costs[each].total, 2) for each in (smallest, size))
    return f"takes {_times(costs, size, smallest)} times as long: {after} ms per image instead of {before}, {what}"


def _where_it_ends(steps: Mapping[int, PairedTest | None]) -> list[str]:
    """From which beam size on no step to the next larger one gains beyond noise; nothing if the last one does."""
    gains = [size for size, gain in steps.items() if gain and gain.difference > 0 and _beyond_noise(gain)]
    if len(steps) < 2 or gains[-1:] == list(steps)[-1:]:
        return []
    if not gains:
        return ["No single step to a larger beam gains more than noise may do."]
    return [f"Beyond {beam(gains[-1])}, no step to a larger beam gains more than noise may do."]
