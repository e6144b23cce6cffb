"""Words and their numbers."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from models.errors import CheckpointError

# A word is a run of letters and digits, with the hyphens and apostrophes inside it ("t-shirt", "man's").
_WORD = re.compile(r"\w+(?:[-'’]\w+)*")


def split_words(caption: str) -> list[str]:
    """Lower-cases a caption and splits it into words; punctuation is dropped."""
    return _WORD.findall(caption.lower())


@dataclass(frozen=True)
class Vocabulary:
    """All words a model can say, in the order of their token ids.

    Special tokens are known by their role, whatever text a checkpoint gives them.

    Repeated words, and special tokens outside the list, are a `CheckpointError`.
    """

    words: tuple[str, ...]
    """The word of token id 0, 1, …; all different."""
    pad: int
    """Token id that fills up short captions in a batch."""
    start: int
    """Token id read at the first step."""
    end: int
    """Token id that closes a caption."""
    unk: int | None = None
    """Token id of every word that is not in the list; None if the model has none."""
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ids = {word: token_id for token_id, word in enumerate(self.words)}
        if len(ids) != len(self.words):
            word, count = Counter(self.words).most_common(1)[0]
            raise CheckpointError(
                f"the vocabulary lists the word {word!r} {count} times; each word needs one id"
            )
        for role in ("pad", "start", "end", "unk"):
            token_id = getattr(self, role)
            if token_id is not None and not 0 <= token_id < len(self.words):
                raise CheckpointError(
                    f"the vocabulary has ids 0 to {len(self.words) - 1}, but its {role} token has id {token_id}"
                )
        object.__setattr__(self, "_ids", ids)

    def __len__(self) -> int:
        return len(self.words)

    @classmethod
    def from_captions(cls, captions: Iterable[Sequence[str]], *, min_count: int = 1) -> "Vocabulary":
        """Collects the words of tokenised captions, most frequent first, ties in alphabetical order.

        Args:
            captions: one sequence of words per caption.
            min_count: rarer words become `<unk>`.

        Returns:
            `<pad>`, `<start>`, `<end>` and `<unk>` at 0 to 3, then the words.
        """
        counts = Counter(word for caption in captions for word in caption)
        kept = sorted((w for w, n in counts.items() if n >= min_count), key=lambda w: (-counts[w], w))
        return cls(("<pad>", "<start>", "<end>", "<unk>", *kept), pad=0, start=1, end=2, unk=3)

    def encode(self, words: Iterable[str]) -> list[int]:
        """Token ids of words.

        Args:
            words: any words.

        Returns:
            One id per word; unknown words get the id of `<unk>`, and are a `KeyError` where there is none.
        """
        return [self._ids[word] if self.unk is None else self._ids.get(word, self.unk) for word in words]

    def decode(self, token_ids: Iterable[int]) -> list[str]:
        """Words of token ids, without pad, start and end; `<unk>` stays, as it is something the model said."""
        return [self.words[token_id] for token_id in token_ids if not self.is_silent(token_id)]

    def is_silent(self, token_id: int) -> bool:
        """Whether a token is pad, start or end, which no reader sees."""
        return token_id in (self.pad, self.start, self.end)
