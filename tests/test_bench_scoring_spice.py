import json
import math
import os
import re
import shutil
import subprocess
from pathlib import Path
from zipfile import ZipFile

import pycocoevalcap
import pytest

from bench.errors import JavaError
from bench.scoring import spice
from bench.scoring.java import find_java
from bench.scoring.spice import SpiceJars, find_spice, require_spice, spice_scores

posix = pytest.mark.skipif(os.name != "posix", reason="stands in for Java with a shell script")
compiler = pytest.mark.skipif(shutil.which("javac") is None, reason="there is no Java compiler")
PYCOCOEVALCAP = Path(next(iter(pycocoevalcap.__path__)))
# CoreNLP of another version, without models: enough for SPICE to start, not to parse.
TOKENIZER = PYCOCOEVALCAP / "tokenizer/stanford-corenlp-3.4.1.jar"
UNPARSING = SpiceJars(TOKENIZER, TOKENIZER)
PAIRS = [
    ("a red dog", ["a dog runs"]),
    ("a brown dog", ["a dog runs", "a brown dog"]),
    ("nothing", ["a dog runs"]),
]
CORENLP, MODELS = spice._JARS


def write_jars(folder: Path) -> SpiceJars:
    folder.mkdir(exist_ok=True)
    for name, entries in spice._JARS.items():
        with ZipFile(folder / name, "w") as jar:
            for entry in ("META-INF/MANIFEST.MF", *entries):
                jar.writestr(entry, "x" * 1000)
    return SpiceJars(folder / CORENLP, folder / MODELS)


def stand_in(folder: Path, script: str) -> Path:
    program = folder / "java"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def answering(folder: Path, answer: str) -> Path:
    """A stand-in for Java that keeps what SPICE is given and answers with a text."""
    (folder / "answer").write_text(answer)
    keep = f'while [ "$1" != -out ]; do given=$1; shift; done; cp "$given" "{folder}/given"; pwd > "{folder}/cwd"'
    return stand_in(folder, f'{keep}; cp "{folder}/answer" "$2"')


def row(image_id: int, f: float | None) -> dict:
    counts = {"pr": 0.5, "re": 0.5, "f": f, "fn": 1, "numImages": 1, "fp": 1, "tp": 1}
    return {"scores": {"All": counts}, "image_id": image_id}


@pytest.fixture(autouse=True)
def no_folder_of_the_users(monkeypatch):
    monkeypatch.delenv(spice.VARIABLE, raising=False)


def test_the_parser_is_found_where_the_user_put_it_and_else_where_pycocoevalcap_puts_it(
    monkeypatch, tmp_path
):
    monkeypatch.setattr(spice, "_FOLDER", tmp_path / "spice")
    assert find_spice() is None
    (tmp_path / "spice").mkdir()
    theirs, ours = write_jars(tmp_path / "spice/lib"), write_jars(tmp_path / "mine, with a space")
    assert find_spice() == theirs
    monkeypatch.setenv(spice.VARIABLE, str(tmp_path / "mine, with a space"))
    assert find_spice() == ours
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(spice.VARIABLE, "mine, with a space")
    assert find_spice() == ours  # SPICE runs in another folder
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(spice.VARIABLE, "~/mine, with a space")
    assert find_spice() == ours


def test_a_folder_that_the_user_named_is_not_passed_over_in_silence(monkeypatch, tmp_path):
    monkeypatch.setattr(spice, "_FOLDER", tmp_path)
    write_jars(tmp_path / "lib")
    monkeypatch.setenv(spice.VARIABLE, str(tmp_path / "empty"))
    assert find_spice() is None
    with pytest.raises(JavaError, match=re.escape(f"{tmp_path / 'empty' / CORENLP} is missing")):
        require_spice()


def test_one_sentence_says_where_to_get_the_parser_and_where_to_put_it(monkeypatch, tmp_path):
    monkeypatch.setenv(spice.VARIABLE, str(tmp_path))
    with pytest.raises(JavaError) as error:
        require_spice()
    message = str(error.value)
    assert "\n" not in message
    script = (PYCOCOEVALCAP / "spice/get_stanford_models.py").read_text()
    for part in spice.SOURCE.removesuffix(".zip").rsplit("/", 1):
        assert part in script
    assert spice.SOURCE in message
    assert f"set GAZEBENCH_SPICE to the folder that holds {CORENLP} and {MODELS}" in message


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 362565193\n"


@pytest.mark.parametrize(
    ("content", "flaw"),
    [
        (LFS.encode(), "is a Git LFS pointer instead of the file"),
        (b"\n<!DOCTYPE html><html>404</html>", "is a web page instead of the file"),
        (b"", "is no whole jar file"),
        (b"PK\x03\x04" + bytes(200), "is no whole jar file"),
    ],
)
@pytest.mark.parametrize("name", [CORENLP, MODELS])
def test_a_file_that_only_bears_the_name_is_seen_through(monkeypatch, tmp_path, name, content, flaw):
    write_jars(tmp_path)
    monkeypatch.setenv(spice.VARIABLE, str(tmp_path))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(JavaError, match=f"{re.escape(name)} {flaw}"):
        require_spice()


def test_a_download_that_broke_off_and_a_jar_of_another_version_are_seen_through(monkeypatch, tmp_path):
    monkeypatch.setenv(spice.VARIABLE, str(tmp_path))
    jars = write_jars(tmp_path)
    whole = jars.models.read_bytes()
    jars.models.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        JavaError, match=r"models.jar is no whole jar file, perhaps a download that broke off"
    ):
        require_spice()
    jars.models.write_bytes(jars.corenlp.read_bytes())
    with pytest.raises(JavaError, match=r"models.jar lacks .*englishPCFG"):
        require_spice()
    jars.corenlp.write_bytes(TOKENIZER.read_bytes())
    with pytest.raises(JavaError, match=r"3.6.0.jar lacks .*UniversalEnglishGrammaticalRelations"):
        require_spice()
    jars.corenlp.unlink()
    jars.corenlp.mkdir()
    with pytest.raises(JavaError, match=r"3.6.0.jar is missing"):
        require_spice()


@posix
def test_scores_come_back_by_image_whatever_the_order_and_none_where_there_is_none(tmp_path):
    answer = [row(2, None), row(0, 0.25), row(3, math.nan), row(1, 1)]
    pairs = [*PAIRS, ('né "quoted" \ud800 \u2028', ["日本 😀", ""])]
    scores = spice_scores(pairs, UNPARSING, answering(tmp_path, json.dumps(answer)), 60)
    assert scores == [0.25, 1.0, None, None]
    # What SPICE reads, it reads by the machine's encoding; the characters must not depend on that.
    given = json.loads((tmp_path / "given").read_bytes().decode("ascii"))
    assert [(item["test"], item["refs"]) for item in given] == pairs
    assert not Path((tmp_path / "cwd").read_text().strip()).exists()  # nothing stays behind


@posix
@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ([row(0, 0.5), row(1, 0.5)], "given 3 captions and answered with scores of 2"),
        ([row(0, 0.5), row(1, 0.5), row(7, 0.5)], "answered with scores of 3"),
        ([{"image_id": 0}], "instead of scores"),
        ([row(0, "much")], "instead of scores"),
        ("nonsense", "instead of scores"),
        (None, "instead of scores"),
    ],
)
def test_an_answer_that_does_not_fit_the_question_is_an_error(tmp_path, answer, complaint):
    with pytest.raises(JavaError, match=complaint):
        spice_scores(PAIRS, UNPARSING, answering(tmp_path, json.dumps(answer)), 60)


@posix
@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("exec sleep 1000", "did not answer within 0.3 s and was stopped"),
        ("exit 0", "exit code 0.: no message"),
        ("echo 'Invalid maximum heap size: -Xmx8G' >&2; exit 1", "exit code 1.: Invalid maximum heap size"),
        # The line that names the cause is neither the first nor the last.
        (
            "echo 'Error: Could not score' >&2; echo java.lang.ExceptionInInitializerError >&2;"
            "echo 'Caused by: java.lang.OutOfMemoryError: Java heap space' >&2; echo '  ... 3 more' >&2; exit 1",
            "exit code 1.: java.lang.OutOfMemoryError: Java heap space$",
        ),
        ("yes 'java.lang.Exception: again' | head -c 3000000 >&2; exit 1", "java.lang.Exception: again$"),
    ],
)
def test_whatever_goes_wrong_with_spice_is_a_reason_and_never_a_hang(tmp_path, script, complaint):
    with pytest.raises(JavaError, match=complaint):
        spice_scores(PAIRS, UNPARSING, stand_in(tmp_path, script), 0.3 if "sleep" in script else 60)


def test_a_program_that_is_no_java_is_named(tmp_path):
    with pytest.raises(JavaError, match=r"could not be started with .*java"):
        spice_scores(PAIRS, UNPARSING, tmp_path / "java", 60)


@pytest.mark.java
def test_without_the_models_the_real_program_ends_in_a_reason():
    with pytest.raises(
        JavaError, match=r"Unable to resolve .edu/stanford/nlp/models/lexparser/englishPCFG.ser.gz"
    ):
        spice_scores(PAIRS, UNPARSING, find_java(), 120)
    nothing = SpiceJars(Path("nowhere.jar"), Path("nowhere.jar"))
    with pytest.raises(JavaError, match=r"NoClassDefFoundError: edu/stanford/nlp"):
        spice_scores(PAIRS, nothing, find_java(), 120)


@pytest.mark.java
def test_the_real_program_writes_its_scores_on_a_java_that_has_no_javascript():
    assert spice_scores([], UNPARSING, find_java(), 120) == []


FILL = """
package edu.anu.spice;
import java.util.*;
public class Fill {
    public static void main(String[] arguments) {
        Map<String, ArrayList<ArrayList<String>>> parsed = new HashMap<>();
        for (String line : arguments[1].split("\\n")) {
            String[] parts = line.split(":", 2);
            ArrayList<ArrayList<String>> tuples = new ArrayList<>();
            for (String tuple : parts[1].split(";"))
                if (!tuple.isEmpty()) tuples.add(new ArrayList<>(Arrays.asList(tuple.split(","))));
            parsed.put(parts[0], tuples);
        }
        new LmdbTupleDB(arguments[0]).putTransaction(parsed);
    }
}
"""
PARSED = "a red dog:dog;dog,red\na brown dog:dog;dog,brown\na dog runs:dog;dog,run\nnothing:"
# Its cache reads Java's own private fields.
OPEN = [
    f"--add-opens={module}=ALL-UNNAMED"
    for module in (
        *(f"java.base/java.{part}" for part in ("lang", "math", "net", "text", "util", "util.concurrent")),
        "java.sql/java.sql",
    )
]


@pytest.mark.java
@posix
@compiler
def test_the_real_program_scores_captions_that_have_been_parsed_before(tmp_path):
    """The parser is hundreds of megabytes; SPICE's own cache, filled with parsed captions, makes it unnecessary."""
    (tmp_path / "Fill.java").write_text(FILL)
    (tmp_path / "cache").mkdir()
    jars = [PYCOCOEVALCAP / "spice/spice-1.0.jar", *(PYCOCOEVALCAP / "spice/lib").glob("*.jar")]
    class_path = os.pathsep.join(map(str, [tmp_path, TOKENIZER, *jars]))
    compiling = [
        "javac",
        "--release",
        "8",
        "-Xlint:-options",
        "-proc:none",
        "-cp",
        class_path,
        "-d",
        tmp_path,
    ]
    subprocess.run([*compiling, tmp_path / "Fill.java"], check=True)
    java = [str(find_java()), *OPEN]
    subprocess.run([*java, "-cp", class_path, "edu.anu.spice.Fill", tmp_path / "cache", PARSED], check=True)
    cached = stand_in(tmp_path, f'exec {" ".join(java)} "$@" -cache {tmp_path / "cache"}')
    # Of dog, dog-red / dog, dog-run: precision and recall 1/2. Of dog, dog-brown / dog, dog-run, dog-brown:
    # precision 1, recall 2/3, so F is 4/5.
    assert spice_scores(PAIRS, UNPARSING, cached, 120) == [0.5, 0.8, 0.0]


@compiler
def test_the_compiled_stand_in_for_javascript_is_what_its_source_compiles_to(tmp_path):
    if not subprocess.run(["javac", "-version"], capture_output=True, text=True).stdout.startswith(
        "javac 17."
    ):
        pytest.skip("another compiler than the one that made PlainJson.class")
    source = spice._PLAIN_JSON / "PlainJson.java"
    subprocess.run(["javac", "--release", "8", "-g:none", "-d", tmp_path, source], check=True)
    assert (tmp_path / "PlainJson.class").read_bytes() == source.with_suffix(".class").read_bytes()
