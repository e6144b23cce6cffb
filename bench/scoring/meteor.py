"""METEOR 1.5, kept from doing the same work again and again."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.errors import JavaError
from bench.pieces import pieces
from bench.scoring.java import FLAGS, FOLDER, SMALL, Deadline, Program
from bench.scoring.paraphrases import write_usable
from reports.stats import METEOR_STATISTICS

MAX_WORDS = 250
"""Two texts that say one word so often take METEOR a second and twice the memory; natural text does from 900 on."""
_PARAPHRASES = FOLDER / "meteor" / "data" / "paraphrase-en.gz"
_METEOR = ("-jar", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-lower", "-a")
_NORMALISER = ("-cp", "meteor-1.5.jar", "edu.cmu.meteor.util.Normalizer", "en", "true")
# What it holds for long is the table; left to itself, Java takes half as much again for what is soon forgotten.
_HEAP = ("-Xms64m", "-Xmn24m", "-XX:MinHeapFreeRatio=5", "-XX:MaxHeapFreeRatio=10")
_AT_ONCE = 4_096  # references that are normalised together
_PLAIN = re.compile("[a-z0-9 ]*").fullmatch


class Meteor(Program):
    """METEOR 1.5 (`-l en -norm`) as a running process.

    As it is, it normalises every reference again for every caption. Here the program `Normalizer`, which is a
    part of it, does so once for each sentence, and METEOR is started with `-lower`, which leaves out that step
    alone; sentences of plain words are not changed by it. And it is given a smaller table, see `paraphrases`.

    Args:
        java: the Java program.
    """

    def __init__(self, java: Path) -> None:
        folder = FOLDER / "meteor"
        self._temporary = TemporaryDirectory(prefix="gazebench-", ignore_cleanup_errors=True)
        self._table = Path(self._temporary.name, "paraphrases.gz")
        super().__init__("METEOR", (str(java), *FLAGS, *_HEAP, *_METEOR, str(self._table)), folder)
        self._normaliser = Program("METEOR's normaliser", (str(java), *SMALL, *_NORMALISER), folder)
        self._ready = False

    def prepare(self, references: Iterable[str], *, deadline: Deadline) -> None:
        """Makes the table for these references, unless that has been done; the process starts when it is asked.

        It takes hundreds of megabytes, and captions may be long in coming.

        Args:
            references: tokenised; all that captions will be compared with. They are not kept.
            deadline: as in `answers`, for some thousand references; all others are given as long.

        Raises:
            JavaError: as in `answers`, and if the temporary folder can't be written to.
        """
        if self._ready:
            return
        normal = (self._normalise(part, Deadline(deadline.seconds)) for part in pieces(references, _AT_ONCE))
        try:
            write_usable(_PARAPHRASES, chain.from_iterable(normal), self._table)
        except OSError as error:
            raise JavaError(f"METEOR's paraphrases could not be written: {error}") from error
        self._ready = True

    def statistics(
        self, pairs: Sequence[tuple[str, Sequence[str]]], *, deadline: Deadline
    ) -> Iterator[list[float]]:
        """What METEOR counts in each caption against the reference that suits it best; fails as `answers` does.

        Args:
            pairs: tokenised caption and tokenised references, which `prepare` was given.
            deadline: as in `answers`.

        Yields:
            Numbers in the order of `METEOR_STATISTICS`. A caption that matches a reference as a whole has no
            chunk where the program prints one: so the program itself goes on to score and to add up.
        """
        assert self._ready
        texts = dict.fromkeys(text for caption, references in pairs for text in (caption, *references))
        normal = dict(zip(texts, self._normalise(list(texts), deadline), strict=True))
        lines = [
            " ||| ".join(("SCORE", *(normal[text] for text in references), normal[caption]))
            for caption, references in pairs
        ]
        yield from self.answers(lines, read=_statistics, deadline=deadline)

    def close(self) -> None:
        """Stops both processes for good."""
        self._normaliser.close()
        super().close()
        self._temporary.cleanup()

    def _normalise(self, sentences: Sequence[str], deadline: Deadline) -> list[str]:
        odd = [text for text in dict.fromkeys(sentences) if not _PLAIN(text)]
        normal = dict(zip(odd, self._normaliser.answers(odd, read=str, deadline=deadline), strict=True))
        return [normal.get(text, text) for text in sentences]


def _statistics(answer: str) -> list[float]:
    row = [float(field) for field in answer.split()]
    if len(row) != len(METEOR_STATISTICS):
        raise ValueError(answer)
    lengths, chunks, matches = row[0:2], row[20], row[21:23]
    if chunks == 1 and lengths == matches:
        row[20] = 0.0
    return row
