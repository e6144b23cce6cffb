"""From annotation vectors to captions: the full-size decoder, twelve steps, beside a literal search of each image."""

import subprocess
import sys

import pytest

from bench.throughput.floor import memory_work, search_work
from bench.throughput.full_size import STEPS, WORDS, random_annotations
from bench.throughput.literal import literal_search
from bench.throughput.measuring import Reference, near_ties
from models.beam import DECODINGS, beam_search

LITERAL_IMAGES = 2
"""Images that the literal search decodes before each round: its cost per image does not depend on how many."""
MEMORY_LIMIT_BYTES = 1.5e9
"""Of a process that decodes 64 images at beam size 5."""


@pytest.fixture(scope="session")
def annotations(device):
    return random_annotations(256 if device.type == "cuda" else 64).to(device)


@pytest.fixture(scope="session")
def literal(full_size, annotations):
    """`literal(beam_size, image)`: token ids and score of one image, each searched for once."""
    found = {}

    def caption(beam_size, image):
        if (beam_size, image) not in found:
            said = literal_search(full_size, annotations[image : image + 1], beam_size)
            found[beam_size, image] = (said.token_ids, said.log_prob_nats)
        return found[beam_size, image]

    return caption


@pytest.mark.benchmark(group="decoder")
@pytest.mark.parametrize("beam_size", [1, 3, 5])
@pytest.mark.parametrize("batch", [1, 16, 64, pytest.param(256, marks=pytest.mark.gpu)])
def test_decode_by_tutorial_rules(benchmark, measure, full_size, annotations, literal, batch, beam_size):
    """Says the same as the literal search, image by image."""
    if batch > len(annotations):
        pytest.skip("256 images at once are for CUDA devices")
    said = decode(benchmark, measure, full_size, annotations[:batch], beam_size, "tutorial")
    expected = [literal(beam_size, image) for image in range(batch)]
    benchmark.extra_info["captions_checked"] = batch
    benchmark.extra_info["near_ties"] = near_ties(expected, said)
    if measure.device.type == "cuda" and batch == 64:
        on_cpu = full_size_on_cpu_says(full_size, annotations[:batch], beam_size)
        benchmark.extra_info["near_ties_with_cpu"] = near_ties(on_cpu, said)
    if measure.device.type == "cpu" and batch == 64 and beam_size == 5:
        command = [sys.executable, "-m", "bench.throughput.peak_memory", str(batch), str(beam_size)]
        peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        benchmark.extra_info["peak_memory_bytes"] = peak
        assert peak <= MEMORY_LIMIT_BYTES


@pytest.mark.benchmark(group="decoder")
@pytest.mark.parametrize("beam_size", [1, 3, 5])
def test_decode_by_default_rules(benchmark, measure, full_size, annotations, beam_size):
    """Length normalisation and unfinished hypotheses kept; beside the same literal search."""
    decode(benchmark, measure, full_size, annotations[:16], beam_size, "default")


def decode(benchmark, measure, captioner, annotations, beam_size, rules):
    """Times a batched search; returns token ids and raw score of each image."""
    sizes = {"cells": annotations.shape[1], "images": len(annotations)}
    config = captioner.decoder.config
    work = memory_work(config, **sizes) + search_work(config, beam_size=beam_size, steps=STEPS, **sizes)

    def literally():
        for image in range(LITERAL_IMAGES):
            literal_search(captioner, annotations[image % len(annotations)].unsqueeze(0), beam_size)

    found = measure(
        benchmark,
        lambda: beam_search(captioner, annotations, beam_size, rules=DECODINGS[rules]),
        images=len(annotations),
        words=len(annotations) * WORDS,
        work=work,
        references=[Reference("literal", literally, share=LITERAL_IMAGES / len(annotations))],
    ).result
    assert all(len(best.token_ids) == STEPS for best, *_ in found)
    return [(best.token_ids, best.log_prob_nats) for best, *_ in found]


def full_size_on_cpu_says(captioner, annotations, beam_size):
    device = annotations.device
    try:
        found = beam_search(captioner.cpu(), annotations.cpu(), beam_size, rules=DECODINGS["tutorial"])
    finally:
        captioner.to(device)
    return [(best.token_ids, best.log_prob_nats) for best, *_ in found]
