"""Batched beam search. Greedy decoding is beam size 1."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.captioner import Captioner
from models.decoder import Memory, State
from models.errors import CheckpointError

MAX_STEPS = 51
"""Longest caption in steps, `<end>` included: 50 words, as in the PyTorch tutorial."""


@dataclass(frozen=True)
class Hypothesis:
    """One decoded caption."""

    token_ids: tuple[int, ...]
    """What was said, T tokens, closing with `<end>` if `finished`."""
    word_log_probs: tuple[float, ...]
    """Log-probability of each token in nats, given the earlier ones."""
    alphas: Float[Tensor, "step cells"]
    """Where each step looked, on the CPU."""
    finished: bool
    """False if the longest allowed caption was reached without `<end>`."""

    @property
    def log_prob_nats(self) -> float:
        """Log-probability of the whole caption in nats: the score that beam search maximises."""
        return sum(self.word_log_probs)


@dataclass
class _Beams:
    """The live hypotheses of the images still being decoded, one row per (image, beam)."""

    image: Int[Tensor, " image"]  # index of each image in the caller's batch
    memory: Memory
    state: State
    words: Int[Tensor, "row step"]
    log_probs: Float[Tensor, "row step"]
    alphas: Float[Tensor, "row step cells"]
    scores: Float[Tensor, "image beam"]  # -inf marks an empty place
    places: Int[Tensor, " image"]  # beam size less the hypotheses that have finished


@torch.no_grad()
def beam_search(
    captioner: Captioner,
    annotations: Float[Tensor, "batch cells dim"],
    beam_size: int,
    *,
    max_steps: int = MAX_STEPS,
    memory: Memory | None = None,
) -> list[Hypothesis]:
    """Decodes a batch of images with the same beam size.

    The score is the summed log-probability with `<end>`, without length normalisation (the usual rule of this
    family of models). A finished hypothesis leaves its beam, which goes on with one place less. An image is done
    when no live hypothesis can still beat its best finished one: scores only fall, so this changes no result.
    `<pad>` and `<start>` are never said.

    Args:
        captioner: in eval mode.
        annotations: from `captioner.encode`.
        beam_size: K, at least 1.
        max_steps: longest caption in steps, `<end>` included.
        memory: `captioner.decoder.remember(annotations)` where the caller has it already.

    Returns:
        The best hypothesis of each image. Where none ended within `max_steps`, the best unfinished one.

    Raises:
        CheckpointError: if the model computes NaN.
    """
    assert beam_size >= 1
    assert max_steps >= 1
    images, cells = annotations.shape[:2]
    vocabulary, device = captioner.vocabulary, annotations.device
    forbidden = torch.tensor([vocabulary.pad, vocabulary.start], device=device)
    best: list[Hypothesis | None] = [None] * images
    beams = _Beams(
        image=torch.arange(images, device=device),
        memory=memory if memory is not None else captioner.decoder.remember(annotations),
        state=captioner.decoder.initial_state(annotations),
        words=torch.empty(images, 0, dtype=torch.long, device=device),
        log_probs=annotations.new_empty(images, 0),
        alphas=annotations.new_empty(images, 0, cells),
        scores=annotations.new_zeros(images, 1),
        places=torch.full((images,), beam_size, device=device),
    )
    for t in range(max_steps):
        if beams.image.numel() == 0:
            break
        rows = beams.words.shape[0]
        last = captioner.decoder.first_words(rows, vocabulary.start) if t == 0 else beams.words[:, -1]
        step = captioner.decoder.step(last, beams.state, beams.memory)
        step_scores = step.log_probs.index_fill(1, forbidden, -torch.inf)
        _extend(beams, step.state, step.alpha, step_scores, beam_size)
        _collect_finished(beams, best, vocabulary.end)
        _drop_decided(beams, best)
    for slot, image in enumerate(beams.image.tolist()):
        if best[image] is None:
            width = beams.scores.shape[1]
            best[image] = _hypothesis(beams, slot * width + int(beams.scores[slot].argmax()), finished=False)
    hypotheses = [hypothesis for hypothesis in best if hypothesis is not None]
    if len(hypotheses) < images:  # no comparison with NaN is true, so such images were dropped on the way
        raise CheckpointError(
            "the model's word scores are not numbers; its weights are broken or far out of range"
        )
    return hypotheses


def _extend(
    beams: _Beams,
    state: State,
    alpha: Float[Tensor, "row cells"],
    step_scores: Float[Tensor, "row vocabulary"],
    beam_size: int,
) -> None:
    """Replaces the live hypotheses of each image by their best continuations, as many as it has places."""
    images, old_width = beams.scores.shape
    vocabulary_size = step_scores.shape[1]
    totals = beams.scores.unsqueeze(2) + step_scores.view(images, old_width, vocabulary_size)
    width = min(beam_size, old_width * vocabulary_size)
    # Rank all continuations of all beams of an image.
    scores, flat = totals.view(images, -1).topk(width, dim=1)
    ranks = torch.arange(width, device=flat.device)
    scores = scores.masked_fill(ranks >= beams.places.unsqueeze(1), -torch.inf)
    offsets = torch.arange(images, device=flat.device).unsqueeze(1) * old_width
    parents = (flat // vocabulary_size + offsets).view(-1)  # (images, width) -> rows
    words = (flat % vocabulary_size).view(-1, 1)
    if width != old_width:
        places = torch.arange(images, device=flat.device).repeat_interleave(width) * old_width
        beams.memory = Memory(*(part[places] for part in beams.memory))
    beams.scores = scores
    beams.state = State(*(part[parents] for part in state))
    beams.log_probs = torch.cat([beams.log_probs[parents], step_scores[parents].gather(1, words)], dim=1)
    beams.words = torch.cat([beams.words[parents], words], dim=1)
    beams.alphas = torch.cat([beams.alphas[parents], alpha[parents].unsqueeze(1)], dim=1)


def _collect_finished(beams: _Beams, best: list[Hypothesis | None], end: int) -> None:
    """Moves hypotheses that said `<end>` out of their beams; the first of equal scores wins."""
    images, width = beams.scores.shape
    ended = (beams.words[:, -1] == end).view(images, width) & beams.scores.isfinite()
    for slot, place in ended.nonzero().tolist():
        image, row = int(beams.image[slot]), slot * width + place
        rival = best[image]
        hypothesis = _hypothesis(beams, row, finished=True)
        if rival is None or hypothesis.log_prob_nats > rival.log_prob_nats:
            best[image] = hypothesis
    beams.scores = beams.scores.masked_fill(ended, -torch.inf)
    beams.places = beams.places - ended.sum(dim=1)


def _drop_decided(beams: _Beams, best: list[Hypothesis | None]) -> None:
    """Forgets images of which no live hypothesis can still win."""
    images, width = beams.scores.shape
    leading = beams.scores.max(dim=1).values.tolist()
    indices = beams.image.tolist()
    live = []
    for slot, (image, score) in enumerate(zip(indices, leading, strict=True)):
        rival = best[image]
        if score > -torch.inf and (rival is None or score > rival.log_prob_nats):
            live.append(slot)
    if len(live) == images:
        return
    slots = torch.tensor(live, dtype=torch.long, device=beams.scores.device)
    rows = (slots.unsqueeze(1) * width + torch.arange(width, device=slots.device)).view(-1)
    beams.image, beams.scores, beams.places = beams.image[slots], beams.scores[slots], beams.places[slots]
    beams.memory = Memory(*(part[rows] for part in beams.memory))
    beams.state = State(*(part[rows] for part in beams.state))
    beams.words, beams.log_probs, beams.alphas = beams.words[rows], beams.log_probs[rows], beams.alphas[rows]


def _hypothesis(beams: _Beams, row: int, *, finished: bool) -> Hypothesis:
    return Hypothesis(
        token_ids=tuple(beams.words[row].tolist()),
        word_log_probs=tuple(beams.log_probs[row].tolist()),
        alphas=beams.alphas[row].cpu(),
        finished=finished,
    )
