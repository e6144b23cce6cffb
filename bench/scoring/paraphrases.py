"""METEOR's table of paraphrases, cut down to those that can occur.

The table has five million pairs of phrases, and METEOR spends most of its start on reading them. It uses a pair
where one phrase stands in a reference and the other in a caption. So a pair whose phrases are both in no reference
is never used, and leaving it out changes no alignment; nine of ten are such.
"""

import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, UInt8

_LONGEST = 7
"""Words in the longest phrase of the table."""
_SENTENCES = 4_096  # that are taken apart at a time
_GZIP = 31  # of zlib's window bits
_SLOTS = 26  # binary digits: 64 MB for as long as the table is read
_KEPT_BITS = np.array([(1 << 8 * count) - 1 for count in range(9)], dtype=np.uint64)
_MIXERS = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB], dtype=np.uint64)


def write_usable(table: Path, sentences: Iterable[str], out: Path) -> int:
    """Copies the pairs of which a phrase stands in one of the sentences, in their order.

    Args:
        table: three lines a pair, compressed: probability, phrase, phrase.
        sentences: words in lower case, separated by spaces.
        out: is written in the table's format. Few pairs too many are kept, none is lost.

    Returns:
        How many pairs were kept.
    """
    known = _known_phrases(sentences)
    compressor = zlib.compressobj(1, zlib.DEFLATED, _GZIP)
    kept = 0
    with out.open("wb") as file:
        for text, ends in _blocks_of_pairs(table):
            begins = np.append(0, ends[:-1, 2] + 1)
            padded = _bytes(text)
            keep = known[_slots(padded, ends[:, 0] + 1, ends[:, 1])]
            keep |= known[_slots(padded, ends[:, 1] + 1, ends[:, 2])]
            kept += int(keep.sum())
            chosen = zip(begins[keep].tolist(), ends[keep, 2].tolist(), strict=True)
            file.write(compressor.compress(b"".join([text[begin : end + 1] for begin, end in chosen])))
        file.write(compressor.flush())
    return kept


def _blocks_of_pairs(table: Path) -> Iterator[tuple[bytes, Int[np.ndarray, "pair 3"]]]:
    """Pieces of the table that hold whole pairs, and where their lines end."""
    decompressor, rest = zlib.decompressobj(_GZIP), b""
    with table.open("rb") as file:
        while compressed := file.read(2**20):
            text = rest + decompressor.decompress(compressed)
            breaks = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
            ends = breaks[: len(breaks) // 3 * 3].reshape(-1, 3)
            if len(ends):
                yield text, ends
            rest = text[ends[-1, 2] + 1 :] if len(ends) else text


def _known_phrases(sentences: Iterable[str]) -> Bool[np.ndarray, " slot"]:
    """Whether the slot holds a phrase of one to seven words that stands in a sentence."""
    known = np.zeros(2**_SLOTS, dtype=bool)
    lines = (" ".join(filter(None, sentence.split(" "))) + "\n" for sentence in sentences)
    while text := "".join(islice(lines, _SENTENCES)):
        _mark_phrases(known, _bytes(text.encode()))
    return known


def _mark_phrases(known: Bool[np.ndarray, " slot"], text: UInt8[np.ndarray, " byte"]) -> None:
    """Marks the slots of the phrases in some lines."""
    breaks = (text == ord(" ")) | (text == ord("\n"))
    ends = np.flatnonzero(breaks)
    begins = np.append(0, ends + 1)[: len(ends)]
    sentence = np.cumsum(text == ord("\n"))[begins]
    for words in range(1, _LONGEST + 1):
        last = ends[words - 1 :]
        first = begins[: len(last)]
        within = sentence[: len(last)] == sentence[words - 1 :]
        known[_slots(text, first[within], last[within])] = True


def _bytes(text: bytes) -> UInt8[np.ndarray, " byte"]:
    """With eight more at the end, so that eight can be read at any place."""
    return np.frombuffer(text + bytes(8), np.uint8)


def _slots(
    text: UInt8[np.ndarray, " byte"], begins: Int[np.ndarray, " phrase"], ends: Int[np.ndarray, " phrase"]
) -> Int[np.ndarray, " phrase"]:
    """The same number for equal phrases, told apart by length and by their first and last eight bytes."""
    eight = np.ndarray(len(text) - 7, np.dtype("<u8"), text, strides=(1,))
    lengths = ends - begins
    bits = _KEPT_BITS[np.clip(lengths, 0, 8)]
    mixed = (eight[begins] & bits) * _MIXERS[0]
    mixed ^= mixed >> np.uint64(29)
    mixed = (mixed + (eight[np.maximum(begins, ends - 8)] & bits)) * _MIXERS[1]
    mixed ^= mixed >> np.uint64(32)
    mixed = (mixed + lengths.astype(np.uint64)) * _MIXERS[2]
    slots: Int[np.ndarray, " phrase"] = (mixed >> np.uint64(64 - _SLOTS)).astype(np.int64)
    return slots
