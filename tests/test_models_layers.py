"""Layers that are faster on a CPU, against those of torch.nn with the same parameters."""

import copy
import pickle

import pytest
import torch
from torch import nn

from models.layers import Linear, LSTMCell, tanh_


def twins(kind, *sizes):
    """A layer of ours and the layer of torch.nn with the same parameters."""
    torch.manual_seed(0)
    ours, reference = kind(*sizes).eval(), getattr(nn, kind.__name__)(*sizes)
    reference.load_state_dict(ours.state_dict())
    return ours, reference


def hardly_differ(a, b):
    torch.testing.assert_close(a, b, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("rows", [(1,), (2,), (16,), (80,), (3, 7), (0,)])
@pytest.mark.parametrize(("inputs", "outputs"), [(512, 300), (64, 1), (5, 9490)])
@torch.no_grad()
def test_a_linear_layer_is_that_of_torch(rows, inputs, outputs):
    ours, reference = twins(Linear, inputs, outputs)
    x = torch.randn(*rows, inputs)
    hardly_differ(ours(x), reference(x))
    turned = torch.randn(*rows[:-1], inputs, rows[-1]).transpose(-1, -2)
    hardly_differ(ours(turned), reference(turned))


@pytest.mark.parametrize("rows", [1, 16, 80])
@torch.no_grad()
def test_an_lstm_cell_is_that_of_torch(rows):
    ours, reference = twins(LSTMCell, 300, 64)
    x, state = torch.randn(rows, 300), (torch.randn(rows, 64), torch.randn(rows, 64))
    for part, expected in zip(ours(x, state), reference(x, state), strict=True):
        hardly_differ(part, expected)
    for part, expected in zip(ours(x), reference(x), strict=True):
        hardly_differ(part, expected)


def test_gradients_are_those_of_torch():
    linear, cell = twins(Linear, 8, 5), twins(LSTMCell, 8, 5)
    x, state = torch.randn(3, 8, requires_grad=True), (torch.randn(3, 5), torch.randn(3, 5))
    for ours, expected in zip(
        *(torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()]) for layer in linear),
        strict=True,
    ):
        assert torch.equal(ours, expected)
    for ours, expected in zip(
        *(torch.autograd.grad(layer(x, state)[0].sum(), [x, *layer.parameters()]) for layer in cell),
        strict=True,
    ):
        assert torch.equal(ours, expected)


def by_optimiser(layer):
    layer(torch.randn(4, 32)).square().sum().backward()
    torch.optim.Adam(layer.parameters(), lr=0.1).step()


def by_optimiser_of_many_at_once(layer):
    layer(torch.randn(4, 32)).square().sum().backward()
    torch.optim.Adam(layer.parameters(), lr=0.1, foreach=True).step()


def by_fused_optimiser(layer):
    layer.train()
    layer(torch.randn(4, 32)).square().sum().backward()
    torch.optim.Adam(layer.parameters(), lr=0.1, fused=True).step()
    layer.eval()


def by_loading(layer):
    layer.load_state_dict({name: torch.randn_like(value) for name, value in layer.state_dict().items()})


def by_drawing(layer):
    nn.init.normal_(layer.weight)


def in_place(layer):
    with torch.no_grad():
        layer.weight[0] *= 20


def by_another_parameter(layer):
    layer.weight = nn.Parameter(torch.randn(24, 32))


def by_rounding(layer):
    layer.bfloat16().float()


def by_the_back_door(layer):
    layer.weight.data = torch.randn(24, 32)


@pytest.mark.parametrize(
    "change",
    [
        by_optimiser,
        by_optimiser_of_many_at_once,
        by_fused_optimiser,
        by_loading,
        by_drawing,
        in_place,
        by_another_parameter,
        by_rounding,
        by_the_back_door,
    ],
)
def test_weights_that_change_are_noticed(change):
    layer, x = Linear(32, 24).eval(), torch.randn(5, 32)
    with torch.no_grad():
        before = layer(x)
    change(layer)
    with torch.no_grad():
        assert not torch.equal(layer(x), before)
        hardly_differ(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@torch.no_grad()
def test_a_copy_goes_its_own_way(copied):
    layer, x = Linear(32, 24).eval(), torch.randn(5, 32)
    before = layer(x)
    twin = copied(layer)
    twin.weight.zero_()
    hardly_differ(twin(x), layer.bias.expand(5, 24))
    assert torch.equal(layer(x), before)


def test_inference_mode_and_no_grad_may_alternate():
    layer, x = Linear(32, 24).eval(), torch.randn(5, 32)
    with torch.inference_mode():
        first = layer(x)
    with torch.no_grad():
        assert torch.equal(layer(x), first)
    hardly_differ(layer(x).detach(), first)


def test_numbers_of_other_precision_are_computed_in_it():
    layer, x = Linear(32, 24).double(), torch.randn(5, 32, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 2e-7), (torch.float64, 4e-16)])
def test_tanh_is_exact_to_the_last_digits(dtype, off):
    x = torch.linspace(-20, 20, 10_001, dtype=dtype)
    torch.testing.assert_close(tanh_(x.clone()), torch.tanh(x), atol=off, rtol=0)


def test_the_slope_of_tanh_is_right():
    x = torch.linspace(-3, 3, 61, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda value: tanh_(value.clone()), x)
    assert torch.autograd.gradgradcheck(lambda value: tanh_(value.clone()), x)
