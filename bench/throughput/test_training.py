"""One training step: forward, backward, clipping, and the optimizer's own."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bench.data.scenes import make_scene
from bench.throughput.floor import Work, encoder_work, memory_work, step_work
from bench.throughput.full_size import STEPS, random_annotations
from bench.throughput.literal_training import ALPHA_C, CLAMP, literal_loss, literal_step
from bench.throughput.measuring import Reference
from bench.training.objectives import Captions, Whole, likelihood
from bench.training.recipe import AttentionPenalty
from models.decoder import AttentionDecoder

LEAST_RATIO = 3.0
"""The literal loop takes at least so many times as long on a CPU."""


@pytest.mark.benchmark(group="training")
def test_train_demo_model(benchmark, measure, demo):
    """Encoder and decoder of the demo model on 64 scenes, as `gazebench train --preset scenes` does it."""
    batch, steps = 64, 11
    captioner = copy.deepcopy(demo).train()
    pictures = [make_scene("train", index).picture() for index in range(batch)]
    images = torch.stack([captioner.preprocessing(picture) for picture in pictures]).to(measure.device)
    captions = random_captions(len(captioner.vocabulary), [steps] * batch, measure.device)
    config, cells = captioner.decoder.config, captioner.grid[0] * captioner.grid[1]
    forward = encoder_work(captioner.encoder, tuple(images.shape)) + memory_work(
        config, cells=cells, images=batch
    )
    forward += step_work(config, cells=cells, images=batch, beams=1) * steps
    weights = [*captioner.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=1e-4)

    def step():
        loss = loss_of(
            captioner.decoder, captioner.encode(images), captions, captioner.vocabulary.start, None
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 5.0)
        optimizer.step()
        return loss

    # The way back takes twice the products of the way there.
    measured = measure(benchmark, step, images=batch, words=batch * (steps - 1), work=forward * 3)
    assert measured.result.isfinite()


@pytest.mark.benchmark(group="training")
def test_train_full_size_decoder(benchmark, measure, full_size):
    """The tutorial's decoder, beside the tutorial's loop, on annotation vectors that are not trained themselves.

    32 images with a caption each, as long as COCO's are, with the tutorial's attention term, clamping and Adam.
    """
    batch, start = 32, full_size.vocabulary.start
    annotations = random_annotations(batch).to(measure.device)
    lengths = (
        np.random.default_rng(0).normal(STEPS - 0.5, 2.3, batch).round().clip(8, 25).astype(int).tolist()
    )
    captions = random_captions(len(full_size.vocabulary), lengths, measure.device)
    torch.manual_seed(0)
    ours = AttentionDecoder(replace(full_size.decoder.config, dropout=0.0)).to(measure.device).train()
    theirs = copy.deepcopy(ours)
    optimizer, their_optimizer = (
        torch.optim.Adam(decoder.parameters(), lr=4e-4) for decoder in (ours, theirs)
    )
    penalty, literal = (
        AttentionPenalty(ALPHA_C, "mean"),
        (annotations, captions.token_ids, captions.lengths, start),
    )

    def step():
        loss = loss_of(ours, annotations, captions, start, penalty)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_value_(ours.parameters(), CLAMP)
        optimizer.step()
        return loss.item()

    with torch.no_grad():
        expected = literal_loss(theirs, *literal).item()
        assert loss_of(ours, annotations, captions, start, penalty).item() == pytest.approx(
            expected, abs=1e-5
        )
    measure(
        benchmark,
        step,
        images=batch,
        words=sum(lengths) - batch,
        work=frozen_work(ours.config, annotations.shape[1], lengths),
        references=[Reference("literal", lambda: literal_step(theirs, their_optimizer, *literal))],
    )
    if measure.device.type == "cpu":
        assert benchmark.extra_info["ratio_to_literal"] >= LEAST_RATIO


def frozen_work(config, cells, lengths):
    """Of a step whose annotation vectors want no gradient: there, and back twice but for what that saves."""
    once = memory_work(config, cells=cells, images=len(lengths))
    of_word = step_work(config, cells=cells, images=1, beams=1).flops
    unasked, looked_at = (
        2 * cells * config.annotation_dim,
        cells * (config.annotation_dim + config.attention_dim),
    )
    return once * 2 + Work(sum(lengths) * (3 * of_word - unasked), sum(lengths) * 2 * 4 * looked_at)


def random_captions(words, lengths, device):
    """A caption of each image, of so many steps."""
    generator = torch.Generator().manual_seed(0)
    token_ids = torch.randint(words, (len(lengths), max(lengths)), generator=generator)
    image = torch.arange(len(lengths))
    return Captions(*(each.to(device) for each in (image, token_ids, torch.tensor(lengths))))


def loss_of(decoder, annotations, captions, start, penalty):
    whole = Whole(int(captions.lengths.sum()), len(captions.lengths))
    return likelihood(decoder, annotations, captions, whole, start=start, penalty=penalty).share
