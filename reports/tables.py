"""Tables as text: what stands in each cell. Here those of estimates, of methods and of word classes."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from reports import wording
from reports.estimates import OPERATED, Estimate, Table
from reports.explanations import LAGS
from reports.legend import MEASURES, arrow, measure_of
from reports.records import MethodInfo
from reports.stats import Interval

Groups = Mapping[str, Sequence[MethodInfo]]
"""Methods by the title that stands above them."""
_K = TypeVar("_K", str, int)


class Cell(NamedTuple):
    """A value with small print below it."""

    value: str
    lines: tuple[str, ...] = ()


class Row(NamedTuple):
    """A line of a table."""

    head: str
    cells: tuple[Cell, ...]
    struck: str | None = None
    """Why the method is struck out; without cells this stands in their place."""


class Grid(NamedTuple):
    """A table."""

    caption: str
    corner: str
    columns: tuple[Cell, ...]
    groups: Mapping[str, Sequence[Row]]
    """By title; no title stands above a group named ""."""


EMPTY = Cell("–")
_Marks = tuple[str, str]
"""Chance and ceiling as they are shown; empty if there is none."""


def of_methods(
    caption: str,
    groups: Groups,
    table: Table,
    measures: Sequence[str],
    struck: Mapping[str, str],
    *,
    ceiling: str = "ceiling",
) -> Grid | None:
    """One line per method; marks that all methods share stand in lines of their own, above.

    Args:
        caption: of the table.
        groups: all methods.
        table: of methods.
        measures: the columns; those without any value are left out.
        struck: methods that show a reason in place of numbers.
        ceiling: what the ceiling is called.

    Returns:
        The table; None if no method has a value.
    """
    measures = [m for m in measures if any(m in row for row in table.values())]
    if not measures:
        return None
    shared = {m: _shared_marks([row[m] for row in table.values() if m in row]) for m in measures}
    lines: dict[str, Sequence[Row]] = {"": _mark_rows(list(shared.values()), ceiling, spare=1)}
    for title, methods in groups.items():
        rows = []
        for method in (m for m in methods if m.name in table):
            cells = () if method.name in struck else _cells(table[method.name], shared, ceiling)
            rows.append(Row(method.label, cells, struck.get(method.name)))
        lines[title] = rows
    columns = (*(_column(m) for m in measures), Cell("Measured on"))
    return Grid(caption, "Method", columns, {title: rows for title, rows in lines.items() if rows})


def of_classes(caption: str, table: Table, measures: Sequence[str]) -> Grid | None:
    """One line per word class; None if none has a value."""
    measures = [m for m in measures if any(m in row for row in table.values())]
    if not measures:
        return None
    unmarked = dict.fromkeys(measures, ("", ""))
    rows = [
        Row(name, _cells({m: row[m] for m in measures if m in row}, unmarked, "ceiling"))
        for name, row in table.items()
        if any(m in row for m in measures)
    ]
    return Grid(caption, "Words", (*(_column(m) for m in measures), Cell("Measured on")), {"": rows})


def by_class(
    measure: str, table: Table, groups: Groups, struck: Mapping[str, str], order: Sequence[str]
) -> Grid:
    """One line per method, one column per word class; what methods share stands above.

    Args:
        measure: which.
        table: method -> word class -> estimate.
        groups: all methods.
        struck: methods that show a reason in place of numbers.
        order: of the word classes, all of them.

    Returns:
        The table.
    """
    columns = {name: [row[name] for row in table.values() if name in row] for name in order}
    columns = {name: column for name, column in columns.items() if column}
    shared = [_shared_marks(column) for column in columns.values()]
    usual = [max(column, key=lambda found: found.words) for column in columns.values()]

    def line(method: MethodInfo) -> Row:
        if method.name in struck:
            return Row(method.label, (), struck[method.name])
        row, cells = table[method.name], []
        for name, marks, most in zip(columns, shared, usual, strict=True):
            cells.append(_estimate(row[name], marks, "ceiling", most.words) if name in row else EMPTY)
        return Row(method.label, tuple(cells))

    lines: dict[str, Sequence[Row]] = {"": _mark_rows(shared, "ceiling", spare=0)}
    lines |= {title: [line(m) for m in methods if m.name in table] for title, methods in groups.items()}
    heads = [
        Cell(name, (count(most.words, "word"), count(most.interval.n, "image")))
        for name, most in zip(columns, usual, strict=True)
    ]
    found = measure_of(measure)
    caption = f"{found.label} by word class ({arrow(found.higher_is_better)}, {found.range})"
    return Grid(caption, "Method", tuple(heads), {title: rows for title, rows in lines.items() if rows})


def of_lags(lags: Mapping[str, Mapping[int, Mapping[str, Estimate]]]) -> Grid | None:
    """One line per word class and measure, one column per lag; None if no lag was measured."""
    unmarked, rows = dict.fromkeys(LAGS, ("?", "?")), []
    for name, profile in lags.items():
        for measure in ("mass", "pointing"):
            found = {lag: row[measure] for lag, row in profile.items() if measure in row}
            if found:
                marks = tuple(Cell(mark or "–") for mark in _marks(found.get(0, next(iter(found.values())))))
                cells = _cells(found, unmarked, "")
                head = f"{name}: {measure_of(measure).label.lower()}"
                rows.append(Row(head, (*cells[:-1], *marks, cells[-1])))
    columns = [Cell("its own step" if lag == 0 else f"{lag:+d}".replace("-", "−")) for lag in LAGS]
    caption = (
        "Attention on a word’s place, steps before (−) and after (+) the word is said (↑ higher is better)"
    )
    heads = (*columns, Cell("Chance"), Cell("Ceiling"), Cell("Measured on"))
    return Grid(caption, "Words", heads, {"": rows}) if rows else None


def number(value: float, digits: int = 3) -> str:
    """With a minus sign as long as the plus sign."""
    return wording.number(value, digits).replace("-", "−")


def span(interval: Interval, *, unit: str = "", digits: int = 3) -> str:
    """Likewise; a reason why there are no ends keeps its hyphens."""
    ends = wording.span(interval, unit=unit, digits=digits)
    return ends if interval.low is None else ends.replace("-", "−")


def count(n: int, unit: str) -> str:
    """So many of them, in the singular if it is one."""
    return f"{n:,} {unit}{'s'[: n != 1]}"


def _column(measure: str) -> Cell:
    """Name, range and direction; the operator stands in the table's caption."""
    found = MEASURES[measure.rpartition("_")[0]] if measure in OPERATED else measure_of(measure)
    sign = {True: "↑ ", False: "↓ ", None: ""}[found.higher_is_better]
    return Cell(found.label, (f"{sign}{found.range}",))


def _marks(found: Estimate) -> _Marks:
    null, ceiling = ("" if mark is None else number(mark, 2) for mark in (found.null, found.ceiling))
    return null, ceiling


def _shared_marks(column: Sequence[Estimate]) -> _Marks:
    """Each empty if methods differ in it; chance also where there is more than one kind of it."""
    nulls, ceilings = zip(*(_marks(found) for found in column), strict=True)
    single = all(found.null_word is None and found.null_shift is None for found in column)
    return (
        nulls[0] if single and len(set(nulls)) == 1 else "",
        ceilings[0] if len(set(ceilings)) == 1 else "",
    )


def _mark_rows(shared: Sequence[_Marks], ceiling: str, *, spare: int) -> list[Row]:
    return [
        Row(mark, (*(Cell(marks[place]) for marks in shared), *([Cell("")] * spare)))
        for place, mark in enumerate(("Chance", ceiling.capitalize()))
        if any(marks[place] for marks in shared)
    ]


def _cells(row: Mapping[_K, Estimate], shared: Mapping[_K, _Marks], ceiling: str) -> tuple[Cell, ...]:
    """A cell for each of `shared`, and what most of them were measured on."""
    most = max(row.values(), key=lambda found: found.words)
    cells: list[Cell] = [
        _estimate(row[key], marks, ceiling, most.words) if key in row else EMPTY
        for key, marks in shared.items()
    ]
    words, *more = _measured_on(most)
    return (*cells, Cell(words, tuple(more)))


def _estimate(found: Estimate, shared: _Marks, ceiling: str, words: int) -> Cell:
    """Value, interval, the marks that are not shown above, and the words if they are others than the row's."""
    lines = [span(found.interval, digits=2)]
    null, top = _marks(found)
    if null and not shared[0]:
        others = [number(mark, 2) for mark in (found.null_word, found.null_shift) if mark is not None]
        lines += [f"chance {null}", *([" · ".join(others)] if others else [])]
    if top and not shared[1]:
        lines.append(f"{ceiling} {top}")
    if found.corrected:
        lines += [f"corrected {number(found.corrected.value, 2)}", span(found.corrected, digits=2)]
    if found.words != words:
        lines += _measured_on(found)
    return Cell(number(found.interval.value, 2), tuple(lines))


def _measured_on(found: Estimate) -> tuple[str, ...]:
    covered = () if found.coverage is None else (f"{wording.percent(found.coverage)} covered",)
    return count(found.words, "word"), count(found.interval.n, "image"), *covered
