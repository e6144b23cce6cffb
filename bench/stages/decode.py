"""Decoding: from pictures to captions, every beam size in one pass over the images."""

import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from bench.batches import in_batches
from bench.data.base import CaptionedImage
from bench.distributed import gather, together, world
from bench.errors import DataError
from bench.failures import check_failures
from bench.progress import track
from explain.collapse import attention_coverage, attention_entropy, attention_movement
from models.beam import DECODINGS, DecodingRules, Hypothesis, beam_search
from models.captioner import Captioner
from models.errors import PictureError
from reports.records import Alternative, CaptionRow, Failure
from reports.shards import Shard
from reports.store import RunStore
from reports.wording import beam

THUMB = 224
"""Longest side of the pictures that a run keeps for its reports, in pixels."""
PICTURES = "pictures"
"""Names the time that reading and encoding pictures takes, in `Decoded.seconds`."""


class Decoded(NamedTuple):
    """What one process decoded."""

    seconds: Mapping[str, float]
    """By what they were spent on: `PICTURES`, and each beam size ("beam size 5")."""
    images: int


class _Read(NamedTuple):
    """A picture as the model sees it."""

    image: CaptionedImage
    pixels: Float[Tensor, "3 height width"]
    thumb: bytes


class _Writer:
    """Writes to a run, but nothing before one picture was captioned: what failed until then is held back."""

    def __init__(self, store: RunStore, shard: Shard, begin: Callable[[], None]) -> None:
        self._store, self._shard, self._begin = store, shard, begin
        self._failures: list[Failure] = []
        self._rows: list[CaptionRow] = []
        self.begun = False

    def begin(self) -> None:
        """Writes from now on, and what was held back at once."""
        if not self.begun:
            self._begin()
            self.begun = True
            self.add_failed(self._failures, self._rows)

    def add_failed(self, failures: Sequence[Failure], rows: Sequence[CaptionRow]) -> None:
        """Writes of pictures that can't be read, with their rows of all beam sizes."""
        if self.begun:
            self._shard.append("failures", failures)
            self._shard.append("captions", rows)
        else:
            self._failures += failures
            self._rows += rows

    def add(self, pictures: Sequence[_Read], rows: Sequence[CaptionRow]) -> None:
        """Writes captions; whoever finds them finds their pictures, too."""
        self.begin()
        for picture in pictures:
            self._store.write_thumb(picture.image.image_id, picture.thumb)
        self._shard.append("captions", rows)


def batches_to_do(done: Bool[np.ndarray, "image size"], batch_size: int) -> list[int]:
    """Which batches lack a caption; batch n begins with image n * batch_size.

    What else is in a batch depends on nothing but its size: the last digits of log-probabilities change with what is
    computed together, and a run that was broken off, or shared out, is to be the same to the last digit.

    Args:
        done: which captions there are.
        batch_size: images at once.

    Returns:
        The numbers of the batches, ascending.
    """
    return [n for n in range(-(-len(done) // batch_size)) if not done[n * batch_size :][:batch_size].all()]


def decode(
    captioner: Captioner,
    images: Sequence[CaptionedImage],
    store: RunStore,
    *,
    beam_sizes: Sequence[int],
    batch_size: int,
    begin: Callable[[], None],
    done: Bool[np.ndarray, "image size"] | None = None,
    rules: DecodingRules = DECODINGS["default"],
    n_best: int = 1,
    max_steps: int | None = None,
    max_failures: int | float | None = None,
) -> Decoded:
    """Captions images and appends the captions to the run as they come, with a small copy of each picture.

    Each picture is read and encoded once for all beam sizes. A picture that can't be read becomes a row without a
    caption, with the reason, and a failure. Nothing is written before one picture was captioned. Of several
    processes, each takes its share of the batches.

    Args:
        captioner: on the device to decode on.
        images: what to caption.
        store: the run.
        beam_sizes: each is decoded.
        batch_size: images at once.
        begin: called once in each process, before anything is written.
        done: which captions the run holds already, the same in every process; None for none.
        rules: what may be said, and which caption is the best.
        n_best: captions kept of each image and beam size; a beam holds no more than its size.
        max_steps: longest caption; None for the model's own limit.
        max_failures: pictures that may be unreadable, see `check_failures`; those that the run has already count.

    Returns:
        What this process did.

    Raises:
        DataError: if not one picture could be read, or too few.
    """
    done = np.zeros((len(images), len(beam_sizes)), bool) if done is None else done
    place, at_once, looked_at = world(), batch_size, 0
    seconds = dict.fromkeys([PICTURES, *map(beam, beam_sizes)], 0.0)
    failed = store.read_failures()
    todo = batches_to_do(done, batch_size)[place.rank :: place.size]
    with Shard(store.path, place.rank) as shard:
        writer = _Writer(store, shard, begin)
        if done.any():
            writer.begin()
        for number in track(todo, total=len(todo), label="decoding", unit="batches"):
            span = slice(number * batch_size, (number + 1) * batch_size)
            with _timed(captioner, seconds, PICTURES):
                read = [_read(captioner, image) for image in images[span]]
            looked_at += len(read)
            lacking = _lacking(images[span], done[span], beam_sizes)
            bad = [found for found in read if isinstance(found, Failure)]
            failed += bad
            writer.add_failed(bad, list(_failed_rows(images[span], bad, lacking)))
            caption = partial(
                _caption, captioner, lacking=lacking, writer=writer, seconds=seconds, n_best=n_best,
                search=partial(beam_search, captioner, rules=rules, max_steps=max_steps),
            )  # fmt: skip
            good = [found for found in read if isinstance(found, _Read)]
            most = max(in_batches(good, at_once, caption), default=at_once)
            at_once = most if most < len(good) else at_once  # memory was short, and will be
            check_failures(failed, expected=len(images), most=max_failures)
        with together():
            told = gather((writer.begun, [failure.reason for failure in failed[:1]]))
            if not any(begun for begun, _ in told):
                ((first, *_), *_) = (reasons for _, reasons in told if reasons)
                raise DataError(f"not one of {len(images)} pictures could be read; the first: {first}")
        writer.begin()
    return Decoded(seconds, looked_at)


def _lacking(
    batch: Sequence[CaptionedImage], done: Bool[np.ndarray, "image size"], beam_sizes: Sequence[int]
) -> dict[int, set[str]]:
    """By beam size, the ids of the images without a caption; without the beam sizes where none is lacking."""
    lacking = {
        size: {image.image_id for image, is_done in zip(batch, done[:, column], strict=True) if not is_done}
        for column, size in enumerate(beam_sizes)
    }
    return {size: ids for size, ids in lacking.items() if ids}


def _read(captioner: Captioner, image: CaptionedImage) -> _Read | Failure:
    try:
        view = captioner.preprocessing.view(image.picture())
    except PictureError as error:
        return Failure(image.image_id, str(error))
    return _Read(image, captioner.preprocessing(view), _thumb(view))


def _thumb(view: Image.Image) -> bytes:
    """What the model sees, as a JPEG without the original's metadata."""
    small = Image.new("RGB", view.size)
    small.paste(view)
    small.thumbnail((THUMB, THUMB))
    content = io.BytesIO()
    small.save(content, format="JPEG", quality=85)
    return content.getvalue()


@contextmanager
def _timed(captioner: Captioner, seconds: dict[str, float], spent_on: str) -> Iterator[None]:
    """Adds the time that the block takes, with what a GPU still does when it ends."""
    started = time.perf_counter()
    yield
    if captioner.device.type == "cuda":
        torch.cuda.synchronize(captioner.device)
    seconds[spent_on] += time.perf_counter() - started


@torch.no_grad()
def _caption(
    captioner: Captioner,
    batch: Sequence[_Read],
    *,
    lacking: Mapping[int, set[str]],
    writer: _Writer,
    seconds: dict[str, float],
    n_best: int,
    search: Callable[..., list[list[Hypothesis]]],
) -> int:
    """Captions pictures and writes what is lacking, each beam size as soon as it is searched; how many these were."""
    with _timed(captioner, seconds, PICTURES):
        annotations = captioner.encode(torch.stack([found.pixels for found in batch]).to(captioner.device))
        memory = captioner.decoder.remember(annotations)
    for size, ids in lacking.items():
        with _timed(captioner, seconds, beam(size)):
            found = search(annotations, size, n_best=min(n_best, size), memory=memory)
        writer.add(
            batch if size == next(iter(lacking)) else (),
            [
                caption_row(captioner, picture.image, size, hypotheses)
                for picture, hypotheses in zip(batch, found, strict=True)
                if picture.image.image_id in ids
            ],
        )
    return len(batch)


def caption_row(
    captioner: Captioner, image: CaptionedImage, beam_size: int, hypotheses: Sequence[Hypothesis]
) -> CaptionRow:
    """The record of one picture's captions, best first; there is at least one."""
    best, *others = hypotheses
    vocabulary = captioner.vocabulary
    words = vocabulary.decode(best.token_ids)
    shown = best.alphas.numpy()[[not vocabulary.is_silent(token_id) for token_id in best.token_ids]]
    return CaptionRow(
        image_id=image.image_id,
        beam_size=beam_size,
        caption=" ".join(words),
        words=tuple(words),
        token_ids=best.token_ids,
        log_prob_nats=best.log_prob_nats,
        word_log_probs=best.word_log_probs,
        references=image.references,
        finished=best.finished,
        error=None,
        score=best.score,
        alternatives=tuple(_alternative(captioner, other) for other in others),
        attention_entropy=attention_entropy(shown),
        attention_movement=attention_movement(shown),
        attention_coverage=attention_coverage(shown),
    )


def _alternative(captioner: Captioner, hypothesis: Hypothesis) -> Alternative:
    words = captioner.vocabulary.decode(hypothesis.token_ids)
    return Alternative(
        caption=" ".join(words),
        words=tuple(words),
        token_ids=hypothesis.token_ids,
        log_prob_nats=hypothesis.log_prob_nats,
        score=hypothesis.score,
        finished=hypothesis.finished,
    )


def _failed_rows(
    batch: Sequence[CaptionedImage], failures: Sequence[Failure], lacking: Mapping[int, set[str]]
) -> Iterator[CaptionRow]:
    references = {image.image_id: image.references for image in batch}
    for failure in failures:
        for size in (size for size, ids in lacking.items() if failure.image_id in ids):
            known = references[failure.image_id]
            yield CaptionRow(failure.image_id, size, None, (), (), None, (), known, False, failure.reason)
