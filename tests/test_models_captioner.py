"""Encoding: some images at a time, and in which type of numbers."""

import pytest
import torch

from bench.config import DEMO_CHECKPOINT
from models.formats import load_checkpoint


@pytest.fixture
def captioner():
    return load_checkpoint(DEMO_CHECKPOINT).captioner


@pytest.fixture
def seen(captioner):
    """How many images the encoder was given, call by call."""
    counts = []
    captioner.encoder.register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0])))
    return counts


IMAGES = torch.randn(45, 3, 112, 112, generator=torch.Generator().manual_seed(0))


def test_without_gradients_images_are_encoded_some_at_a_time_with_the_same_result(captioner, seen):
    with torch.no_grad():
        together = captioner.encode(IMAGES)
        parts, seen[:] = seen[:], []
        alone = torch.cat([captioner.encode(image.unsqueeze(0)) for image in IMAGES])
    assert sum(parts) == 45
    assert max(parts) * 112 * 112 <= 2**18 < (max(parts) + 1) * 112 * 112
    assert seen == [1] * 45
    assert together.shape == (45, 196, 80)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_a_picture_larger_than_a_part_is_encoded_alone(captioner, seen):
    with torch.no_grad():
        captioner.encode(torch.zeros(2, 3, 1024, 1024))
    assert seen == [1, 1]


def test_training_and_gradients_see_the_whole_batch(captioner, seen):
    captioner.encode(IMAGES)
    captioner.train()
    with torch.no_grad():
        captioner.encode(IMAGES)
    assert seen == [45, 45]


def test_bfloat16_changes_numbers_a_little_where_no_gradient_is_taken_and_gives_float32(captioner):
    with torch.no_grad():
        exact = captioner.encode(IMAGES[:4])
        captioner.encoder_dtype = torch.bfloat16
        rounded = captioner.encode(IMAGES[:4])
    assert rounded.dtype == torch.float32
    assert 1e-4 < float((rounded - exact).norm() / exact.norm()) < 0.05
    torch.testing.assert_close(captioner.encode(IMAGES[:4]), exact, atol=1e-5, rtol=1e-5)
