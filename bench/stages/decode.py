"""Decoding: from pictures to captions.jsonl, every beam size in one pass over the images."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from jaxtyping import Float
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
) -> None:
    """Captions images and appends the captions to the run, batch by batch.

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
        n_best: captions kept of each image and beam size.
        max_steps: longest caption; None for the model's own limit.

    Raises:
        DataError: if not one picture could be read.
    """
    todo = [image for image in images if any((image.image_id, size) not in done for size in beam_sizes)]
    captions: list[CaptionRow] = []
    failures: list[Failure] = []
    if done:
        begin()
    begun = bool(done)
    search = partial(beam_search, captioner, rules=rules, n_best=n_best, max_steps=max_steps)
    batches = [todo[i : i + batch_size] for i in range(0, len(todo), batch_size)]
    for batch in track(batches, total=len(batches), label="decoding", unit="batches"):
        read = list(_read(captioner, batch))
        for image, problem in read:
            if isinstance(problem, PictureError):
                failures.append(Failure(image.image_id, str(problem)))
                captions.extend(_failed_row(image, size, str(problem)) for size in beam_sizes)
        good = [(image, pixels) for image, pixels in read if isinstance(pixels, Tensor)]
        if good:
            captions.extend(_caption(captioner, good, beam_sizes, search))
            if not begun:
                begin()
            begun = True
        if begun:
            store.append_failures(failures)
            store.append_captions(row for row in captions if (row.image_id, row.beam_size) not in done)
            captions, failures = [], []
    if not begun:
        raise DataError(f"not one of {len(todo)} pictures could be read; the first: {failures[0].reason}")


def _read(
    captioner: Captioner, images: Sequence[CaptionedImage]
) -> Iterator[tuple[CaptionedImage, Float[Tensor, "3 height width"] | PictureError]]:
    for image in images:
        try:
            yield image, captioner.preprocessing(image.picture())
        except PictureError as error:
            yield image, error


@torch.no_grad()
def _caption(
    captioner: Captioner,
    batch: Sequence[tuple[CaptionedImage, Float[Tensor, "3 height width"]]],
    beam_sizes: Sequence[int],
    search: Callable[..., list[list[Hypothesis]]],
) -> Iterator[CaptionRow]:
    annotations = captioner.encode(torch.stack([pixels for _, pixels in batch]).to(captioner.device))
    memory = captioner.decoder.remember(annotations)
    for size in beam_sizes:
        found = search(annotations, size, memory=memory)
        for (image, _), hypotheses in zip(batch, found, strict=True):
            yield caption_row(captioner, image, size, hypotheses)


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
