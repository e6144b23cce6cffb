"""The scalar being explained: log p(word t | earlier words, image), in nats; the earlier words are fixed.

Two modules answer the same question of different inputs: `WordScore` of pixels, `WordScoreFromGrid` of
annotation vectors. One row is one (image, word) pair, so that all words of a caption are explained in one
batch. The captioner is a registered submodule: in a closure, Captum's hooks would silently miss its encoder.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.captioner import Captioner
from models.decoder import Memory, State


class WordScoreFromGrid(nn.Module):
    """Annotation vectors to the log-probability of one word per row.

    An annotation vector reaches word t by three paths: *now*, the attention and context of the step that says
    the word; *past*, those of earlier steps, through the LSTM's state; *init*, the state before the first
    word. Each path can be given a tensor of its own; the three partial gradients sum to the full one.

    Args:
        captioner: in eval mode.
    """

    def __init__(self, captioner: Captioner) -> None:
        super().__init__()
        self.captioner = captioner

    def forward(
        self,
        annotations: Float[Tensor, "row cells dim"],
        token_ids: Int[Tensor, "row step"],
        step: Int[Tensor, " row"],
        past: Float[Tensor, "row cells dim"] | None = None,
        init: Float[Tensor, "row cells dim"] | None = None,
    ) -> Float[Tensor, " row"]:
        """Scores one word per row.

        Args:
            annotations: what the step that says the word sees.
            token_ids: the row's caption; tokens after `step` are never read.
            step: which token is scored, from 0.
            past: what earlier steps see; None for `annotations`.
            init: what the initial state is made of; None for `annotations`.

        Returns:
            Log-probabilities in nats. A row costs `step` + 1 decoder steps, however long the others are.
        """
        decoder = self.captioner.decoder
        # Longest prefix first: the rows that go on are always the leading ones, and cutting the others off is
        # a view. Captum's integrated gradients repeat every row n_steps times, so this halves their cost.
        order = step.argsort(descending=True, stable=True)
        last, words = step[order].tolist(), token_ids[order]
        now_memory = past_memory = decoder.remember(annotations[order])
        if past is not None:
            past_memory = decoder.remember(past[order])
        state = decoder.initial_state(now_memory.annotations if init is None else init[order])
        read = decoder.first_words(len(last), self.captioner.vocabulary.start)
        scores = []
        for t in range(last[0] + 1):
            going_on = sum(s > t for s in last)
            memory = past_memory
            if past is not None:
                memory = _cat(_rows(past_memory, slice(going_on)), _rows(now_memory, slice(going_on, None)))
            seen = decoder.step(read, state, memory)
            scores.append(seen.log_probs[going_on:].gather(1, words[going_on:, t : t + 1]).squeeze(1))
            words, read = words[:going_on], words[:going_on, t]
            state = State(*(part[:going_on] for part in seen.state))
            now_memory, past_memory = _rows(now_memory, slice(going_on)), _rows(past_memory, slice(going_on))
        return torch.cat(scores[::-1])[order.argsort()]


def _rows(memory: Memory, rows: slice) -> Memory:
    return Memory(*(part[rows] for part in memory))


def _cat(a: Memory, b: Memory) -> Memory:
    return Memory(*(torch.cat(parts) for parts in zip(a, b, strict=True)))


class WordScore(nn.Module):
    """Preprocessed pixels to the log-probability of one word per row.

    Args:
        captioner: in eval mode.
    """

    def __init__(self, captioner: Captioner) -> None:
        super().__init__()
        self.from_grid = WordScoreFromGrid(captioner)

    def forward(
        self,
        images: Float[Tensor, "row 3 height width"],
        token_ids: Int[Tensor, "row step"],
        step: Int[Tensor, " row"],
    ) -> Float[Tensor, " row"]:
        """Scores one word per row; see `WordScoreFromGrid.forward`."""
        scores: Tensor = self.from_grid(self.from_grid.captioner.encode(images), token_ids, step)
        return scores


@contextmanager
def frozen(captioner: nn.Module) -> Iterator[None]:
    """Records gradients for everything but the weights, whatever the caller's mode; then all is as before.

    Without the weights' part, autograd keeps about half as many activations.
    """
    assert not captioner.training, "a captioner is explained in eval mode"
    flags = [(parameter, parameter.requires_grad) for parameter in captioner.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
