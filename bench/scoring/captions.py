"""From captions as they come to the tokens that are scored."""

import re
from collections.abc import Sequence
from pathlib import Path

from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

from bench.errors import JavaError
from bench.scoring import ptb
from bench.scoring.java import Deadline, Tokenizer

MAX_CHARACTERS = 30_000
"""A longer caption is cut. 2,000 words fit in; the tokenizer takes time quadratic in the length of strange text."""
_PUNCTUATION = frozenset(PUNCTUATIONS)
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]|\|{3,}")


def sanitise(caption: str) -> str:
    """A caption that stays on its line, whatever it holds.

    The tokenizer and METEOR read one caption per line, and METEOR separates captions by `|||`. Control
    characters (every line break is one, or U+2028 or U+2029), lone surrogates and `|||` become spaces.

    Args:
        caption: any text.

    Returns:
        At most `MAX_CHARACTERS` characters that can be encoded as UTF-8.
    """
    return _UNSAFE.sub(" ", caption[:MAX_CHARACTERS])


def drop_punctuation(tokens: str) -> str:
    """Drops punctuation from what the tokenizer answered, as pycocoevalcap does.

    Like pycocoevalcap this keeps the brackets `-lrb-`, `-rrb-`, `-lcb-` and `-rcb-`: its list of punctuation
    holds them in upper case, but the tokenizer is told to lower the case. Dropping them would change scores.

    Args:
        tokens: joined by spaces.

    Returns:
        The tokens to score, joined by spaces; "" where nothing is left.
    """
    return " ".join([token for token in tokens.rstrip().split(" ") if token not in _PUNCTUATION])


class CaptionTokenizer:
    """Splits captions into words: in Java as pycocoevalcap does, and where that fails in Python.

    Args:
        java: the Java program; None if there is none.

    Attributes:
        failure: why Java does not do it; None while it does.
    """

    failure: str | None

    def __init__(self, java: Path | None) -> None:
        self.failure = None
        self._program = Tokenizer(java) if java else None
        self._closed = False

    @property
    def name(self) -> str:
        """For the signature."""
        return "PTB-corenlp-3.4.1" if self._program and not self.failure else "PTB-python"

    def tokenise(self, captions: Sequence[str], *, deadline: Deadline) -> list[str]:
        """Splits captions. Once Java has failed all others are split in Python: one run has one tokenizer.

        Args:
            captions: as they come.
            deadline: for Java.

        Returns:
            For each caption the tokens to score, joined by spaces; "" where nothing is left.

        Raises:
            JavaError: if it is closed meanwhile.
        """
        lines = [sanitise(caption) for caption in captions]
        found = None
        if self._program and not self.failure:
            try:
                found = self._program.tokenize(lines, deadline=deadline)
            except JavaError as error:
                if self._closed:
                    raise
                self.failure = str(error)
        return [drop_punctuation(tokens) for tokens in found or ptb.tokenize(lines)]

    def close(self) -> None:
        """Stops the program."""
        self._closed = True
        if self._program:
            self._program.close()
