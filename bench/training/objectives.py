"""What training makes smaller: losses over the words of captions, and the captions that a model draws itself.

A batch is computed in parts. Each function yields a part's share of the whole batch's loss, divided by the words or
captions of the whole batch, so that the shares of all parts add up to the loss, however the batch was cut. Padding
takes part in nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bench.training.recipe import AttentionPenalty, HardAttention
from models.decoder import AttentionDecoder, Memory, State
from models.unrolling import Unrolled, unroll


class Captions(NamedTuple):
    """The captions of one part."""

    image: Int[Tensor, " row"]
    """Which row of the annotations each is of."""
    token_ids: Int[Tensor, "row step"]
    """The words to be said, `<end>` included, padded with anything."""
    lengths: Int[Tensor, " row"]
    """Steps that count, at least 1."""


class Whole(NamedTuple):
    """All parts of a batch together."""

    words: int
    """Steps that count."""
    captions: int


class Loss(NamedTuple):
    """A part's share of the loss, and what it is made of."""

    share: Float[Tensor, ""]
    """What is differentiated; the shares of all parts add up to the batch's loss."""
    nats: float
    """Negative log-likelihood of the part's words, summed."""
    penalty: float = 0.0
    """The part's share of the attention term, weighted."""
    reward: float = 0.0
    """Hard attention: log-likelihoods of the part's captions, given where was looked, in nats, summed."""


class Told(NamedTuple):
    """What a model makes of given captions."""

    nats: float
    """Negative log-likelihood of their words, summed."""
    words: int
    said: list[tuple[int, ...]]
    """For each caption the likeliest word at every step, the caption's own words before it being given; not what the
    model says when it is on its own."""


def likelihood(
    decoder: AttentionDecoder,
    annotations: Float[Tensor, "image cells dim"],
    captions: Captions,
    whole: Whole,
    *,
    start: int,
    penalty: AttentionPenalty | None,
) -> Loss:
    """Mean negative log-likelihood per word, in nats, and the doubly stochastic term if there is one.

    Args:
        decoder: in training mode, or without dropout in eval mode.
        annotations: of the part's images.
        captions: of the part.
        whole: the batch.
        start: token id of `<start>`.
        penalty: the doubly stochastic term (Xu et al. 2015, §4.2.1).

    Returns:
        The part's share.
    """
    unrolled = unroll(decoder, annotations, *captions, start=start)
    nats = -_said(decoder, unrolled).sum()
    attention = _attention_term(unrolled, captions, whole, penalty)
    return Loss(nats / whole.words + attention, float(nats.detach()), float(attention.detach()))


def hard_attention(
    decoder: AttentionDecoder,
    annotations: Float[Tensor, "image cells dim"],
    captions: Captions,
    whole: Whole,
    *,
    start: int,
    penalty: AttentionPenalty | None,
    settings: HardAttention,
    baseline: float,
    draw: torch.Generator,
) -> Loss:
    """Negative log-likelihood where each step looks at one cell that is drawn (Xu et al. 2015, §4.1, eq. 10-12).

    A draw for the whole part decides whether locations are drawn or attention is soft. Drawn locations are learnt
    from by the estimate in `given_locations`.

    Args:
        decoder: as in `likelihood`.
        annotations: of the part's images.
        captions: of the part.
        whole: the batch.
        start: token id of `<start>`.
        penalty: the doubly stochastic term; it is of attention, not of what was drawn from it.
        settings: factors.
        baseline: what log-likelihoods of captions are compared with, in nats.
        draw: on the annotations' device; what is drawn depends on nothing else.

    Returns:
        The part's share, per word of the batch.
    """
    softly = float(torch.rand((), generator=draw, device=draw.device)) < settings.soft_share
    locations: list[Tensor] = []

    def look(alpha: Tensor, rows: Tensor, step: int) -> Tensor:  # noqa: ARG001
        if softly:
            return alpha
        locations.append(_drawn(alpha.detach(), draw))
        return torch.nn.functional.one_hot(locations[-1], alpha.shape[1]).to(alpha.dtype)

    unrolled = unroll(decoder, annotations, *captions, start=start, look=look)
    chosen = torch.cat(locations) if locations else None
    return _estimate(decoder, unrolled, chosen, captions, whole, penalty, settings, baseline)


def given_locations(
    decoder: AttentionDecoder,
    annotations: Float[Tensor, "image cells dim"],
    captions: Captions,
    locations: Int[Tensor, "row step"],
    whole: Whole,
    *,
    start: int,
    penalty: AttentionPenalty | None,
    settings: HardAttention,
    baseline: float,
) -> Loss:
    """`hard_attention` with locations that are given instead of drawn.

    For locations s that are drawn from attention, the gradient of the share is, on average and with `reinforce` 1 and
    `entropy` 0, that of -sum_s p(s | a) log p(y | s, a), which is an upper bound of -log p(y | a) (eq. 10-11).
    `reinforce` other than 1 makes it a biased estimate.

    Args:
        decoder: as in `likelihood`.
        annotations: of the part's images.
        captions: of the part.
        locations: the cell that each step looks at; behind a caption's end, anything.
        whole: the batch.
        start: token id of `<start>`.
        penalty: the doubly stochastic term.
        settings: factors.
        baseline: what log-likelihoods of captions are compared with, in nats.

    Returns:
        The part's share, per word of the batch.
    """
    chosen: list[Tensor] = []

    def look(alpha: Tensor, rows: Tensor, step: int) -> Tensor:
        chosen.append(locations[rows, step])
        return torch.nn.functional.one_hot(chosen[-1], alpha.shape[1]).to(alpha.dtype)

    unrolled = unroll(decoder, annotations, *captions, start=start, look=look)
    return _estimate(decoder, unrolled, torch.cat(chosen), captions, whole, penalty, settings, baseline)


def _estimate(
    decoder: AttentionDecoder,
    unrolled: Unrolled,
    locations: Int[Tensor, " word"] | None,
    captions: Captions,
    whole: Whole,
    penalty: AttentionPenalty | None,
    settings: HardAttention,
    baseline: float,
) -> Loss:
    said = _by_caption(_said(decoder, unrolled), unrolled, captions)
    log_alphas = unrolled.alphas.clamp_min(torch.finfo(unrolled.alphas.dtype).tiny).log()
    entropy = -(unrolled.alphas * log_alphas).sum()
    gain = said.sum() + settings.entropy * entropy
    if locations is not None:
        looked = _by_caption(log_alphas.gather(1, locations.unsqueeze(1)).squeeze(1), unrolled, captions)
        gain = gain + settings.reinforce * ((said.detach() - baseline) * looked).sum()
    attention = _attention_term(unrolled, captions, whole, penalty)
    reward = float(said.detach().sum())
    return Loss(attention - gain / whole.words, -reward, float(attention.detach()), reward)


def self_critical(
    decoder: AttentionDecoder,
    annotations: Float[Tensor, "image cells dim"],
    captions: Captions,
    advantages: Float[Tensor, " row"],
    whole: Whole,
    *,
    start: int,
) -> Loss:
    """The policy gradient for captions that were drawn from the model (Rennie et al. 2017, arXiv:1612.00563, eq. 6-8).

    Per caption of the batch, not per word, as some programs have it: then long captions don't count for less, and the
    gradient is on average that of the expected reward. Dropout is off, as in `sample_captions`: with it, the captions
    would be drawn from one model and scored by another.

    Args:
        decoder: in any mode.
        annotations: of the part's images.
        captions: from `sample_captions`.
        advantages: of each caption: how much better its reward is than what it is compared with.
        whole: the batch.
        start: token id of `<start>`.

    Returns:
        The part's share; what the rewards were is the caller's to say.
    """
    with _without_dropout(decoder):
        unrolled = unroll(decoder, annotations, *captions, start=start)
        said = _by_caption(_said(decoder, unrolled), unrolled, captions)
    return Loss(-(advantages.to(said.dtype) * said).sum() / whole.captions, -float(said.detach().sum()))


def advantages(rewards: Float[Tensor, "image sample"]) -> Float[Tensor, "image sample"]:
    """How much better each sample is than the mean of its image's other samples (Luo 2020, arXiv:2003.09971).

    Args:
        rewards: of at least two samples of each image.

    Returns:
        Differences; those of an image sum to 0.
    """
    samples = rewards.shape[1]
    assert samples >= 2
    return (rewards - rewards.mean(dim=1, keepdim=True)) * (samples / (samples - 1))


@torch.no_grad()
def sample_captions(
    decoder: AttentionDecoder,
    annotations: Float[Tensor, "image cells dim"],
    *,
    start: int,
    end: int,
    samples: int,
    max_steps: int,
    draw: torch.Generator,
) -> list[list[tuple[int, ...]]]:
    """Draws captions word by word from all that the model may say, without dropout.

    Args:
        decoder: in any mode.
        annotations: of the images.
        start: token id of `<start>`.
        end: token id of `<end>`.
        samples: captions of each image.
        max_steps: longest caption in steps, `<end>` included.
        draw: on the annotations' device.

    Returns:
        Token ids of each image's captions; `<end>` is the last one of those that were finished in time.
    """
    images = len(annotations)
    said: list[list[int]] = [[] for _ in range(images * samples)]
    live = torch.arange(images * samples, device=annotations.device).view(images, samples)
    alive = torch.ones_like(live, dtype=torch.bool)
    with _without_dropout(decoder):
        memory = decoder.remember(annotations)
        state = State(*(p.repeat_interleave(samples, dim=0) for p in decoder.initial_state(annotations)))
        read = decoder.first_words(images * samples, start)
        for _ in range(max_steps):
            step = decoder.step(read, state, memory)
            read = _drawn(step.log_probs.exp(), draw)
            for number, word, speaks in zip(
                live.flatten().tolist(), read.tolist(), alive.flatten().tolist(), strict=True
            ):
                if speaks:
                    said[number].append(word)
            alive = alive & (read != end).view(alive.shape)
            if not alive.any():
                break
            rows, kept = _going_on(alive)
            if len(kept) < len(alive):
                memory = Memory(*(part[kept] for part in memory))
            live, alive = live.flatten()[rows], alive.flatten()[rows]
            read, state = read[rows.flatten()], State(*(part[rows.flatten()] for part in step.state))
    return [[tuple(one) for one in said[i : i + samples]] for i in range(0, len(said), samples)]


def _going_on(
    alive: Bool[Tensor, "image sample"],
) -> tuple[Int[Tensor, "kept most"], Int[Tensor, " kept"]]:
    """The rows of images of which a sample goes on, as many of each as of any other; and these images."""
    going_on = alive.sum(dim=1)
    kept = going_on.nonzero().squeeze(1)
    first = torch.argsort(~alive[kept], dim=1, stable=True)[:, : int(going_on.max())]
    return kept.unsqueeze(1) * alive.shape[1] + first, kept


@torch.no_grad()
def teacher_forced(
    decoder: AttentionDecoder,
    annotations: Float[Tensor, "image cells dim"],
    captions: Captions,
    *,
    start: int,
) -> Told:
    """How likely given captions are, and what the model would say at each of their steps.

    Args:
        decoder: in eval mode.
        annotations: of the images.
        captions: of the images.
        start: token id of `<start>`.

    Returns:
        Sums over all words, and words.
    """
    unrolled = unroll(decoder, annotations, *captions, start=start)
    log_probs = torch.log_softmax(decoder.output(unrolled.features), dim=1)
    nats = -log_probs.gather(1, unrolled.target.unsqueeze(1)).double().sum()
    said: list[list[int]] = [[] for _ in range(len(captions.lengths))]
    # Words come step by step.
    for row, word in zip(unrolled.caption.tolist(), log_probs.argmax(dim=1).tolist(), strict=True):
        said[row].append(word)
    return Told(float(nats), len(unrolled.target), [tuple(words) for words in said])


@contextmanager
def _without_dropout(decoder: AttentionDecoder) -> Iterator[None]:
    mode = decoder.training
    decoder.eval()
    try:
        yield
    finally:
        decoder.train(mode)


def _drawn(probabilities: Float[Tensor, "row choice"], draw: torch.Generator) -> Int[Tensor, " row"]:
    return torch.multinomial(probabilities, 1, generator=draw).squeeze(1)


def _said(decoder: AttentionDecoder, unrolled: Unrolled) -> Float[Tensor, " word"]:
    """Log-probabilities of the words that are to be said, in nats."""
    scores = decoder.output(unrolled.features)
    return -torch.nn.functional.cross_entropy(scores, unrolled.target, reduction="none")


def _by_caption(
    words: Float[Tensor, " word"], unrolled: Unrolled, captions: Captions
) -> Float[Tensor, " row"]:
    """Sums over the words of each caption."""
    return words.new_zeros(len(captions.lengths)).index_add(0, unrolled.caption, words)


def _attention_term(
    unrolled: Unrolled, captions: Captions, whole: Whole, penalty: AttentionPenalty | None
) -> Float[Tensor, ""]:
    """This part's share of the doubly stochastic term: how far from 1 the attention is that each cell gets in all."""
    alphas = unrolled.alphas
    if penalty is None:
        return alphas.new_zeros(())
    attended = alphas.new_zeros(len(captions.lengths), alphas.shape[1]).index_add(0, unrolled.caption, alphas)
    missing = ((1.0 - attended) ** 2).sum()
    over = whole.words if penalty.over == "sum" else whole.captions * alphas.shape[1]
    return penalty.weight * missing / over
