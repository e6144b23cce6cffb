"""How numbers and text from strangers are put into words, alike in the report and on the terminal."""

import re
from collections.abc import Sequence

from reports.records import FROM_FILE, MetricRow, RunRecord
from reports.stats import Interval

_NONCHARACTERS = "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
_BREAKS = re.compile(r"[\t-\r\x1c-\x1f\x85\u2028\u2029]+")
# Controls (a terminal obeys them), direction overrides (they reorder what stands beside them), surrogates
# (no encoding holds them) and code points that HTML forbids.
_UNPRINTABLE = re.compile(
    f"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef{_NONCHARACTERS}]"
)


def printable(text: str) -> str:
    """The text on one line, with a replacement sign for each character that acts instead of showing."""
    return _UNPRINTABLE.sub("\ufffd", _BREAKS.sub(" ", text))


def clip(text: str, most: int = 400) -> str:
    """The text, cut where it is longer than anyone reads."""
    return text if len(text) <= most else f"{text[:most]} … ({len(text):,} characters)"


def defused(text: str, most: int = 400) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, no mention, no formula, no link made of an address."""
    text = clip(printable(text), most).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_{}\[\]|~!$])", r"\\\1", text)
    text = re.sub(r"([@#])", "\\1\u200b", text)  # an escaped @name would notify all the same
    return re.sub(r"(?i)(www|:(?=//)|##)", "\\1\u200b", text)


def beam(size: int) -> str:
    """What a beam size is called: "beam size 5", or "given captions" for those from a file."""
    return "given captions" if size == FROM_FILE else f"beam size {size}"


def subject(record: RunRecord) -> str:
    """Whose captions they are: the model's name, or that of the file they came from."""
    return record.model.name if record.model else str(record.config.get("captions", "captions from a file"))


def number(value: float, digits: int = 3) -> str:
    """Some decimals; one from ten on, where more would be noise."""
    text = f"{value:.{digits}f}" if abs(value) < 10 else f"{value:,.1f}"
    return text if text.strip("-0.") else text.lstrip("-")  # nothing is less than nothing


def percent(value: float) -> str:
    """A share of 1 as a percentage; with a decimal where rounding would claim all or nothing."""
    if 0 < value < 0.01 or 0.99 < value < 1:
        return f"{min(max(100 * value, 0.1), 99.9):.1f}\u00a0%"
    return f"{100 * value:.0f}\u00a0%"


def measured(value: float, unit: str) -> str:
    """A metric's value: shares as percentages."""
    return percent(value) if unit == "share" else number(value)


def span(interval: Interval, *, unit: str = "", digits: int = 3) -> str:
    """The interval's ends, as percentages for shares; or why there are none."""
    if interval.low is None or interval.high is None:
        return "one image: no interval"
    if unit == "share":
        return f"{percent(interval.low)[:-2]} to {percent(interval.high)}"
    return f"{number(interval.low, digits)} to {number(interval.high, digits)}"


def row_span(row: MetricRow) -> str:
    """The ends of a metric's interval; empty where it has none."""
    if row.value is None or row.ci_low is None or row.ci_high is None:
        return ""
    return span(Interval(row.value, row.ci_low, row.ci_high, row.n), unit=row.unit)


def signatures(metrics: Sequence[MetricRow]) -> dict[str, list[str]]:
    """Each signature, with any beam size as K, and the names of the metrics that have it."""
    named: dict[str, dict[str, None]] = {}
    for row in metrics:
        if row.signature:
            parts = ("beam:K" if part.startswith("beam:") else part for part in row.signature.split("|"))
            named.setdefault("|".join(parts), {})[row.name] = None
    return {signature: list(names) for signature, names in named.items()}
