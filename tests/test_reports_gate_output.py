"""What a gate says is complete, in its format, and obeyed by nobody: not a terminal, a browser or a build machine."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import html5lib
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_reports_baseline import HOSTILE, blessed, change, make_speed

from reports.gate import Check, GateResult, gate
from reports.gate_output import announce, gate_json, gate_table, write_outputs
from reports.store import RunStore

CHECKS = (
    Check("run", "run", "pass", "finished"),
    Check("identity", "captions", "regression", "12 of 24 changed", None, None, 0.5, 0.0, details=("“b” became “c”",)),
    Check("quality", "CIDEr, beam size 3", "pass", "within the tolerance", 1.25, 1.2451, -0.0049, 0.0125, 0.43),
    Check("quality", "METEOR, beam size 3", "incomplete", "not computed: no Java", 0.25),
    Check("quality", "BLEU-4, beam size 3", "inconclusive", "it may be chance", 0.3, 0.29, -0.01, 0.003, 0.00004),
    Check("quality", "ROUGE-L, beam size 3", "better", "bless the run", 0.5, 0.6, 0.1, 0.005, 1.0),
    Check("speed", "decode: flops", "skipped", "captions changed", 51_000_000_000, 52_000_000_000, 1, 0.0),
)  # fmt: skip
RESULT = GateResult("runs/ci", "base.toml", False, 12345, CHECKS)


def result(*checks: Check, strict: bool = False) -> GateResult:
    return GateResult("runs/ci", "base.toml", strict, 0, checks)


def hostile_result(text: str) -> GateResult:
    checks = [
        Check("quality", text, outcome, text, 1.0, details=(text,))
        for outcome in ("pass", "regression", "skipped")
    ]
    return GateResult(text, text, False, 0, tuple(checks))  # type: ignore[arg-type]


def written(folder: Path, gated: GateResult) -> tuple[dict[str, object], ET.Element, str]:
    write_outputs(gated, folder)
    assert {path.name for path in folder.iterdir()} == {"gate.json", "gate.junit.xml", "gate.md"}
    content = json.loads((folder / "gate.json").read_text(), parse_constant=pytest.fail)
    return content, ET.parse(folder / "gate.junit.xml").getroot(), (folder / "gate.md").read_text()


# ---- exit codes


@pytest.mark.parametrize(
    ("outcomes", "code", "strict"),
    [
        ([], 0, 0),
        (["pass", "skipped"], 0, 0),
        (["better"], 0, 1),
        (["inconclusive"], 0, 5),
        (["inconclusive", "better"], 0, 1),
        (["regression", "inconclusive"], 1, 1),
        (["regression", "incomplete"], 4, 4),
        (["regression", "incomparable", "incomplete"], 3, 3),
        (["usage"], 2, 2),
    ],
)
def test_of_several_exit_codes_the_one_that_hides_more_goes_first(
    outcomes: list[str], code: int, strict: int
) -> None:
    checks = [Check("quality", "x", outcome, "y") for outcome in outcomes]  # type: ignore[arg-type]
    assert result(*checks).exit_code == code
    assert result(*checks, strict=True).exit_code == strict


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [
        ("pass", "PASSED: none of 1 checks failed (exit code 0)"),
        ("inconclusive", "PASSED: none of 1 checks failed, 1 inconclusive (exit code 0)"),
        ("regression", "REGRESSION: 1 of 1 checks failed (exit code 1)"),
        ("usage", "NOT RUN: 1 of 1 checks failed (exit code 2)"),
        ("incomparable", "NOT COMPARABLE: 1 of 1 checks failed (exit code 3)"),
        ("incomplete", "INCOMPLETE: 1 of 1 checks failed (exit code 4)"),
    ],
)
def test_the_verdict_is_one_line_that_comes_first(outcome: str, verdict: str) -> None:
    gated = result(Check("quality", "x", outcome, "y"))  # type: ignore[arg-type]
    assert gated.verdict == verdict
    assert gate_table(gated).splitlines()[0] == verdict


# ---- table


def test_the_table_shows_every_number_in_its_column() -> None:
    assert (
        gate_table(RESULT)
        == """\
INCOMPLETE: 2 of 7 checks failed, 1 inconclusive, 1 better than the baseline (exit code 4)
run runs/ci, baseline base.toml

         check                         before           after  difference  tolerance        p  outcome
ok       run                                                                                   finished
FAIL     captions                                                 +0.5000     0.0000           12 of 24 changed
    - “b” became “c”
ok       CIDEr, beam size 3            1.2500          1.2451     -0.0049     0.0125   0.4300  within the tolerance
MISSING  METEOR, beam size 3           0.2500                                                  not computed: no Java
unclear  BLEU-4, beam size 3           0.3000          0.2900     -0.0100     0.0030  <0.0001  it may be chance
better   ROUGE-L, beam size 3          0.5000          0.6000     +0.1000     0.0050   1.0000  bless the run
skipped  decode: flops         51,000,000,000  52,000,000,000          +1     0.0000           captions changed
"""
    )


def test_a_difference_that_rounds_to_nothing_has_no_sign() -> None:
    for difference in (-4e-5, 4e-5, -0.0):
        table = gate_table(result(Check("quality", "x", "pass", "y", 1.0, 1.0, difference)))
        assert re.search(r"1\.0000  1\.0000 +0\.0000 ", table)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_line_of_the_table_is_a_command_or_reaches_the_terminal(text: str) -> None:
    table = gate_table(hostile_result(text))
    lines = table.split("\n")
    assert len(lines) == 4 + 2 * 3 + 1, "no name breaks a line"
    assert all(line.isprintable() for line in lines)
    assert not any(line.lstrip().startswith("::") for line in lines)
    assert "##[" not in table
    table.encode()


# ---- files


def test_the_json_file_says_everything(tmp_path: Path) -> None:
    content, _, _ = written(tmp_path, RESULT)
    assert (content["schema_version"], content["exit_code"], content["verdict"]) == (1, 4, RESULT.verdict)
    checks = content["checks"]
    assert isinstance(checks, list)
    assert checks[2] == {
        "layer": "quality", "name": "CIDEr, beam size 3", "outcome": "pass", "text": "within the tolerance",
        "before": 1.25, "after": 1.2451, "difference": -0.0049, "tolerance": 0.0125, "p": 0.43, "details": [],
        "failed": False,
    }  # fmt: skip
    assert [check["failed"] for check in checks] == [False, True, False, True, False, False, False]


def test_numbers_that_are_none_are_null() -> None:
    checks = [Check("speed", "x", "pass", "y", float("inf"), float("nan"), -float("inf"))]
    content = json.loads(gate_json(result(*checks)), parse_constant=pytest.fail)
    assert [content["checks"][0][key] for key in ("before", "after", "difference")] == [None] * 3
    assert "nan" not in gate_table(result(*checks))


def test_the_junit_file_has_a_case_per_check_and_counts_that_are_right(tmp_path: Path) -> None:
    for strict, failures, skipped in ((False, 2, 2), (True, 4, 1)):
        _, suites, _ = written(tmp_path, GateResult("r", "b", strict, 0, CHECKS))
        cases = suites.findall("testsuite/testcase")
        assert [case.get("name") for case in cases] == [check.name for check in CHECKS]
        assert (len(suites.findall(".//failure")), len(suites.findall(".//skipped"))) == (failures, skipped)
        for element in (suites, suites[0]):
            counts = {name: element.get(name) for name in ("tests", "failures", "errors", "skipped")}
            assert counts == {"tests": "7", "failures": str(failures), "errors": "0", "skipped": str(skipped)}
    failure = suites.find(".//failure")
    assert failure is not None
    assert (failure.get("type"), failure.get("message")) == ("regression", "12 of 24 changed")
    assert failure.text == "12 of 24 changed; difference +0.5000; tolerance 0.0000\n“b” became “c”"


@pytest.mark.parametrize("text", HOSTILE)
def test_strangers_names_are_text_in_the_junit_file(tmp_path: Path, text: str) -> None:
    _, suites, _ = written(tmp_path, hostile_result(text))
    assert [case.tag for case in suites.iter()].count("testcase") == 3
    assert {element.tag for element in suites.iter()} == {
        "testsuites", "testsuite", "testcase", "failure", "skipped", "system-out"
    }  # fmt: skip
    assert all((case.get("name") or "").isprintable() for case in suites.iter("testcase"))


@pytest.mark.parametrize("text", HOSTILE)
def test_strangers_names_are_text_in_the_markdown(tmp_path: Path, text: str) -> None:
    _, _, markdown = written(tmp_path, hostile_result(text))
    table = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 3
    columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table}
    assert columns == {9}, "no name ends a cell"
    assert not re.search(r"[@#]\w", markdown.replace("### ", "")), "nobody is notified"
    tags = {element.tag.split("}")[1] for element in html5lib.parse(markdown).iter()}
    assert tags <= {"html", "head", "body", "br"}, "no element but our own line breaks"
    assert not re.search(r"(?<!\\)`", markdown)
    assert all(line.isprintable() for line in markdown.replace("\u200b", "").split("\n"))


def test_the_markdown_is_cut_below_what_a_comment_holds_failures_first(tmp_path: Path) -> None:
    passed = [Check("quality", f"metric {i}", "pass", "ü" * 300) for i in range(500)]
    _, _, markdown = written(tmp_path, result(*passed, Check("quality", "worst", "regression", "bad")))
    assert 50_000 < len(markdown.encode()) <= 60_000
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert rows[2].startswith("| FAIL | worst |")
    assert markdown.rstrip().endswith(f"… and {501 - len(rows) + 2} more checks: see gate.json")


def test_the_longest_details_still_fit(tmp_path: Path) -> None:
    huge = Check("identity", "captions", "regression", "changed", details=("@" * 100_000,) * 10)
    long = Check("quality", "z" * 100_000, "pass", "z" * 100_000)
    _, _, markdown = written(tmp_path, GateResult("x" * 100_000, "y" * 100_000, False, 0, (huge, long)))
    assert len(markdown.encode()) <= 60_000
    assert "captions" in markdown


@given(st.text(), st.text())
def test_any_text_at_all_can_be_shown(name: str, text: str) -> None:
    gated = result(Check("quality", name, "regression", text, details=(text,)))
    assert len(gate_table(gated).split("\n")) == 7
    assert json.loads(gate_json(gated))["checks"][0]["name"] == name


# ---- GitHub


def test_nothing_is_announced_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = tmp_path / "summary.md"
    for environ in ({}, {"GITHUB_ACTIONS": "false"}, {"GITHUB_ACTIONS": ""}):
        announce(RESULT, {**environ, "GITHUB_STEP_SUMMARY": str(summary)})
    assert capsys.readouterr().out == ""
    assert not summary.exists()


def test_annotations_name_failures_and_then_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    announce(RESULT, {"GITHUB_ACTIONS": "true"})
    assert capsys.readouterr().out.splitlines() == [
        "::error title=gazebench gate%3A captions::12 of 24 changed; difference +0.5000; tolerance 0.0000",
        "::error title=gazebench gate%3A METEOR%2C beam size 3::not computed: no Java; before 0.2500",
        "::warning title=gazebench gate%3A BLEU-4%2C beam size 3::it may be chance; before 0.3000; "
        "after 0.2900; difference -0.0100; tolerance 0.0030; p <0.0001",
        "::warning title=gazebench gate%3A ROUGE-L%2C beam size 3::bless the run; before 0.5000; after 0.6000; "
        "difference +0.1000; tolerance 0.0050; p 1.0000",
    ]


def test_there_are_at_most_ten_annotations(capsys: pytest.CaptureFixture[str]) -> None:
    announce(result(*[CHECKS[4]] * 20, *[CHECKS[1]] * 8), {"GITHUB_ACTIONS": "true"})
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["::error"] * 8 + ["::warning"] * 2


@pytest.mark.parametrize("text", [*HOSTILE, "100 %0A::error::x", "a,line=3::b"])
def test_no_name_becomes_a_command_or_a_property(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    announce(hostile_result(text), {"GITHUB_ACTIONS": "true"})
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "##[" not in out
    found = re.fullmatch(r"::error title=([^:,]*)::([^\n]*)\n", out)
    assert found, "one title, then the message"
    for part in found.groups():
        assert not re.search(r"%(?!25|0D|0A|3A|2C)", part)


def test_the_summary_of_the_step_is_appended_to(tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    announce(RESULT, {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)})
    write_outputs(RESULT, tmp_path / "out")
    assert summary.read_text() == "before\n" + (tmp_path / "out" / "gate.md").read_text() + "\n"


def test_a_summary_that_would_be_dropped_for_its_length_is_left_as_it_is(tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    summary.write_bytes(b"x" * ((1 << 20) - 500))
    announce(RESULT, {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)})
    assert summary.stat().st_size == (1 << 20) - 500


# ---- from a real run


@pytest.mark.parametrize("text", HOSTILE)
def test_a_run_of_a_stranger_is_shown_like_any_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    run, base = blessed(
        tmp_path, n=3, beams=(3,), said=lambda *_: "a dog on it of beam 3", speed=make_speed(name=text)
    )
    store = RunStore(run)
    rows = store.read_captions()
    (run / "captions.jsonl").unlink()
    store.append_captions(row.__class__(**{**row.__dict__, "caption": text, "score": 0.0}) for row in rows)
    gated = gate(run, base)
    assert gated.exit_code == 1
    written(tmp_path / "out", gated)
    announce(gated, {"GITHUB_ACTIONS": "true"})
    lines = (gate_table(gated) + capsys.readouterr().out).split("\n")
    assert all(line.isprintable() for line in lines)
    assert all(line.startswith("::error title=gazebench") for line in lines if line.lstrip().startswith("::"))
    change(run, status="running")
    assert gate(run, base).exit_code == 4
