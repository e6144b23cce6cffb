"""Captioners that are made to look elsewhere at every step: what is left of the captions without attention?

Unlike `explain.attention_tests`, which replaces one step's attention and keeps all else, these models decode under
the intervention. What they read and remember has been said under it, too.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from explain.attention_tests import adversarial_attention
from models.captioner import Captioner
from models.decoder import AttentionDecoder, Memory, State, Step

INTERVENTIONS = ("uniform", "permuted", "top cell erased", "random cell erased")
"""Those that need to know nothing of the picture."""
OTHER_OBJECT, ADVERSARIAL = "other object", "adversarial"
"""Those that take one image at a time: what is in it has to be known, or a search runs in every step."""

_M = TypeVar("_M", bound=nn.Module)


class _Look(NamedTuple):
    """One step of some hypotheses, before it is taken."""

    alpha: Float[Tensor, "row cells"]
    """Where it would look."""
    drawn: Int[Tensor, "row cells"]
    """A permutation of the cells for each row, the same for rows of the same step."""
    word_ids: Int[Tensor, " row"] | None
    state: State
    memory: Memory


_Change = Callable[[_Look], Float[Tensor, "row cells"]]


def intervened(
    captioner: Captioner, kind: str, *, seed: int, things: Float[Tensor, "2 cells"] | None = None
) -> Captioner:
    """A captioner whose decoder looks elsewhere.

    Args:
        captioner: stays as it is.
        kind: "uniform", the same weight on every cell; "permuted", the weights that the model gives on other cells;
            "top cell erased" and "random cell erased" (any but the top one), the other weights scaled up; "other
            object", the weight on either of two things spread over the other; "adversarial", attention as different
            as can be found that hardly changes the distribution over the next word. Permutations and cells are drawn
            for each step and are the same for all images, so that no image's caption depends on its batch.
        seed: of what is drawn; not negative.
        things: for "other object", the share of each cell that either thing covers; then, and for "adversarial",
            the captioner decodes one image at a time.

    Returns:
        A captioner that shares all weights, for `beam_search` and whatever else decodes. Moving or training
        it moves or trains both.
    """
    twin = _sharing(captioner)
    if kind == "uniform":
        twin.decoder = _sharing(captioner.decoder)
        twin.decoder.config = replace(captioner.decoder.config, attention="uniform")
        return twin
    changes: dict[str, _Change] = {
        "permuted": lambda look: look.alpha.gather(1, look.drawn),
        "top cell erased": lambda look: _erased(look.alpha, look.alpha.argmax(dim=1)),
        "random cell erased": lambda look: _erased(look.alpha, _another(look)),
        ADVERSARIAL: lambda look: adversarial_attention(
            captioner.decoder, look.word_ids, look.state, look.memory, look.alpha
        ),
    }
    if things is not None:
        changes[OTHER_OBJECT] = lambda look: _swapped(look.alpha, things)
    assert kind in changes, kind
    rows, cols = captioner.grid
    generator = torch.Generator().manual_seed(seed)
    permutations = torch.stack(
        [torch.randperm(rows * cols, generator=generator) for _ in range(captioner.max_steps)]
    )
    twin.decoder = _ChangedDecoder(captioner.decoder, permutations.to(captioner.device), changes[kind])
    return twin


def _erased(alpha: Float[Tensor, "row cells"], cell: Int[Tensor, " row"]) -> Float[Tensor, "row cells"]:
    left = alpha.scatter(1, cell[:, None], 0.0)
    total = left.sum(dim=1, keepdim=True)
    return torch.where(total > 0, left / total, alpha)  # where all weight was there, nothing can be scaled up


def _another(look: _Look) -> Int[Tensor, " row"]:
    """A cell that is not the top one."""
    first, second = look.drawn[:, 0], look.drawn[:, -1]
    return torch.where(first == look.alpha.argmax(dim=1), second, first)


def _swapped(
    alpha: Float[Tensor, "row cells"], things: Float[Tensor, "2 cells"]
) -> Float[Tensor, "row cells"]:
    """The weight on each thing, spread evenly over the other; what lies elsewhere stays."""
    shares = things / things.sum(dim=1, keepdim=True)
    weights = alpha @ things.T  # (row, cells) x (cells, 2) -> (row, 2)
    return alpha * (1 - things.sum(dim=0).clamp(max=1)) + weights @ shares.flip(0)


def _sharing(module: _M) -> _M:
    """A second module over the same parts, any of which can be replaced in it."""
    twin = copy.copy(module)
    twin._modules = module._modules.copy()  # a shallow copy shares the dictionary
    return twin


class _ChangedDecoder(AttentionDecoder):
    """A decoder that looks where a change of its attention says.

    The state's cell has one more column: the number of steps taken. So the decoder needs no memory of its own, and
    whoever picks rows of a state picks their step with them.
    """

    def __init__(
        self, decoder: AttentionDecoder, permutations: Int[Tensor, "step cells"], change: _Change
    ) -> None:
        nn.Module.__init__(self)  # no weights of its own
        self.config = decoder.config
        self.permutations, self.change = permutations, change
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
            alpha = self.change(_Look(self.attend(state, memory), drawn, word_ids, state, memory))
        step = super().step(word_ids, state, memory, alpha=alpha)
        return step._replace(state=State(step.state.hidden, torch.cat([step.state.cell, taken + 1], dim=1)))
