"""The tutorial's word map: a JSON object from words to ids, kept in a file of its own beside the checkpoint.

Because it travels apart from the weights, people evaluate with the wrong one: made again from the data it numbers the
words differently, and the captions turn to nonsense (sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning, issues 65, 97).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from models.errors import CheckpointError
from models.formats.limits import memory_limit
from models.vocabulary import Vocabulary

_MAX_BYTES = 32 << 20
_MAX_WORD = 500
SPECIAL = {
    "pad": ("<pad>",),
    "start": ("<start>", "<sos>", "<bos>", "<s>"),
    "end": ("<end>", "<eos>", "</s>"),
    "unk": ("<unk>",),
}
"""How projects write the special tokens, by role; upper and lower case count as the same."""

COMMON = (
    "a",
    "in",
    "the",
    "on",
    "and",
    "is",
    "of",
    "with",
    "man",
    "two",
    "to",
    "people",
    "are",
    "at",
    "woman",
)
"""The words that English captions of photographs use most (Flickr8k, COCO)."""
_FEWEST_COMMON = 8
_EXPECTED_RANK = 0.6


def find_word_map(checkpoint: Path, rows: int) -> tuple[Vocabulary, Path]:
    """Looks for the word map beside a checkpoint.

    Args:
        checkpoint: the checkpoint's path.
        rows: of its output layer.

    Returns:
        The vocabulary and where it was: of the files WORDMAP*.json in the same folder, the one that fits; of several,
        the one whose name belongs to the checkpoint's.

    Raises:
        CheckpointError: if there is none, none fits, or several do.
    """
    folders = dict.fromkeys([checkpoint.parent, checkpoint.resolve().parent])  # it may be a link
    candidates = sorted(
        path
        for folder in folders
        for path in folder.iterdir()
        if path.name.lower().startswith("wordmap") and path.suffix == ".json"
    )
    named = [
        path
        for path in candidates
        if path.stem.lower().removeprefix("wordmap").strip("_") in checkpoint.name.lower()
    ]
    problems = []
    fitting = []
    for path in named or candidates:
        try:
            fitting.append((read_word_map(path, rows, checkpoint.name), path))
        except CheckpointError as error:
            problems.append(str(error))
    if len({vocabulary.words for vocabulary, _ in fitting}) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(path.name for _, path in fitting)
        raise CheckpointError(
            f"{checkpoint.name}: several word maps beside it fit ({names}); choose with --word-map"
        )
    if problems:
        raise CheckpointError(f"{checkpoint.name}: the word map beside it does not fit: {problems[0]}")
    raise CheckpointError(
        f"{checkpoint.name} does not hold its words, and no WORDMAP_*.json lies beside it; give it with --word-map FILE"
    )


def read_word_map(path: Path, rows: int, checkpoint: str) -> Vocabulary:
    """Reads a word map and checks that it belongs to a checkpoint.

    Args:
        path: the JSON file.
        rows: of the checkpoint's output layer.
        checkpoint: its name, for messages.

    Returns:
        The vocabulary.

    Raises:
        CheckpointError: if it can't be read, is no word map, or is another model's.
    """
    try:
        if not path.is_file():
            raise CheckpointError(
                f"word map {path} is no file; give the JSON file written with the checkpoint"
            )
        if path.stat().st_size > _MAX_BYTES:
            raise CheckpointError(
                f"word map {path.name} has {path.stat().st_size:,} bytes; at most {_MAX_BYTES:,}"
            )
        with memory_limit(f"word map {path.name}"):
            text = path.read_text("utf-8-sig")
            ids = json.loads(text, object_pairs_hook=_distinct, parse_constant=_no_constant)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"word map {path} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"word map {path.name} is not usable JSON: {str(error)[:120]}") from error
    if not isinstance(ids, dict):
        raise CheckpointError(f"word map {path.name} is not a JSON object of words and their ids")
    return vocabulary_from_ids(ids, rows, f"word map {path.name}", checkpoint)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, if no key stands there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the word {twice!r:.60} stands there twice")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def vocabulary_from_ids(ids: Mapping[Any, Any], rows: int, what: str, checkpoint: str) -> Vocabulary:
    """A vocabulary from words and their ids.

    Args:
        ids: word -> id.
        rows: of the checkpoint's output layer; there must be as many words.
        what: names the origin in messages.
        checkpoint: names the checkpoint in messages.

    Returns:
        The vocabulary.

    Raises:
        CheckpointError: if ids are missing, duplicate or no whole numbers, words are no text, special tokens are
            missing, or there are more or fewer words than rows.
    """
    for word, token_id in ids.items():
        if not isinstance(word, str) or type(token_id) is not int:
            raise CheckpointError(
                f"{what}: {word!r:.60} has the id {token_id!r:.40}; expected text and a whole number"
            )
        if len(word) > _MAX_WORD or not _is_text(word):
            raise CheckpointError(f"{what} holds a word that is no valid text, {word!a:.60}")
    if len(ids) != rows:
        raise CheckpointError(
            f"{what} has {len(ids):,} words, but the output layer of {checkpoint} has {rows:,} rows: it is the "
            "word map of another training. One made again from the data numbers words differently; take the one "
            "written with the checkpoint"
        )
    words: list[str | None] = [None] * rows
    for word, token_id in ids.items():
        if not 0 <= token_id < rows:
            raise CheckpointError(
                f"{what}: {word!r:.60} has the id {token_id!r:.40}; expected 0 to {rows - 1}"
            )
        if words[token_id] is not None:
            raise CheckpointError(
                f"{what}: {words[token_id]!r:.60} and {word!r:.60} have the same id, {token_id}"
            )
        words[token_id] = word
    roles = {}
    for role, spellings in SPECIAL.items():
        found = [token_id for word, token_id in ids.items() if word.lower() in spellings]
        if len(found) > 1 or (not found and role != "unk"):
            problem = "no" if not found else "more than one"
            raise CheckpointError(
                f"{what} has {problem} {role} token ({', '.join(spellings)}); is it a word map?"
            )
        roles[role] = found[0] if found else None
    return Vocabulary(tuple(word for word in words if word is not None), **roles)  # type: ignore[arg-type]


def doubts(vocabulary: Vocabulary, output_bias: Float[Tensor, " vocabulary"]) -> str | None:
    """Whether a word map of the right size may still be another training's.

    A trained output layer gives the words that captions use most a high bias. If those that the map calls so rank no
    higher than chance (a mean rank of 0.5, give or take 0.1), the map numbers words otherwise than the training did.

    Args:
        vocabulary: from a word map.
        output_bias: of the checkpoint's output layer.

    Returns:
        A warning; None where there is no reason for one, or no way to tell.
    """
    places = [place for place, word in enumerate(vocabulary.words) if word.lower() in COMMON]
    if len(places) < _FEWEST_COMMON or bool((output_bias == output_bias[0]).all()):
        return None
    ranks = (output_bias.unsqueeze(0) < output_bias[places].unsqueeze(1)).float().mean(dim=1)
    if float(ranks.mean()) >= _EXPECTED_RANK:
        return None
    return (
        f"the words that captions use most ({', '.join(COMMON[:4])}, …) are not those that this model prefers: either "
        "its word map is another training's, or it is hardly trained"
    )


def _is_text(word: str) -> bool:
    """False for lone surrogates, which no file can hold."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True
