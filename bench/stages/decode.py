"""Decoding: from pictures to captions.jsonl, every beam size in one pass over the images."""

import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from bench.data.base import CaptionedImage
from bench.errors import DataError
from bench.progress import track
from explain.collapse import attention_coverage, attention_entropy, attention_movement
from models.beam import DECODINGS, DecodingRules, Hypothesis, beam_search
from models.captioner import Captioner
from models.errors import PictureError
from reports.records import Alternative, CaptionRow, Failure
from reports.store import RunStore
from reports.wording import beam

THUMB = 224
"""Longest side of the pictures that a run keeps for its reports, in pixels."""
PICTURES = "pictures"
"""Names the time that reading and encoding pictures takes, in what `decode` returns."""


class _Read(NamedTuple):
    """A picture as the model sees it."""

    image: CaptionedImage
    pixels: Float[Tensor, "3 height width"]
    thumb: bytes


def decode(
    captioner: Captioner,
    images: Sequence[CaptionedImage],
    store: RunStore,
    *,
    beam_sizes: Sequence[int],
    batch_size: int,
    done: set[tuple[str, int]],
    begin: Callable[[], None],
    rules: DecodingRules = DECODINGS["default"],
    n_best: int = 1,
    max_steps: int | None = None,
) -> Mapping[str, float]:
    """Captions images and appends the captions to the run, batch by batch, with a small copy of each picture.

    Each picture is read and encoded once for all beam sizes. A picture that can't be read becomes a row without a
    caption, with the reason, and a line in failures.jsonl. Nothing is written before one picture was captioned.

    Args:
        captioner: on the device to decode on.
        images: what to caption.
        store: the run.
        beam_sizes: each is decoded.
        batch_size: images at once.
        done: (image id, beam size) pairs that the run holds already.
        begin: called once, before anything is written.
        rules: what may be said, and which caption is the best.
        n_best: captions kept of each image and beam size; a beam holds no more than its size.
        max_steps: longest caption; None for the model's own limit.

    Returns:
        Seconds by what they were spent on: `PICTURES`, and each beam size ("beam size 5").

    Raises:
        DataError: if not one picture could be read.
    """
    todo = [image for image in images if any((image.image_id, size) not in done for size in beam_sizes)]
    captions: list[CaptionRow] = []
    failures: list[Failure] = []
    if done:
        begin()
    begun = bool(done)
    seconds = dict.fromkeys([PICTURES, *map(beam, beam_sizes)], 0.0)
    search = partial(beam_search, captioner, rules=rules, max_steps=max_steps)
    batches = [todo[i : i + batch_size] for i in range(0, len(todo), batch_size)]
    for batch in track(batches, total=len(batches), label="decoding", unit="batches"):
        with _timed(captioner, seconds, PICTURES):
            read = [_read(captioner, image) for image in batch]
        for image, found in zip(batch, read, strict=True):
            if isinstance(found, Failure):
                failures.append(found)
                captions.extend(_failed_row(image, size, found.reason) for size in beam_sizes)
        good = [found for found in read if isinstance(found, _Read)]
        if good:
            captions.extend(_caption(captioner, good, beam_sizes, n_best, search, seconds))
            if not begun:
                begin()
            begun = True
        if begun:
            for picture in good:
                store.write_thumb(picture.image.image_id, picture.thumb)
            store.append_failures(failures)
            store.append_captions(row for row in captions if (row.image_id, row.beam_size) not in done)
            captions, failures = [], []
    if not begun:
        raise DataError(f"not one of {len(todo)} pictures could be read; the first: {failures[0].reason}")
    return seconds


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
    beam_sizes: Sequence[int],
    n_best: int,
    search: Callable[..., list[list[Hypothesis]]],
    seconds: dict[str, float],
) -> Iterator[CaptionRow]:
    with _timed(captioner, seconds, PICTURES):
        annotations = captioner.encode(torch.stack([found.pixels for found in batch]).to(captioner.device))
        memory = captioner.decoder.remember(annotations)
    for size in beam_sizes:
        with _timed(captioner, seconds, beam(size)):
            found = search(annotations, size, n_best=min(n_best, size), memory=memory)
        for picture, hypotheses in zip(batch, found, strict=True):
            yield caption_row(captioner, picture.image, size, hypotheses)


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


def _failed_row(image: CaptionedImage, beam_size: int, reason: str) -> CaptionRow:
    return CaptionRow(image.image_id, beam_size, None, (), (), None, (), image.references, False, reason)
