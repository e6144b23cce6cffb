"""All steps of given captions, as training wants them: the decoder's own step, with ended captions left out."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.decoder import AttentionDecoder, Memory, State
from models.summing import SummedAttention, SummedLinear, SummedLSTM

Look = Callable[[Float[Tensor, "row cells"], Int[Tensor, " row"], int], Float[Tensor, "row cells"]]
"""Attention, the captions that it is of, the step -> where the step looks instead."""


class Unrolled(NamedTuple):
    """Every word of every caption, in no order that matters; nothing of what lies behind a caption's end."""

    caption: Int[Tensor, " word"]
    """Which row of `token_ids` each word is of."""
    target: Int[Tensor, " word"]
    """The word."""
    features: Float[Tensor, "word features"]
    """What the decoder's `output` makes word scores of."""
    alphas: Float[Tensor, "word cells"]
    """Where attention wanted to look."""


class _Step(NamedTuple):
    """The captions that have a word to say at one step."""

    rows: Int[Tensor, " row"]
    kept: Int[Tensor, " row"] | None
    """Their places among the last step's rows; None if all are still there."""
    images: int
    """The first so many images are theirs."""
    beams: int
    """The most captions that an image has."""
    place: Int[Tensor, " row"] | None
    """Of each among images x beams places; None if there are as many."""


def unroll(
    decoder: AttentionDecoder,
    annotations: Float[Tensor, "image cells dim"],
    image: Int[Tensor, " caption"],
    token_ids: Int[Tensor, "caption step"],
    lengths: Int[Tensor, " caption"],
    *,
    start: int,
    look: Look | None = None,
) -> Unrolled:
    """Reads captions word by word, with what the decoder keeps of them, all captions side by side.

    An image is remembered once for all its captions. A caption takes part as long as it lasts.

    Args:
        decoder: in training mode or not.
        annotations: of the images.
        image: which of them each caption is of.
        token_ids: the words to be said, `<end>` included, padded with anything, which is not looked at.
        lengths: words of each caption, at least 1.
        start: token id of `<start>`.
        look: where to look, given the decoder's attention; None to look there.

    Returns:
        What is needed to score the words. With weights or annotations that want gradients, it has them.
    """
    order, steps = _plan(image.tolist(), lengths.tolist(), annotations.device)
    if order != list(range(len(annotations))):
        annotations = annotations[torch.tensor(order, device=annotations.device)]
    rows = [len(step.rows) for step in steps]
    embedded = _embed(decoder, [token_ids[step.rows, t] for t, step in enumerate(steps[1:])], rows[0], start)
    memory = decoder.remember(annotations)
    unrolling = _Unrolling(decoder, embedded, rows, memory, steps[0])
    state = State(*(unrolling.by_caption(part) for part in decoder.initial_state(annotations)))
    hiddens, contexts, alphas = [], [], []
    for t, (step, words) in enumerate(zip(steps, torch.split(embedded, rows), strict=True)):
        if step.kept is not None:
            state = State(*(part[step.kept] for part in state))
        unrolling.now = step
        alpha = unrolling.attend(state, memory)
        seen = alpha if look is None else look(alpha, step.rows, t)
        state, context, _ = unrolling.advance(words, state, memory, alpha=seen)
        hiddens.append(state.hidden)
        contexts.append(context)
        alphas.append(alpha)
    return Unrolled(
        caption=torch.cat([step.rows for step in steps]),
        target=torch.cat([token_ids[step.rows, t] for t, step in enumerate(steps)]),
        features=decoder.features(embedded, torch.cat(hiddens), torch.cat(contexts)),
        alphas=torch.cat(alphas),
    )


def _embed(
    decoder: AttentionDecoder, read: list[Int[Tensor, " _"]], rows: int, start: int
) -> Float[Tensor, "word embedding"]:
    """What all steps read, one after the other: `rows` beginnings, then words that are given."""
    first = decoder.first_words(rows, start)
    if first is not None:
        embedded: Tensor = decoder.embedding(torch.cat([first, *read]))
        return embedded
    zeros = decoder.embedding.weight.new_zeros(rows, decoder.config.embedding_dim)
    return torch.cat([zeros, decoder.embedding(torch.cat(read))] if read else [zeros])


class _Unrolling(AttentionDecoder):
    """The decoder, with layers that sum their gradients over the steps. It has no weights of its own."""

    def __init__(
        self,
        decoder: AttentionDecoder,
        embedded: Float[Tensor, "word embedding"],
        rows: list[int],
        memory: Memory,
        first: _Step,
    ) -> None:
        nn.Module.__init__(self)
        self.config, self.training, self.now = decoder.config, decoder.training, first
        self.next_state = SummedLSTM(decoder.lstm, embedded, rows)
        self.add_module("hidden_projection", SummedLinear(decoder.hidden_projection, rows))
        if hasattr(decoder, "gate"):
            self.add_module("gate", SummedLinear(decoder.gate, rows))
        self.attention = SummedAttention(
            *memory, decoder.attention_score, decoder.config.attention_activation
        )

    def by_caption(self, of_images: Float[Tensor, "image x"]) -> Float[Tensor, "row x"]:
        """For each caption of the step what there is of its image."""
        return self._collect(of_images.unsqueeze(1).expand(-1, self.now.beams, -1))

    def _next(
        self,
        embedded: Float[Tensor, "row embedding"],  # noqa: ARG002
        context: Float[Tensor, "row dim"],
        state: State,
    ) -> State:
        return State(*self.next_state(context, *state))

    def _context(
        self,
        alpha: Float[Tensor, "row cells"],
        memory: Memory,  # noqa: ARG002
    ) -> Float[Tensor, "row dim"]:
        return self._collect(self.attention.context(self._spread(alpha)))

    def _relevance(
        self,
        queries: Float[Tensor, "row attention"],
        memory: Memory,  # noqa: ARG002
    ) -> Float[Tensor, "row cells"]:
        return self._collect(self.attention.relevance(self._spread(queries)))

    def _spread(self, rows: Float[Tensor, "row x"]) -> Float[Tensor, "image beam x"]:
        """Rows by image; zeros where an image has fewer captions than another."""
        now = self.now
        if now.place is not None:
            rows = rows.new_zeros(now.images * now.beams, rows.shape[1]).index_copy(0, now.place, rows)
        return rows.reshape(now.images, now.beams, rows.shape[1])

    def _collect(self, by_image: Float[Tensor, "image beam x"]) -> Float[Tensor, "row x"]:
        rows = by_image.flatten(0, 1)
        return rows if self.now.place is None else rows[self.now.place]


def _plan(image: list[int], lengths: list[int], device: torch.device) -> tuple[list[int], list[_Step]]:
    """The images, longest caption first, so that the first ones last longest; and every step's captions."""
    longest: dict[int, int] = {}
    for number, length in zip(image, lengths, strict=True):
        longest[number] = max(length, longest.get(number, 0))
    order = sorted(longest, key=lambda number: -longest[number])
    rank = {number: place for place, number in enumerate(order)}
    rows = sorted(range(len(image)), key=lambda row: (rank[image[row]], -lengths[row]))
    steps = []
    for t in range(max(lengths)):
        stay = [place for place, row in enumerate(rows) if lengths[row] > t]
        kept = None if len(stay) == len(rows) else torch.tensor(stay, device=device)
        rows = [rows[place] for place in stay]
        steps.append(_step(rows, kept, [rank[image[row]] for row in rows], device))
    return order, steps


def _step(
    rows: list[int], kept: Int[Tensor, " row"] | None, images: list[int], device: torch.device
) -> _Step:
    captions = [0] * (images[-1] + 1)
    beam = []
    for image in images:
        beam.append(captions[image])
        captions[image] += 1
    beams = max(captions)
    place = [image * beams + number for image, number in zip(images, beam, strict=True)]
    full = len(place) == len(captions) * beams
    return _Step(
        rows=torch.tensor(rows, device=device),
        kept=kept,
        images=len(captions),
        beams=beams,
        place=None if full else torch.tensor(place, device=device),
    )
