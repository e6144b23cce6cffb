import os
import random
import shutil
import signal
import subprocess
from contextlib import closing
from itertools import permutations
from pathlib import Path

import pytest
from test_bench_scoring_java import posix, stand_in

from bench.errors import JavaError
from bench.scoring import meteor
from bench.scoring.java import FOLDER, Deadline, find_java
from bench.scoring.meteor import MAX_WORDS, Meteor

pytestmark = [pytest.mark.java, pytest.mark.slow]
PAIRS = [("a man rides a horse", ["the man is riding a brown horse", "a man on a horse"])]
# Printed by the program itself in an English locale.
EXPECTED = [5, 5, 2, 3, 2, 2, 2, 2, *[0] * 12, 2, 4, 4]
TEXT = (
    "a the man men woman person dog dogs hound puppy runs running jogs on in of street road big large small little "
    "red 's n't t-shirt -lrb- -rrb- 1/2 3.50 $ & st. u.s. mr. no. 5 1,000 a. <unk> é 日本 ' '' ` # = +1 x.y a.b.c ... "
    "# | || a-b-c o'clock dogs' 5's '90s -- – “ ” ‘ ’ İ ß \u00a0 \u3000 ، a,b 1,b b,1 .5 5. dotmulti"
)
PHRASES = [
    "next to",
    "close to",
    "in front of",
    "before the",
    "a lot of",
    "many",
    "is going to",
    "will",
    "a few",
]
WORDS = [*TEXT.split(" "), *PHRASES * 2]


def sentences(count, seed=0):
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(0, 14))) for _ in range(count)]


def rows(program, pairs, seconds=120.0):
    program.prepare((text for _, texts in pairs for text in texts), deadline=Deadline(seconds))
    return list(program.statistics(pairs, deadline=Deadline(seconds)))


@pytest.fixture(scope="module")
def pairs():
    # Captions that share most words with a reference, so that there is something to align.
    draw = random.Random(1)
    references = [sentences(3, seed) for seed in range(600)]
    swapped = [(f"a dog {one}", [f"the dog {other}"]) for one, other in permutations(PHRASES, 2)]
    return swapped + [
        (" ".join(word for word in draw.choice(texts).split(" ") + draw.choices(WORDS, k=3) if word), texts)
        for texts in references
    ]


@pytest.fixture(scope="module")
def program(pairs):
    with closing(Meteor(find_java())) as program:
        rows(program, pairs + PAIRS)
        yield program


def test_statistics_are_those_of_the_program_as_pycocoevalcap_starts_it(program, pairs):
    command = [find_java(), "-Xmx2G", "-jar", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm"]
    lines = "".join(" ||| ".join(("SCORE", *texts, caption)) + "\n" for caption, texts in pairs)
    done = subprocess.run(
        [*command, "-a", "data/paraphrase-en.gz"],
        input=lines.encode(),
        capture_output=True,
        check=True,
        cwd=FOLDER / "meteor",
        env=os.environ | {"LC_ALL": "C.UTF-8"},
    )
    expected = [[float(field) for field in line.split()] for line in done.stdout.decode().splitlines()]
    for row in expected:
        if row[20] == 1 and row[0:2] == row[21:23]:
            row[20] = 0.0
    assert rows(program, pairs) == expected
    assert sum(row[16] + row[18] > 0 for row in expected) > 5, "paraphrases were used"


def test_a_caption_that_matches_as_a_whole_has_no_chunk_and_an_empty_one_no_match(program):
    whole, empty = program.statistics(
        [("a man", ["some people", "a man"]), ("", ["a man"])], deadline=Deadline(60)
    )
    assert whole == [2, 2, 1, 1, 1, 1, 1, 1, *[0] * 12, 0, 2, 2]
    assert empty == [0, 2, 0, 1, *[0] * 19]


def test_the_longest_texts_that_it_is_asked_for_fit_into_its_memory(program):
    long = " ".join(["dog"] * MAX_WORDS)
    (found,) = program.statistics([(long, [long] * 5)], deadline=Deadline(120))
    assert found[21] == MAX_WORDS


@posix
@pytest.mark.parametrize("which", ["METEOR", "its normaliser"])
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_is_killed_or_stopped_is_replaced(program, sent, which):
    pairs = [(f"{PAIRS[0][0]} it 's {sent.name} {which}", PAIRS[0][1])]
    (expected,) = program.statistics(pairs, deadline=Deadline(60))
    chosen = program if which == "METEOR" else program._normaliser
    process = chosen._process._process
    os.kill(process.pid, sent)
    assert list(program.statistics(pairs, deadline=Deadline(20))) == [expected]
    assert process.wait(timeout=60) == -signal.SIGKILL


def test_it_bears_a_foreign_locale_and_any_folder(monkeypatch, tmp_path):
    folder = tmp_path / "with a space, + and é"
    shutil.copytree(FOLDER / "meteor", folder / "meteor")
    monkeypatch.setattr(meteor, "FOLDER", folder)
    (folder / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder / "temporary"))
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    # Java takes the locale from LC_ALL only where the system has it installed.
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=de -Duser.country=DE")
    monkeypatch.setenv("PATH", "")
    with closing(Meteor(find_java())) as program:
        assert rows(program, PAIRS * 130) == [EXPECTED] * 130
        assert list((folder / "temporary").iterdir())
    assert not list((folder / "temporary").iterdir()), "it leaves nothing behind"


def test_a_temporary_folder_that_can_not_be_written_to_is_an_error(monkeypatch, tmp_path):
    with closing(Meteor(Path("java"))) as program:
        program._temporary.cleanup()
        with pytest.raises(JavaError, match="METEOR's paraphrases could not be written"):
            program.prepare(["a dog"], deadline=Deadline(60))


@posix
@pytest.mark.parametrize(
    "script", ["while read line; do echo nonsense; done", "while read line; do echo 1.0; done"]
)
def test_an_answer_that_is_not_23_numbers_is_an_error(tmp_path, script):
    with (
        closing(Meteor(stand_in(tmp_path, script))) as program,
        pytest.raises(JavaError, match="METEOR answered"),
    ):
        rows(program, PAIRS)
