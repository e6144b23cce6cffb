"""The folded copy of a network: the same numbers up to rounding, whatever happens to the weights."""

import copy

import pytest
import torch
from torch import nn

from models.encoder import EncoderConfig, build_encoder
from models.folding import FoldedTwin, _TiledConvolution, _winograd, _winograd_weight


def trained_like(name, *, grid=4, seed=0):
    """An encoder whose batch normalisation does something, as after training."""
    torch.manual_seed(seed)
    encoder = build_encoder(EncoderConfig(name, grid)).eval()
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return encoder


def distance(found, expected):
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("size", [(6, 8), (7, 7), (1, 1), (2, 5)])
def test_the_tiled_convolution_is_the_convolution(size):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 5, *size, dtype=torch.float64, generator=generator)
    weight = torch.randn(4, 5, 3, 3, dtype=torch.float64, generator=generator)
    bias = torch.randn(4, dtype=torch.float64, generator=generator)
    expected = nn.functional.conv2d(images, weight, bias, padding=1)
    torch.testing.assert_close(
        _winograd(images, _winograd_weight(weight), bias), expected, atol=1e-12, rtol=1e-12
    )


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d", "vgg19"])
@pytest.mark.parametrize("size", [64, 72])
def test_without_gradients_an_encoder_computes_the_same_up_to_rounding(name, size):
    encoder = trained_like(name)
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        folded, plain = encoder(images), nn.functional.adaptive_avg_pool2d(encoder.trunk(images), 4)
    assert distance(folded, plain) < 1e-5
    tiled = any(isinstance(module, _TiledConvolution) for module in encoder._folded._twin.modules())
    assert tiled == (not name.startswith("resnext"))  # whose 3 x 3 convolutions are all in groups


def test_with_gradients_the_network_itself_is_called_and_its_hooks_are():
    encoder, called = trained_like("resnet18"), []
    encoder.trunk[4][0].relu.register_forward_hook(lambda *_: called.append(True))
    images = torch.randn(2, 3, 64, 64).requires_grad_()
    found = encoder(images)
    assert torch.equal(found, nn.functional.adaptive_avg_pool2d(encoder.trunk(images), 4))
    assert called
    found.sum().backward()
    assert images.grad.abs().sum() > 0


def test_weights_that_change_in_any_way_change_the_result():
    encoder = trained_like("resnet18")
    images = torch.randn(2, 3, 64, 64)

    def is_up_to_date():
        encoder.eval()
        with torch.no_grad():
            expected = nn.functional.adaptive_avg_pool2d(encoder.trunk(images), 4)
            return distance(encoder(images), expected) < 1e-5

    assert is_up_to_date()
    encoder.load_state_dict(trained_like("resnet18", seed=1).state_dict())
    assert is_up_to_date()
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    encoder.train()(images).square().mean().backward()
    optimizer.step()
    assert is_up_to_date()
    with torch.no_grad():
        encoder.trunk[1].running_mean.add_(1)
    assert is_up_to_date()
    encoder.trunk[0].weight = nn.Parameter(torch.randn_like(encoder.trunk[0].weight))
    assert is_up_to_date()
    original, encoder = encoder, copy.deepcopy(encoder)
    with torch.no_grad():
        original.trunk[0].weight.zero_()
    assert is_up_to_date()


def test_the_folded_copy_is_no_part_of_the_model():
    encoder = trained_like("resnet18")
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    with torch.no_grad():
        encoder(torch.randn(1, 3, 64, 64))
    after = encoder.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_in_bfloat16_the_result_is_near_and_not_the_same():
    encoder = trained_like("resnet18")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        exact = encoder(images)
        rounded = FoldedTwin(encoder.trunk)(images, torch.bfloat16)
    assert rounded.dtype == torch.bfloat16
    rounded = nn.functional.adaptive_avg_pool2d(rounded.float(), 4)
    assert 1e-4 < distance(rounded, exact) < 0.05


def test_weights_that_a_fused_optimiser_changed_are_not_missed():
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig("resnet18", 2)).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        encoder(images)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1, fused=True)
    encoder.train()
    encoder(torch.randn(2, 3, 64, 64)).square().mean().backward()
    optimizer.step()
    encoder.eval()
    with torch.no_grad():
        folded = encoder(images)
    torch.testing.assert_close(folded, encoder(images).detach(), atol=1e-4, rtol=1e-4)
