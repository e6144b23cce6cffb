"""From picture files to captions, as `gazebench eval` decodes: every beam size in one pass over the pictures."""

import itertools
from operator import truediv
from statistics import median

import pytest
import torch

from bench.data.base import CaptionedImage
from bench.data.scenes import make_scene
from bench.stages.decode import decode
from bench.throughput.floor import encoder_work, memory_work, search_work
from bench.throughput.full_size import STEPS, WORDS, write_pictures
from bench.throughput.literal import literal_search
from bench.throughput.measuring import Reference, near_ties
from models.beam import DECODINGS
from reports.store import RunStore

BEAM_SIZES = (1, 3, 5)
PICTURES = 16
CAPTIONS_PER_IMAGE = 5
"""The tutorial evaluates every image once for each of its reference captions."""


@pytest.fixture
def sweep(tmp_path):
    """`sweep(captioner, images)` decodes into a new run directory and returns the rows of captions.jsonl."""
    numbers = itertools.count()

    def run(captioner, images):
        store = RunStore(tmp_path / f"run-{next(numbers)}")
        decode(
            captioner,
            images,
            store,
            beam_sizes=BEAM_SIZES,
            batch_size=PICTURES,
            rules=DECODINGS["tutorial"],
            begin=lambda: None,
        )
        return store.read_captions()

    return run


@pytest.mark.benchmark(group="end to end")
def test_files_to_captions(benchmark, measure, full_size, plain_encoder, sweep, tmp_path):
    """A sweep of beam sizes 1, 3 and 5 with ResNet-101, beside the tutorial's procedure for the same figures.

    The procedure: for every beam size and each of five captions per image, the image is encoded again, alone, and
    searched literally. It is timed on one image before each round, once per beam size, and multiplied. Reading the
    files is left out of its time, as the tutorial keeps decoded pictures.
    """
    paths = write_pictures(tmp_path / "pictures", PICTURES)
    images = [CaptionedImage(path.name, ("a picture",), "test", path) for path in paths]
    pixels = torch.stack([full_size.preprocessing(image.picture()) for image in images]).to(measure.device)
    upcoming, literal = itertools.cycle(range(PICTURES)), {}

    @torch.no_grad()
    def procedure():
        image = next(upcoming)
        for beam_size in BEAM_SIZES:
            features = plain_encoder(pixels[image : image + 1])
            caption = literal_search(full_size, features.flatten(2).transpose(1, 2), beam_size)
            literal[images[image].image_id, beam_size] = caption.token_ids, caption.log_prob_nats

    @torch.no_grad()
    def encode():
        full_size.encode(pixels)

    config, sizes = full_size.decoder.config, {"cells": 14 * 14, "images": PICTURES}
    decoding = memory_work(config, **sizes)
    for beam_size in BEAM_SIZES:
        decoding += search_work(config, beam_size=beam_size, steps=STEPS, **sizes)
    measured = measure(
        benchmark,
        lambda: sweep(full_size, images),
        images=PICTURES,
        words=PICTURES * WORDS * len(BEAM_SIZES),
        work=encoder_work(full_size.encoder, tuple(pixels.shape)) + decoding,
        references=[
            Reference("literal", procedure, share=1 / (PICTURES * CAPTIONS_PER_IMAGE)),
            Reference("encoder", encode),
        ],
        rounds=3,
    )
    bounds = [
        encoder + rates.floor_seconds(decoding)
        for encoder, rates in zip(measured.references["encoder"], measured.rates, strict=True)
    ]
    share = median(map(truediv, bounds, measured.seconds))
    benchmark.extra_info["ratio_to_encoder_and_decoding_floor"] = share
    said = {(row.image_id, row.beam_size): (row.token_ids, row.log_prob_nats) for row in measured.result}
    assert len(said) == PICTURES * len(BEAM_SIZES)
    ties = near_ties(list(literal.values()), [said[key] for key in literal])
    benchmark.extra_info["captions_checked"] = len(literal)
    benchmark.extra_info["near_ties"] = [image_id for image_id, _ in (list(literal)[tie] for tie in ties)]


@pytest.mark.benchmark(group="end to end")
def test_four_times_the_pictures(benchmark, measure, demo, sweep):
    """256 scenes with the demo model, beside 64 of them: an image costs the same in a large data set."""
    scenes = [make_scene("test", index) for index in range(256)]
    few = scenes[:64]
    measured = measure(
        benchmark,
        lambda: sweep(demo, scenes),
        images=len(scenes),
        references=[Reference("quarter", lambda: sweep(demo, few), share=len(few) / len(scenes))],
    )
    assert len(measured.result) == len(scenes) * len(BEAM_SIZES)
