"""Layers of `torch.nn`, with the same parameters, that take less time on a CPU when no gradient is wanted.

Decoding multiplies a few rows by large matrices. The library that PyTorch asks for that rearranges the matrix each
time. oneDNN, which PyTorch brings along for its compiler, multiplies by one that has been rearranged before; this
takes a fifth to two fifths less time for 16 to 80 rows.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class _Multiplier(nn.Module):
    """Multiplies by a matrix, of which it keeps a rearranged copy in eval mode; a changed matrix is copied again."""

    _copied: tuple[Tensor, int, int] | None = None
    _copy: Tensor | None = None

    def forward(self, rows: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
        on_cpu = rows.device.type == "cpu" and rows.dtype == matrix.dtype == torch.float32
        if self.training or torch.is_grad_enabled() or not on_cpu or not _onednn_packs():
            return nn.functional.linear(rows, matrix, bias)
        version = 0 if matrix.is_inference() else matrix._version
        now = (matrix, matrix.data_ptr(), version)
        if self._copied is None or self._copied[0] is not matrix or self._copied[1:] != now[1:]:
            # The layout for 16 rows is as good for any other number.
            self._copy = torch.ops.mkldnn._reorder_linear_weight(matrix.detach(), 16)
            self._copied = now
        product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._copy, bias, "none", [], "")
        return product

    def train(self, mode: bool = True) -> "_Multiplier":
        if mode:
            self._copied = self._copy = None  # fused optimisers change weights without a trace
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "_Multiplier":
        self._copied = self._copy = None  # `to` and its kin, too
        moved: _Multiplier = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return moved

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_copied": None, "_copy": None}  # what oneDNN has rearranged can't be stored


def _onednn_packs() -> bool:
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Linear(nn.Linear):
    """`torch.nn.Linear`."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self._multiply = _Multiplier()

    def forward(self, input: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """`input` times the transposed weights, plus the bias."""
        product: Tensor = self._multiply(input, self.weight, self.bias)
        return product


class LSTMCell(nn.LSTMCell):
    """`torch.nn.LSTMCell`."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self._multiply_input, self._multiply_hidden = _Multiplier(), _Multiplier()

    def forward(
        self,
        input: Float[Tensor, "batch inputs"],
        hx: tuple[Float[Tensor, "batch hidden"], Float[Tensor, "batch hidden"]] | None = None,
    ) -> tuple[Float[Tensor, "batch hidden"], Float[Tensor, "batch hidden"]]:
        """The next hidden state and cell, from the last ones."""
        if hx is None or self.training or torch.is_grad_enabled() or input.device.type != "cpu":
            return super().forward(input, hx)
        hidden, cell = hx
        gates: Tensor = self._multiply_input(input, self.weight_ih, self.bias_ih)
        gates += self._multiply_hidden(hidden, self.weight_hh, self.bias_hh)
        input_gate, forget_gate, candidate, output_gate = gates.chunk(4, dim=1)
        cell = forget_gate.sigmoid() * cell + input_gate.sigmoid() * tanh_(candidate)
        return output_gate.sigmoid() * tanh_(cell.clone()), cell


def tanh_(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The hyperbolic tangent; `x` is spent. On a CPU, `torch.sigmoid` takes a fifth of the time of `torch.tanh`."""
    return x.mul_(2).sigmoid_().mul(2).sub_(1) if x.device.type == "cpu" else x.tanh_()
