"""From captions as they come to the tokens that are scored."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

MAX_WORDS = 200
"""A longer caption is cut: METEOR takes a second for one of this length, all its memory for one of 1,000."""
MAX_CHARACTERS = 4000
"""The same, before there are words."""
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]|\|{3,}")


class Tokenised(NamedTuple):
    """Captions after the tokenizer."""

    captions: list[str]
    """Tokens joined by spaces; "" where nothing is left."""
    cut: list[int]
    """Which of the captions were longer than `MAX_WORDS` words or `MAX_CHARACTERS` characters."""


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


def read_tokens(token_lines: Sequence[str], captions: Sequence[str]) -> Tokenised:
    """Drops punctuation from what the tokenizer answered, as pycocoevalcap does, and cuts what is too long.

    Like pycocoevalcap this keeps the brackets `-lrb-`, `-rrb-`, `-lcb-` and `-rcb-`: its list of punctuation
    holds them in upper case, but the tokenizer is told to lower the case. Dropping them would change scores.

    Args:
        token_lines: the tokenizer's answer to each caption.
        captions: as they were given.

    Returns:
        The tokens to score.
    """
    kept, cut = [], []
    for number, (line, caption) in enumerate(zip(token_lines, captions, strict=True)):
        tokens = [token for token in line.rstrip().split(" ") if token not in PUNCTUATIONS]
        if len(tokens) > MAX_WORDS or len(caption) > MAX_CHARACTERS:
            cut.append(number)
        kept.append(" ".join(tokens[:MAX_WORDS]))
    return Tokenised(kept, cut)
