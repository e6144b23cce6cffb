"""Captioners that are made to look elsewhere at every step: what is left of the captions without attention?

Unlike `explain.attention_tests`, which replaces one step's attention and keeps all else, these models decode under
the intervention. What they read and remember has been said under it, too.
"""

import copy
from dataclasses import replace
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.captioner import Captioner
from models.decoder import AttentionDecoder, Memory, State, Step

INTERVENTIONS = ("uniform", "permuted")

_M = TypeVar("_M", bound=nn.Module)


def intervened(captioner: Captioner, kind: str, *, seed: int) -> Captioner:
    """A captioner whose decoder looks elsewhere.

    Args:
        captioner: stays as it is.
        kind: "uniform", the same weight on every cell, or "permuted", the weights that the model gives on other
            cells. The permutation is drawn for each step and is the same for all images, so that no image's
            caption depends on its batch.
        seed: of the permutations; not negative.

    Returns:
        A captioner that shares all weights, for `beam_search` and whatever else decodes. Moving or training
        it moves or trains both.
    """
    assert kind in INTERVENTIONS, kind
    twin = _sharing(captioner)
    if kind == "uniform":
        twin.decoder = _sharing(captioner.decoder)
        twin.decoder.config = replace(captioner.decoder.config, attention="uniform")
        return twin
    rows, cols = captioner.grid
    generator = torch.Generator().manual_seed(seed)
    permutations = torch.stack(
        [torch.randperm(rows * cols, generator=generator) for _ in range(captioner.max_steps)]
    )
    twin.decoder = _PermutedDecoder(captioner.decoder, permutations.to(captioner.device))
    return twin


def _sharing(module: _M) -> _M:
    """A second module over the same parts, any of which can be replaced in it."""
    twin = copy.copy(module)
    twin._modules = module._modules.copy()  # a shallow copy shares the dictionary
    return twin


class _PermutedDecoder(AttentionDecoder):
    """A decoder whose weights land on other cells than they were meant for.

    The state's cell has one more column: the number of steps taken. So the decoder needs no memory of its own, and
    whoever picks rows of a state picks their step with them.
    """

    def __init__(self, decoder: AttentionDecoder, permutations: Int[Tensor, "step cells"]) -> None:
        nn.Module.__init__(self)  # no weights of its own
        self.config = decoder.config
        self.permutations = permutations
        for name, part in decoder.named_children():
            self.add_module(name, part)
        self.training = decoder.training

    def initial_state(self, annotations: Float[Tensor, "batch cells dim"]) -> State:
        hidden, cell = super().initial_state(annotations)
        return State(hidden, torch.cat([cell, cell.new_zeros(len(cell), 1)], dim=1))

    def step(
        self,
        word_ids: Int[Tensor, " batch"] | None,
        state: State,
        memory: Memory,
        *,
        alpha: Float[Tensor, "batch cells"] | None = None,
    ) -> Step:
        taken = state.cell[:, -1:]
        state = State(state.hidden, state.cell[:, :-1])
        if alpha is None:
            drawn = self.permutations[taken[:, 0].long() % len(self.permutations)]
            alpha = self.attend(state, memory).gather(1, drawn)
        step = super().step(word_ids, state, memory, alpha=alpha)
        return step._replace(state=State(step.state.hidden, torch.cat([step.state.cell, taken + 1], dim=1)))
