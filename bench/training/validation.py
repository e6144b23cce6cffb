"""What a training is judged by: captions that beam search finds for the validation split, scored as `eval` scores them.

Beside them stands the teacher-forced BLEU-4 that training programs like to print, never under the name of BLEU-4: there
each word is chosen with the true words before it in view, and the caption is as long as the reference.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch

from bench.distributed import World, broadcast, gather, together
from bench.errors import JavaError
from bench.progress import say, track
from bench.scoring.captions import CaptionTokenizer
from bench.scoring.cider import CiderD
from bench.scoring.java import Deadline, find_java
from bench.scoring.ngrams import Ngrams, bleu_statistics
from bench.training.examples import Examples
from bench.training.objectives import Captions, teacher_forced
from models.beam import beam_search
from models.captioner import Captioner
from reports.stats import bleu

_BLOCK = 32
"""Images decoded together, whatever the number of processes, so that rounding is the same for any number."""
_SECONDS = 600.0


class Validation(NamedTuple):
    """What one look at the validation split yields."""

    loss: float
    """Mean negative log-likelihood of the references' words, nats per word."""
    # Scores are None where the loss is no number.
    cider: float | None
    """CIDEr (the -D form) of beam search's captions, 0 to 10; None for fewer than two images."""
    bleu4: float | None
    """BLEU-4 of beam search's captions, 0 to 1."""
    bleu4_teacher_forced: float | None
    """BLEU-4 of the words that are likeliest after the true words, against all references, 0 to 1. Not a score."""
    images: int


class _Block(NamedTuple):
    """What was found of the images that were decoded together."""

    nats: float
    words: int
    captions: list[str]
    forced: list[str]


class Validator:
    """Judges a captioner again and again on the same images. A context manager, for the Java process that it starts.

    Args:
        beam_size: of the search.
        world: this process's place; images are shared out, and the first process scores.
        folder: where to keep what was decoded until `forget`, so that a kill does not cost it; None to keep nothing.
    """

    def __init__(self, *, beam_size: int, world: World, folder: Path | None = None) -> None:
        self._beam_size, self._world, self._folder = beam_size, world, folder
        self._judge: _Judge | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._judge:
            self._judge.close()

    def __call__(self, captioner: Captioner, examples: Examples, label: str) -> Validation:
        """Decodes and scores.

        Args:
            captioner: in eval mode, of any process the same.
            examples: of the validation split; the same images each time.
            label: for the progress line; another one for other weights.

        Returns:
            The same in every process.
        """
        blocks = [range(i, min(i + _BLOCK, len(examples))) for i in range(0, len(examples), _BLOCK)]
        mine, found = blocks[self._world.rank :: self._world.size], {}
        kept = self._kept(label)
        for block in track(mine, total=len(mine), label=label, unit="batches"):
            found[block.start] = kept.get(block.start) or self._look(captioner, examples, block)
            if block.start not in kept:
                self._keep(label, block.start, found[block.start])
        everything: dict[int, _Block] = {}
        for part in gather(found):
            everything |= part
        ordered = [everything[start] for start in sorted(everything)]
        loss = math.fsum(block.nats for block in ordered) / sum(block.words for block in ordered)
        if not math.isfinite(loss):
            return Validation(
                loss, None, None, None, len(examples)
            )  # nothing can be decoded with such weights
        scores: tuple[float | None, float, float] | None = None
        with together():
            if self._world.is_first:
                self._judge = self._judge or _Judge(examples.references)
                cider, bleu4 = self._judge([caption for block in ordered for caption in block.captions])
                forced = self._judge([caption for block in ordered for caption in block.forced])[1]
                scores = cider, bleu4, forced
        scores = broadcast(scores)
        assert scores is not None
        return Validation(loss, *scores, len(examples))

    def forget(self) -> None:
        """Removes what was kept: by one process, when the result is stored and nobody has begun to look again."""
        for path in self._files():
            path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return [] if self._folder is None else sorted(self._folder.glob("validation.*.jsonl"))

    def _kept(self, label: str) -> dict[int, _Block]:
        """What any process decoded of the same weights, by the first image."""
        found = {}
        for path in self._files():
            for line in path.read_bytes().splitlines():
                try:
                    of, start, block = json.loads(line)
                except ValueError:  # torn by a kill
                    continue
                if of == label:
                    found[start] = _Block(*block)
        return found

    def _keep(self, label: str, start: int, block: _Block) -> None:
        if self._folder is not None:
            with (self._folder / f"validation.{self._world.rank}.jsonl").open("a") as file:
                file.write("\n" + json.dumps([label, start, block]) + "\n")  # the line before may be torn

    @torch.no_grad()
    def _look(self, captioner: Captioner, examples: Examples, block: Sequence[int]) -> _Block:
        vocabulary = captioner.vocabulary
        annotations = examples.annotations(block, captioner)
        rows = [row for index in block for row in examples.captions[index]]
        image = [place for place, index in enumerate(block) for _ in examples.captions[index]]
        captions = padded(image, rows, captioner.device)
        told = teacher_forced(captioner.decoder, annotations, captions, start=vocabulary.start)
        if not math.isfinite(told.nats):
            return _Block(told.nats, told.words, [], [])
        found = beam_search(captioner, annotations, self._beam_size)
        firsts = [image.index(place) for place in range(len(block))]  # an image's first caption stands for it
        return _Block(
            told.nats,
            told.words,
            [" ".join(vocabulary.decode(best.token_ids)) for best, *_ in found],
            [" ".join(vocabulary.decode(told.said[row])) for row in firsts],
        )


def padded(image: Sequence[int], rows: Sequence[Sequence[int]], device: torch.device) -> Captions:
    """Captions as the objectives take them.

    Args:
        image: of each caption, which row of the annotation vectors it is of.
        rows: token ids.
        device: where the model is.

    Returns:
        The captions, padded with 0.
    """
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return Captions(torch.tensor(image, device=device), ids, lengths)


class _Judge:
    """BLEU-4 and CIDEr of captions of the same images, references read once."""

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        try:
            self._tokenizer = CaptionTokenizer(find_java())
        except JavaError:
            self._tokenizer = CaptionTokenizer(None)
        self._texts = references
        self._read()

    def _read(self) -> None:
        tokens = iter(self._split([text for captions in self._texts for text in captions]))
        self._references = [[Ngrams(next(tokens)) for _ in captions] for captions in self._texts]
        self._cider = CiderD(self._references)

    def __call__(self, captions: Sequence[str]) -> tuple[float | None, float]:
        tokenizer = self._tokenizer.name
        said = [Ngrams(text) for text in self._split(captions)]
        if self._tokenizer.name != tokenizer:  # Java failed: both sides are split by the same program, always
            say(f"WARNING: captions are split into words by Python from here on: {self._tokenizer.failure}")
            self._read()
        pairs = list(zip(said, self._references, strict=True))
        counts = np.array([bleu_statistics(caption, references) for caption, references in pairs])
        bleu4 = float(bleu(counts.sum(axis=0, keepdims=True).astype(float))[0, 3])
        if len(captions) < 2:
            return None, bleu4
        return math.fsum(self._cider.score(*pair) for pair in pairs) / len(pairs), bleu4

    def _split(self, texts: Sequence[str]) -> list[str]:
        return list(self._tokenizer.tokenise(texts, deadline=Deadline(_SECONDS)))

    def close(self) -> None:
        self._tokenizer.close()
