"""What self-critical training makes larger: CIDEr-D of captions that the model draws."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

from bench.errors import DataError
from bench.scoring.cider import CiderD
from bench.scoring.ngrams import Ngrams
from models.vocabulary import split_words

_END = "<end>"
"""Closes a finished caption and every reference; `split_words` never yields it."""
_KEPT = 256
"""Images whose references stay taken apart: samples of an image come one after the other."""


class CiderReward:
    """CIDEr-D against the training captions, in which the end of a caption counts as a word.

    Without that, a caption that breaks off ("a man on a") loses nothing, and training makes more and more of them, at
    up to 4.1 points of CIDEr-D (Hu et al. 2023, arXiv:2305.12254). Document frequencies are counted over the same
    references. Words are told apart as the vocabulary does it, so that a caption that equals a reference can be said.

    Only the references themselves are kept, and the frequencies; a reference is taken apart when its image comes up.

    Args:
        references: captions by image id, of at least two images: of one, every n-gram would be in every image, and
            every reward 0.

    Raises:
        DataError: if there are fewer.
    """

    def __init__(self, references: Mapping[str, Sequence[str]]) -> None:
        if len(references) < 2:
            raise DataError(
                f"CIDEr needs captions of at least 2 training images to tell rare words from common ones, and got "
                f"{len(references)}; train on more images, or without the self-critical stage"
            )
        self._references = references
        self._cider = CiderD(map(self._taken_apart, references))
        self._recent = lru_cache(maxsize=_KEPT)(self._taken_apart)

    def __call__(self, image_id: str, words: Sequence[str], *, finished: bool) -> float:
        """Rewards a caption.

        Args:
            image_id: of one of the images.
            words: of the caption, special tokens left out.
            finished: whether the caption came to its end.

        Returns:
            0 to 10.
        """
        return self._cider.score(_ngrams(words, finished=finished), self._recent(image_id))

    def _taken_apart(self, image_id: str) -> list[Ngrams]:
        return [_ngrams(split_words(reference), finished=True) for reference in self._references[image_id]]


def _ngrams(words: Sequence[str], *, finished: bool) -> Ngrams:
    return Ngrams(" ".join([*words, _END] if finished else words))
