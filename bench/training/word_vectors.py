"""Word vectors from a text file in GloVe's form (Pennington et al. 2014), which can be far larger than memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.errors import DataError
from models.captioner import Captioner
from models.vocabulary import Vocabulary

_LONGEST_LINE = 1 << 16
"""Bytes; a word and 4,096 numbers of 16 characters."""
_LARGEST = torch.finfo(torch.float32).max


class WordVectors(NamedTuple):
    """Vectors of those words of a vocabulary that a file has."""

    token_ids: Int[Tensor, " word"]
    vectors: Float[Tensor, "word dim"]


def load_embeddings(path: Path, vocabulary: Vocabulary, dim: int) -> WordVectors:
    """Reads the vectors of a vocabulary's words, line by line.

    A line is a word and its numbers, separated by spaces. The word may hold spaces itself, as some of glove.840B do; a
    first line of two numbers, as word2vec and fastText write it, is passed over. Of a word that stands there twice, the
    first vector counts. Special tokens have none.

    Args:
        path: the file.
        vocabulary: whose words are looked for.
        dim: length of a vector.

    Returns:
        The vectors found.

    Raises:
        DataError: if the file can't be read, a line is not a word and `dim` numbers, or it has none of the words.
    """
    ids = {word: token_id for token_id, word in enumerate(vocabulary.words)}
    for special in (vocabulary.pad, vocabulary.start, vocabulary.end, vocabulary.unk):
        if special is not None:
            ids.pop(vocabulary.words[special], None)
    found: dict[int, Tensor] = {}
    try:
        for number, line in _lines(path):
            parts = line.rstrip().rsplit(" ", dim)
            if number == 1 and len(parts) == 2 and all(part.isdigit() for part in parts):
                continue
            if len(parts) != dim + 1:
                numbers = len(parts) - 1
                raise DataError(
                    f"{_at(path, number)} is a word and {numbers} numbers; expected {dim}, as the recipe's embeddings"
                )
            token_id = ids.get(parts[0])
            if token_id is not None and token_id not in found:
                found[token_id] = torch.tensor(_numbers(path, number, parts[1:]))
    except OSError as error:
        raise DataError(f"the word vectors {str(path)!r} can't be read: {error.strerror or error}") from error
    if not found:
        raise DataError(
            f"{path.name} has none of the vocabulary's {len(ids)} words; expected vectors of such words"
        )
    return WordVectors(torch.tensor(list(found)), torch.stack(list(found.values())))


def start_embeddings(captioner: Captioner, path: Path) -> str:
    """Gives a captioner's word embeddings the vectors of a file; words that it lacks keep theirs.

    Args:
        captioner: is changed.
        path: as `load_embeddings` reads it.

    Returns:
        How many words were found, in a sentence. A file that can't be used is a `DataError`.
    """
    weight = captioner.decoder.embedding.weight
    found = load_embeddings(path, captioner.vocabulary, weight.shape[1])
    with torch.no_grad():
        weight[found.token_ids.to(weight.device)] = found.vectors.to(weight.device)
    return (
        f"{len(found.token_ids):,} of {len(captioner.vocabulary):,} words start from their vectors in {path.name}, "
        "the others from random ones"
    )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_LONGEST_LINE + 1):
            number += 1
            if len(line) > _LONGEST_LINE:
                raise DataError(
                    f"{_at(path, number)} is longer than {_LONGEST_LINE:,} bytes; expected a word and its numbers"
                )
            yield number, line.decode(errors="replace")


def _numbers(path: Path, number: int, parts: list[str]) -> list[float]:
    try:
        numbers = [float(part) for part in parts]
    except ValueError as error:
        raise DataError(f"{_at(path, number)} holds no number where one was expected ({error})") from error
    if not all(abs(each) <= _LARGEST for each in numbers):  # neither does NaN
        raise DataError(f"{_at(path, number)} holds a number that is not finite, or too large for float32")
    return numbers


def _at(path: Path, number: int) -> str:
    return f"line {number:,} of {path.name}"
