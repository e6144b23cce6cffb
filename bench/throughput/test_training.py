"""One training step: forward, backward, clipping, AdamW."""

import copy

import pytest
import torch
from torch import nn

from bench.data.scenes import make_scene
from bench.throughput.floor import encoder_work, memory_work, step_work
from bench.throughput.full_size import STEPS, random_annotations


@pytest.mark.benchmark(group="training")
def test_train_demo_model(benchmark, measure, demo):
    """Encoder and decoder of the demo model on 64 scenes, as `gazebench train --preset scenes` does it."""
    batch, steps = 64, 11
    captioner = copy.deepcopy(demo).train()
    pictures = [make_scene("train", index).picture() for index in range(batch)]
    images = torch.stack([captioner.preprocessing(picture) for picture in pictures]).to(measure.device)
    forward = encoder_work(captioner.encoder, tuple(images.shape))
    forward += decoder_work(captioner.decoder.config, captioner.grid[0] * captioner.grid[1], batch, steps)
    train(benchmark, measure, captioner, lambda: captioner.encode(images), batch, steps, forward)


@pytest.mark.benchmark(group="training")
def test_train_full_size_decoder(benchmark, measure, full_size):
    """The tutorial's decoder on 16 encoded images, the encoder frozen as the tutorial has it at first."""
    batch = 16
    captioner = copy.deepcopy(full_size).train()
    captioner.encoder.requires_grad_(False)
    annotations = random_annotations(batch).to(measure.device)
    forward = decoder_work(captioner.decoder.config, annotations.shape[1], batch, STEPS)
    train(benchmark, measure, captioner, lambda: annotations, batch, STEPS, forward)


def decoder_work(config, cells, images, steps):
    one_step = step_work(config, cells=cells, images=images, beams=1)
    return memory_work(config, cells=cells, images=images) + one_step * steps


def train(benchmark, measure, captioner, encode, batch, steps, forward):
    """Times a step; the way back takes twice the products of the way there."""
    weights = [weight for weight in captioner.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-4)
    words = len(captioner.vocabulary)
    generator = torch.Generator().manual_seed(0)
    token_ids = torch.randint(words, (batch, steps), generator=generator).to(measure.device)

    def step():
        loss = -captioner.word_log_probs(encode(), token_ids).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 5.0)
        optimizer.step()
        return loss

    measured = measure(benchmark, step, images=batch, words=batch * (steps - 1), work=forward * 3)
    assert measured.result.isfinite()
