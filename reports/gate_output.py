"""How a gate's result is shown: on a terminal, as gate.json, gate.junit.xml and gate.md, and to GitHub Actions.

Names and captions come from strangers. None of them can end a line, a cell, an element or a workflow command.
"""

import json
import math
import os
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from reports.gate import Check, GateResult
from reports.run_files import GATE_FILES
from reports.store import write_atomically
from reports.wording import clip, defused, printable

SCHEMA_VERSION = 1
MOST_ANNOTATIONS = 10
"""GitHub shows no more of each kind of one step."""
MOST_MARKDOWN = 60_000
"""Bytes of gate.md; a comment on GitHub holds 65,536 characters."""
MOST_SUMMARY = 1 << 20
"""Bytes of a step's summary; GitHub drops a longer one as a whole."""

_WORDS = {
    "pass": "ok",
    "better": "better",
    "skipped": "skipped",
    "inconclusive": "unclear",
    "regression": "FAIL",
    "incomplete": "MISSING",
    "incomparable": "OTHER",
    "usage": "USAGE",
}
_HEAD = ("check", "before", "after", "difference", "tolerance", "p")


def gate_table(result: GateResult) -> str:
    """The verdict, then one line per check: what it came to, its numbers, and what that means.

    No line starts with a name, so that none can start with what a build machine takes for a command.
    """
    rows = [("", *_HEAD, "outcome")]
    rows += [
        (_word(result, check), clip(check.name, 80), *_numbers(check), check.text) for check in result.checks
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = [result.verdict, f"run {result.run}, baseline {result.baseline}", ""]
    for row, details in zip(rows, [(), *(check.details for check in result.checks)], strict=True):
        cells = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        lines += ["  ".join([*cells, row[-1]]), *(f"    - {detail}" for detail in details)]
    return "".join(_inert(line).rstrip() + "\n" for line in lines)


def gate_json(result: GateResult) -> str:
    """Everything, as one strict JSON document; numbers that are not finite are null."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "verdict": result.verdict,
        "exit_code": result.exit_code,
        "run": result.run,
        "baseline": result.baseline,
        "strict": result.strict,
        "seed": result.seed,
        "checks": [
            {
                key: None if isinstance(value, float) and not math.isfinite(value) else value
                for key, value in (asdict(check) | {"failed": bool(result.code(check))}).items()
            }
            for check in result.checks
        ],
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def write_outputs(result: GateResult, folder: Path) -> None:
    """Writes gate.json, gate.junit.xml and gate.md into a folder."""
    for name, text in zip(GATE_FILES, (gate_json(result), _junit(result), _markdown(result)), strict=True):
        with write_atomically(Path(folder) / name) as file:
            file.write(text.encode())


def announce(result: GateResult, environ: Mapping[str, str]) -> None:
    """In GitHub Actions, and only there: annotations on standard output, and the table in the step's summary.

    Args:
        result: of the gate.
        environ: the process's environment.
    """
    if environ.get("GITHUB_ACTIONS") != "true":
        return
    told = [("error", check) for check in result.failures]
    told += [("warning", check) for check in result.checks if _warns(check) and not result.code(check)]
    for level, check in told[:MOST_ANNOTATIONS]:
        title, message = _property(f"gazebench gate: {check.name}"), _data(clip(_numbered(check)))
        sys.stdout.write(f"::{level} title={title}::{message}\n")
    if summary := environ.get("GITHUB_STEP_SUMMARY"):
        content = (_markdown(result) + "\n").encode()
        with Path(summary).open("ab") as file:
            if file.seek(0, os.SEEK_END) + len(content) < MOST_SUMMARY:
                file.write(content)


def _warns(check: Check) -> bool:
    return check.outcome in ("inconclusive", "better")


def _word(result: GateResult, check: Check) -> str:
    word = _WORDS[check.outcome]
    return word.upper() if result.code(check) else word


def _numbers(check: Check) -> tuple[str, str, str, str, str]:
    p = "" if check.p is None else f"{check.p:.4f}" if check.p >= 0.0001 else "<0.0001"
    signed = _number(check.difference)
    if check.difference is not None and check.difference > 0 and re.search("[1-9]", signed):
        signed = f"+{signed}"
    return _number(check.before), _number(check.after), signed, _number(check.tolerance), p


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    return (
        f"{value:,.0f}" if abs(value) >= 1000 else f"{round(value, 4) + 0.0:.4f}"
    )  # + 0.0 turns -0.0 into 0.0


def _numbered(check: Check) -> str:
    named = zip(_HEAD[1:], _numbers(check), strict=True)
    return "; ".join([check.text, *(f"{name} {cell}" for name, cell in named if cell)])


def _inert(line: str) -> str:
    """One printable line without what GitHub's runner takes for an old-style command wherever it stands."""
    return printable(line).replace("##[", "## [")


def _data(text: str) -> str:
    """The text of a workflow command, escaped as @actions/core does."""
    return _inert(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """A property of a workflow command, escaped as @actions/core does."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _junit(result: GateResult) -> str:
    cases = ET.Element("testsuite", name="gazebench gate")
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for check in result.checks:
        case = ET.SubElement(
            cases, "testcase", classname=f"gazebench.gate.{check.layer}", name=printable(check.name), time="0"
        )
        counts["tests"] += 1
        told = "\n".join(printable(line) for line in (_numbered(check), *check.details))
        if result.code(check):
            counts["failures"] += 1
            ET.SubElement(case, "failure", type=check.outcome, message=printable(check.text)).text = told
        elif check.outcome in ("skipped", "inconclusive"):
            counts["skipped"] += 1
            ET.SubElement(case, "skipped", message=printable(check.text))
        else:
            ET.SubElement(case, "system-out").text = told
    totals = {name: str(number) for name, number in counts.items()}
    cases.attrib |= totals | {"time": "0"}
    suites = ET.Element("testsuites", {"name": "gazebench gate", **totals})
    suites.append(cases)
    return ET.tostring(suites, encoding="unicode", xml_declaration=False) + "\n"


def _markdown(result: GateResult) -> str:
    """The verdict and a table, failures first, as much of it as a comment holds."""
    head = [
        f"### gazebench gate: {defused(result.verdict)}",
        "",
        f"Run {defused(result.run)}, baseline {defused(result.baseline)}.",
        "",
        "| | " + " | ".join((*_HEAD, "outcome")) + " |",
        "|---|---|" + "---:|" * (len(_HEAD) - 1) + "---|",
    ]
    # Details stand in the cell of their check: a list below could be cut off from it.
    order = sorted(result.checks, key=lambda check: (not result.code(check), not _warns(check)))
    rows = [
        "| " + " | ".join([
            _word(result, check),
            defused(check.name),
            *_numbers(check),
            "<br>".join(defused(line) for line in (check.text, *check.details)),
        ]) + " |"
        for check in order
    ]  # fmt: skip
    return _cut(head, rows)


def _cut(head: Iterable[str], rows: list[str]) -> str:
    text = "".join(line + "\n" for line in head)
    left = MOST_MARKDOWN - len(text.encode()) - 100
    for number, row in enumerate(rows):
        left -= len(row.encode()) + 1
        if left < 0:
            return f"{text}\n… and {len(rows) - number:,} more checks: see gate.json\n"
        text += row + "\n"
    return text
