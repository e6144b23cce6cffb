"""Layers that are used at every step of a caption, with their gradients taken for all steps at once.

Autograd takes the gradient of a matrix at every use and adds them up: twelve thin products and twelve sums as large as
the matrix where one product does. And it keeps what attention mixes at every step, of which the gradient needs nothing
that can't be mixed again. So here the steps see weights that want no gradient. Each leaves behind what the gradient
takes, and a node that comes before all of them, and whose turn on the way back thus comes last, takes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.layers import tanh_

_NUMBERS_AT_A_TIME = {"cpu": 2**17, "cuda": 2**28}
"""Numbers that attention mixes together: 512 KB, which stay in a CPU's cache; 1 GB on a GPU."""


class SummedLinear(nn.Module):
    """A linear layer that is called once at each of several steps.

    Args:
        layer: whose weights it has.
        rows: of each step's input.
    """

    def __init__(self, layer: nn.Linear, rows: Sequence[int]) -> None:
        super().__init__()
        dtype = _computed_in(layer.weight)
        self._weight = layer.weight.detach().to(dtype)
        self._inputs: list[Tensor] = []
        biases = _Linear.apply(layer.weight, layer.bias, sum(rows), dtype, self._inputs)
        self._biases = iter(biases.split(list(rows)))

    def forward(self, input: Float[Tensor, "row inputs"]) -> Float[Tensor, "row outputs"]:
        """What the layer makes of the next step's input."""
        self._inputs.append(input.detach())
        return torch.addmm(next(self._biases), input.to(self._weight.dtype), self._weight.T)


class _Linear(torch.autograd.Function):
    """The bias, once for every row of every step; on the way back, the gradients of bias and weight."""

    @staticmethod
    def forward(
        ctx: Any, _weight: Tensor, bias: Tensor, rows: int, dtype: torch.dtype, inputs: list[Tensor]
    ) -> Tensor:
        ctx.inputs = inputs
        return bias.detach().to(dtype).expand(rows, -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient.T @ _rows(ctx.inputs, gradient), gradient.sum(dim=0), None, None, None


def _rows(steps: list[Tensor], like: Tensor) -> Tensor:
    return torch.cat(steps).to(like.dtype)


def _computed_in(weight: Tensor) -> torch.dtype:
    """What autocast, where it is on, would multiply this matrix in."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


class SummedLSTM(nn.Module):
    """An LSTM cell that is called once at each of several steps; one part of its input is known beforehand.

    Args:
        cell: whose weights it has.
        known: the first columns of the input, of all steps, one after the other.
        rows: of each step's input.
    """

    def __init__(self, cell: nn.LSTMCell, known: Float[Tensor, "word known"], rows: Sequence[int]) -> None:
        super().__init__()
        dtype = _computed_in(cell.weight_ih)
        weights = cell.weight_ih.detach()[:, known.shape[1] :], cell.weight_hh.detach()
        self._weights = [weight.to(dtype).T for weight in weights]
        self._inputs: tuple[list[Tensor], list[Tensor]] = ([], [])
        gates = _Gates.apply(
            known.to(dtype), cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh, *self._inputs
        )
        self._gates = iter(gates.split(list(rows)))

    def forward(
        self,
        input: Float[Tensor, "row inputs"],
        hidden: Float[Tensor, "row hidden"],
        cell: Float[Tensor, "row hidden"],
    ) -> tuple[Float[Tensor, "row hidden"], Float[Tensor, "row hidden"]]:
        """The next hidden state and cell, from the last ones and the columns of the input that weren't known."""
        gates = next(self._gates)
        for part, weight, inputs in zip((input, hidden), self._weights, self._inputs, strict=True):
            inputs.append(part.detach())
            gates = torch.addmm(gates, part.to(weight.dtype), weight)
        cell = cell.to(torch.promote_types(cell.dtype, torch.float32))  # 16 bits are not enough for sums
        input_gate, forget_gate, candidate, output_gate = gates.chunk(4, dim=1)
        cell = forget_gate.sigmoid() * cell + input_gate.sigmoid() * candidate.tanh()
        return output_gate.sigmoid() * cell.tanh(), cell


class _Gates(torch.autograd.Function):
    """What the known part of the input adds to the gates; on the way back, the gradients of all weights."""

    @staticmethod
    def forward(
        ctx: Any,
        known: Tensor,
        weight_input: Tensor,
        _weight_hidden: Tensor,
        bias_input: Tensor,
        bias_hidden: Tensor,
        inputs: list[Tensor],
        hiddens: list[Tensor],
    ) -> Tensor:
        ctx.save_for_backward(known, weight_input)
        ctx.inputs, ctx.hiddens = inputs, hiddens
        bias, weight = bias_input + bias_hidden, weight_input[:, : known.shape[1]]
        return torch.addmm(bias.to(known.dtype), known, weight.to(known.dtype).T)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        known, weight = ctx.saved_tensors
        inputs = torch.cat([known, _rows(ctx.inputs, gradient)], dim=1)
        bias = gradient.sum(dim=0)
        return (
            gradient @ weight[:, : known.shape[1]].to(gradient.dtype),
            gradient.T @ inputs,
            gradient.T @ _rows(ctx.hiddens, gradient),
            bias,
            bias,
            None,
            None,
        )


class SummedAttention:
    """Attention over the same images at several steps; each step may look at fewer of the images, the first ones.

    Args:
        annotations: of the images.
        projected: the same, as attention compares them with its queries.
        score: from what attention mixes to how relevant a cell is.
        activation: of what attention mixes.
    """

    def __init__(
        self,
        annotations: Float[Tensor, "image cells dim"],
        projected: Float[Tensor, "image cells attention"],
        score: nn.Linear,
        activation: Literal["tanh", "relu"],
    ) -> None:
        # What the backward pass needs does not refer to what it goes back through, or only the garbage collector would
        # ever free either.
        self._sums = sums = _AttentionSums(
            annotations=annotations.detach(),
            projected=projected.detach(),
            score_weight=score.weight.detach().flatten().to(projected.dtype),
            score_bias=score.bias.detach().to(projected.dtype),
            activation=activation,
        )
        self._compared = _Compared.apply(sums, projected, score.weight, score.bias)
        self._seen = _Seen.apply(sums, annotations) if annotations.requires_grad else None

    def relevance(self, queries: Float[Tensor, "image beam attention"]) -> Float[Tensor, "image beam cells"]:
        """How relevant every cell of the first images is to each of their queries (eq. 4)."""
        queries = queries.to(self._sums.projected.dtype)
        relevance: Tensor = _Relevance.apply(self._sums, self._compared, queries)
        return relevance

    def context(self, alpha: Float[Tensor, "image beam cells"]) -> Float[Tensor, "image beam dim"]:
        """What the first images' beams see."""
        alpha = alpha.to(self._sums.annotations.dtype)
        if self._seen is None:
            return torch.bmm(alpha, self._sums.annotations[: len(alpha)])
        context: Tensor = _Context.apply(self._sums, self._seen, alpha)
        return context


@dataclass(eq=False)
class _AttentionSums:
    """The images, and the sums over steps that the way back makes of them. Nothing here wants a gradient."""

    annotations: Tensor
    projected: Tensor
    score_weight: Tensor
    score_bias: Tensor
    activation: Literal["tanh", "relu"]
    sums: list[Tensor] = field(default_factory=list)
    """Gradients of projected / score_weight, of score_weight and of score_bias; empty before the first step."""
    looks: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Alphas, and gradients of the contexts they gave."""

    def mix(
        self,
        queries: Float[Tensor, "image beam attention"],
        projected: Float[Tensor, "image cells attention"],
    ) -> Float[Tensor, "image beam cells attention"]:
        """What the score is taken of."""
        mixed = projected.unsqueeze(1) + queries.unsqueeze(2)
        return tanh_(mixed) if self.activation == "tanh" else mixed.relu_()

    def slices(self, queries: Float[Tensor, "image beam attention"]) -> list[slice]:
        """The images in pieces that are mixed together."""
        device = "cpu" if queries.device.type == "cpu" else "cuda"
        per_image = max(1, queries.shape[1] * self.projected[0].numel())
        size = max(1, _NUMBERS_AT_A_TIME[device] // per_image)
        return [slice(i, min(i + size, len(queries))) for i in range(0, len(queries), size)]

    def add(
        self, gradient: Float[Tensor, "image beam cells"], queries: Float[Tensor, "image beam attention"]
    ) -> Tensor:
        """Adds a step's share to the sums; the gradient of `queries`."""
        if not self.sums:
            dtype = torch.promote_types(self.projected.dtype, torch.float32)
            parts = self.projected, self.score_weight, self.score_bias
            self.sums = [torch.zeros_like(part, dtype=dtype) for part in parts]
        of_projected, of_weight, of_bias = self.sums
        of_bias += gradient.sum()
        of_queries = torch.empty_like(queries)
        for part in self.slices(queries):
            mixed = self.mix(queries[part], self.projected[part])
            told = gradient[part]
            of_weight += told.flatten() @ mixed.flatten(0, 2)
            # The activation's slope, told by its value.
            slope = mixed.sign_() if self.activation == "relu" else mixed.square_().neg_().add_(1)
            torch.matmul(told.unsqueeze(2), slope, out=of_queries[part].unsqueeze(2))
            for beam in range(told.shape[1]):
                of_projected[part].addcmul_(slope[:, beam], told[:, beam].unsqueeze(2))
        return of_queries * self.score_weight


class _Compared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sums: _AttentionSums, projected: Tensor, _weight: Tensor, _bias: Tensor) -> Tensor:
        ctx.sums = sums
        return projected.new_zeros(())

    @staticmethod
    def backward(ctx: Any, _gradient: Tensor) -> tuple[Tensor | None, ...]:
        sums = ctx.sums
        of_projected, of_weight, of_bias = sums.sums
        sums.sums = []
        return None, of_projected.mul_(sums.score_weight), of_weight.unsqueeze(0), of_bias


class _Relevance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sums: _AttentionSums, _compared: Tensor, queries: Tensor) -> Tensor:
        ctx.sums = sums
        ctx.save_for_backward(queries)
        relevance = queries.new_empty(*queries.shape[:2], sums.projected.shape[1])
        for part in sums.slices(queries):
            mixed = sums.mix(queries[part], sums.projected[part])
            torch.matmul(mixed, sums.score_weight, out=relevance[part])
        return relevance.add_(sums.score_bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (queries,) = ctx.saved_tensors
        return None, gradient.new_zeros(()), ctx.sums.add(gradient, queries)


class _Seen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sums: _AttentionSums, annotations: Tensor) -> Tensor:
        ctx.sums = sums
        return annotations.new_zeros(())

    @staticmethod
    def backward(ctx: Any, _gradient: Tensor) -> tuple[Tensor | None, ...]:
        looks, images = ctx.sums.looks, len(ctx.sums.annotations)
        ctx.sums.looks = []
        alphas, contexts = (
            torch.cat([nn.functional.pad(p, (0, 0, 0, 0, 0, images - len(p))) for p in parts], dim=1)
            for parts in zip(*looks, strict=True)
        )
        return None, torch.bmm(alphas.transpose(1, 2), contexts)


class _Context(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sums: _AttentionSums, _seen: Tensor, alpha: Tensor) -> Tensor:
        ctx.sums = sums
        ctx.save_for_backward(alpha)
        return torch.bmm(alpha, sums.annotations[: len(alpha)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (alpha,) = ctx.saved_tensors
        annotations = ctx.sums.annotations[: len(alpha)]
        # Autocast multiplied in fewer bits, and is off on the way back.
        gradient = gradient.to(annotations.dtype)
        ctx.sums.looks.append((alpha, gradient))
        of_alpha = torch.bmm(gradient, annotations.transpose(1, 2))
        return None, gradient.new_zeros(()), of_alpha
