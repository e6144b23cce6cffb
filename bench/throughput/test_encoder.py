"""From preprocessed images to annotation vectors."""

import pytest
import torch

from bench.data.scenes import make_scene
from bench.throughput.floor import encoder_work
from bench.throughput.measuring import Reference

SCENES = 64
IMAGES = 8


@pytest.mark.benchmark(group="encoder")
def test_encode_scenes(benchmark, measure, demo):
    """The demo model's small encoder."""
    pictures = [make_scene("test", index).picture() for index in range(SCENES)]
    images = torch.stack([demo.preprocessing(picture) for picture in pictures]).to(measure.device)
    work = encoder_work(demo.encoder, tuple(images.shape))
    with torch.no_grad():
        measure(benchmark, lambda: demo.encode(images), images=SCENES, work=work, rounds=9)


@pytest.mark.benchmark(group="encoder")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_encode_resnet101(benchmark, measure, full_size, plain_encoder, monkeypatch, dtype):
    """ResNet-101 at 256 pixels, beside a plain float32 call of the network."""
    dtype = getattr(torch, dtype)
    monkeypatch.setattr(full_size, "encoder_dtype", dtype)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES, 3, 256, 256, generator=generator).to(measure.device)
    with torch.no_grad():
        annotations = measure(
            benchmark,
            lambda: full_size.encode(images),
            images=IMAGES,
            work=encoder_work(full_size.encoder, tuple(images.shape), dtype.itemsize),
            dtype=dtype,
            references=[Reference("plain", lambda: plain_encoder(images))],
        ).result
        expected = plain_encoder(images).flatten(2).transpose(1, 2)
    error = float((annotations - expected).norm() / expected.norm())
    benchmark.extra_info["relative_error"] = error
    assert error < (1e-4 if dtype == torch.float32 else 0.05)
