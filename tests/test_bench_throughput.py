"""The throughput suite's own parts: the reference is right, the floor counts right, and the suite runs."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench.throughput.floor import (
    Rates,
    Work,
    Yardstick,
    encoder_work,
    memory_work,
    search_work,
    step_work,
)
from bench.throughput.full_size import end_captions_at, random_annotations, write_pictures
from bench.throughput.literal import literal_search
from bench.throughput.measuring import NEAR_TIE_NATS, near_ties
from models.beam import DECODINGS, beam_search
from models.captioner import Captioner
from models.decoder import DecoderConfig
from models.encoder import EncoderConfig, build_encoder
from models.preprocessing import Preprocessing, read_picture
from models.vocabulary import Vocabulary
from reports.throughput import read_benchmarks

WORDS = ("<pad>", "<start>", "<end>", "<unk>", "a", "b", "c")
SMALL = {"embedding_dim": 8, "hidden_dim": 12, "attention_dim": 6}
TUTORIAL = DecoderConfig(
    len(WORDS), 80, attention_activation="relu", initial_state="linear", gate="vector", **SMALL
)
DECODERS = {
    "tutorial": TUTORIAL,
    "paper": replace(
        TUTORIAL,
        attention_activation="tanh",
        initial_state="tanh",
        gate="scalar",
        output="deep",
        first_input="zeros",
    ),
    "plain": replace(TUTORIAL, initial_state="zero", gate="none"),
}


def make_captioner(config, seed=0):
    """Random weights, made so that captions differ and have one to seven words, or don't end."""
    torch.manual_seed(seed)
    vocabulary = Vocabulary(WORDS, pad=0, start=1, end=2, unk=3)
    captioner = Captioner(EncoderConfig("scenes", 3), config, vocabulary, Preprocessing(size=24)).eval()
    decoder = captioner.decoder
    with torch.no_grad():
        for weight, factor in ((decoder.output.weight, 4), (decoder.embedding.weight, 2)):
            weight *= factor
        for weight in (decoder.lstm.weight_ih, decoder.lstm.weight_hh):
            weight *= 4
        decoder.output.bias[vocabulary.end] -= 0.5
        if config is TUTORIAL:
            end_captions_at(decoder, 4, vocabulary.end)
            decoder.output.weight[vocabulary.end, 0] = 4.0  # likely from step 4 on, but no more than that
    return captioner


def make_annotations(captioner, images=1, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        return captioner.encode(torch.randn(images, 3, 24, 24, generator=generator) * 2)


def packed_product(rows, *_, out_shape, **__):
    return 2 * math.prod(out_shape) * rows[-1]


def counting_flops():
    """Torch's counter, told of the product by a rearranged matrix, which it does not know."""
    packed = {torch.ops.mkldnn._linear_pointwise: packed_product}
    return FlopCounterMode(display=False, custom_mapping=packed)


def brute_force(captioner, annotations, beam_size, max_steps):
    """The tutorial's rules in float64: every continuation of every hypothesis is scored from its first word on."""
    captioner, annotations = captioner.double(), annotations.double()
    words = range(len(WORDS))
    live, finished, places = [((), 0.0)], [], beam_size
    for _ in range(max_steps):
        longer = [(*caption, word) for caption, _ in live for word in words]
        rows = annotations.expand(len(longer), -1, -1)
        scores = captioner.word_log_probs(rows, torch.tensor(longer)).sum(dim=1).tolist()
        best = sorted(zip(longer, scores, strict=True), key=lambda item: -item[1])[:places]
        finished += [item for item in best if item[0][-1] == captioner.vocabulary.end]
        live = [item for item in best if item[0][-1] != captioner.vocabulary.end]
        places = len(live)
        if not live:
            break
    return max(finished, key=lambda item: item[1], default=None)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("beam_size", [1, 2, 3, 5])
@pytest.mark.parametrize("decoder", DECODERS)
@torch.no_grad()
def test_the_literal_search_says_what_a_brute_force_in_float64_says(decoder, beam_size, seed):
    captioner = make_captioner(DECODERS[decoder], seed)
    annotations = make_annotations(captioner)
    said = literal_search(captioner, annotations, beam_size, max_steps=7)
    expected = brute_force(captioner, annotations, beam_size, 7)
    if expected is None:
        assert said is None
        return
    assert said.token_ids == expected[0]
    assert said.log_prob_nats == pytest.approx(expected[1], abs=1e-4)
    forced = captioner.decoder(
        annotations.double(), torch.tensor([said.token_ids]), captioner.vocabulary.start
    )
    torch.testing.assert_close(said.alphas.double(), forced.alphas[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("decoder", DECODERS)
def test_these_searches_are_no_trivial_ones(decoder):
    captioners = [make_captioner(DECODERS[decoder], seed) for seed in range(4)]
    said = {
        found.token_ids
        for captioner in captioners
        for beam_size in (1, 3)
        if (found := literal_search(captioner, make_annotations(captioner), beam_size, max_steps=7))
    }
    assert len(said) >= 3
    assert max(map(len, said)) >= 3


@torch.no_grad()
def test_the_literal_search_gives_up_where_nothing_ends_and_may_say_special_tokens():
    captioner = make_captioner(TUTORIAL)
    captioner.decoder.output.bias[captioner.vocabulary.end] = -1e4
    annotations = make_annotations(captioner)
    assert literal_search(captioner, annotations, 3, max_steps=5) is None
    end_captions_at(captioner.decoder, 4, captioner.vocabulary.end)
    captioner.decoder.output.bias[captioner.vocabulary.pad] = 30.0
    said = literal_search(captioner, annotations, 3)
    assert said.token_ids == (0, 0, 0, 2)


@pytest.mark.parametrize("steps", [1, 2, 12, 40])
@torch.no_grad()
def test_captions_end_at_the_step_that_was_asked_for_in_every_search(steps):
    captioner = make_captioner(TUTORIAL)
    annotations = make_annotations(captioner, 3)
    end_captions_at(captioner.decoder, steps, captioner.vocabulary.end)
    for beam_size in (1, 3, 5):
        for rules in DECODINGS.values():
            for (best, *_), image in zip(
                beam_search(captioner, annotations, beam_size, rules=rules), annotations, strict=True
            ):
                assert best.finished
                assert len(best.token_ids) == steps
                said = literal_search(captioner, image.unsqueeze(0), beam_size)
                assert len(said.token_ids) == steps


@torch.no_grad()
def test_the_counting_unit_changes_nothing_but_when_a_caption_ends():
    captioner = make_captioner(TUTORIAL)
    annotations = make_annotations(captioner)
    decoder, words = (
        captioner.decoder,
        [word for word in range(len(WORDS)) if word != captioner.vocabulary.end],
    )
    scores = []
    for steps in (5, 9):
        end_captions_at(decoder, steps, captioner.vocabulary.end)
        log_probs = decoder(annotations, torch.tensor([[4, 5, 6]]), captioner.vocabulary.start).log_probs
        scores.append(log_probs[..., words])
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("decoder", DECODERS)
@torch.no_grad()
def test_the_floor_counts_the_flops_that_torch_counts(decoder, images, beams):
    captioner = make_captioner(DECODERS[decoder])
    annotations = make_annotations(captioner, images)
    sizes = {"cells": annotations.shape[1], "images": images}
    with counting_flops() as counted:
        memory = captioner.decoder.remember(annotations)
        state = captioner.decoder.initial_state(annotations)
    assert memory_work(captioner.decoder.config, **sizes).flops == counted.get_total_flops()
    state = type(state)(*(part.repeat_interleave(beams, dim=0) for part in state))
    with counting_flops() as counted:
        captioner.decoder.step(torch.zeros(images * beams, dtype=torch.long), state, memory)
    assert step_work(captioner.decoder.config, beams=beams, **sizes).flops == counted.get_total_flops()


@pytest.mark.parametrize("beam_size", [1, 3])
@torch.no_grad()
def test_a_beam_search_multiplies_just_what_the_floor_counts(beam_size):
    captioner = make_captioner(TUTORIAL)
    annotations = make_annotations(captioner, 4)
    end_captions_at(captioner.decoder, 6, captioner.vocabulary.end)
    with counting_flops() as counted:
        beam_search(captioner, annotations, beam_size, rules=DECODINGS["tutorial"])
    sizes = {"cells": annotations.shape[1], "images": 4}
    work = memory_work(TUTORIAL, **sizes) + search_work(TUTORIAL, beam_size=beam_size, steps=6, **sizes)
    assert counted.get_total_flops() == work.flops


@pytest.mark.parametrize(("name", "size"), [("scenes", 112), ("resnet18", 64), ("resnet101", 64)])
def test_an_encoders_floor_counts_the_flops_that_torch_counts(name, size):
    with torch.device("meta"):
        encoder = build_encoder(EncoderConfig(name, 14)).eval().to("meta")
    with counting_flops() as counted:
        encoder(torch.empty(2, 3, size, size, device="meta"))
    assert encoder_work(encoder, (2, 3, size, size)).flops == counted.get_total_flops()


def test_an_encoders_bytes_are_what_its_layers_read_and_write():
    layer = nn.Conv2d(3, 8, kernel_size=5, padding=2, bias=False)
    moved = 2 * 3 * 10 * 12 + 8 * 3 * 5 * 5 + 2 * 8 * 10 * 12
    assert encoder_work(nn.Sequential(layer, nn.ReLU()), (2, 3, 10, 12)).bytes == 4 * moved
    assert encoder_work(nn.Sequential(layer, nn.ReLU()), (2, 3, 10, 12), itemsize=2).bytes == 2 * moved


def test_one_step_moves_every_weight_once_however_many_captions_share_it():
    captioner = make_captioner(TUTORIAL)
    decoder, cells = captioner.decoder, 9
    used = (decoder.hidden_projection, decoder.gate, decoder.output)
    weights = sum(layer.weight.numel() for layer in used)
    weights += decoder.lstm.weight_ih.numel() + decoder.lstm.weight_hh.numel()
    memory = decoder.remember(make_annotations(captioner))
    per_image = memory.annotations.numel() + memory.projected.numel()
    for images, beams in ((1, 1), (1, 5), (7, 5)):
        expected = weights + images * per_image + 2 * images * beams * len(WORDS)
        work = step_work(TUTORIAL, cells=cells, images=images, beams=beams)
        assert work.bytes == 4 * expected


def test_the_floor_is_the_slower_of_multiplying_and_moving():
    rates = Rates(flops_per_second=100.0, bytes_per_second=10.0)
    assert rates.floor_seconds(Work(flops=1000, bytes=10)) == 10.0
    assert rates.floor_seconds(Work(flops=1000, bytes=500)) == 50.0
    assert Work(1, 2) + Work(10, 20) * 3 == Work(31, 62)


def test_a_product_and_a_copy_take_the_time_that_their_rates_say():
    yardstick = Yardstick(torch.device("cpu"))
    rates = yardstick.read()
    assert rates.flops_per_second > 1e8
    assert rates.bytes_per_second > 1e8


def test_captions_that_differ_are_near_ties_only_if_their_scores_do_not():
    expected = [((4, 2), -1.0), ((5, 2), -2.0)]
    assert near_ties(expected, expected) == []
    assert near_ties(expected, [((4, 2), -1.0), ((6, 2), -2.0 + NEAR_TIE_NATS / 2)]) == [1]
    with pytest.raises(AssertionError, match="image 1"):
        near_ties(expected, [((4, 2), -1.0), ((6, 2), -2.0 + 2 * NEAR_TIE_NATS)])
    with pytest.raises(ValueError, match="shorter"):
        near_ties(expected, expected[:1])


def test_inputs_are_the_same_every_time_and_differ_between_images(tmp_path):
    annotations = random_annotations(2)
    assert torch.equal(annotations[:1], random_annotations(1))
    assert not torch.equal(annotations[0], annotations[1])
    assert annotations.shape == (2, 196, 2048)
    assert (annotations >= 0).all()
    first, second = (write_pictures(tmp_path / name, 2) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert read_picture(first[0]).size == (640, 480)
    assert 30_000 < first[0].stat().st_size < 300_000  # as photographs of this size have


CLOCK = """
elapsed = [0.0]

def work(seconds):
    elapsed[0] += seconds

def now():
    return elapsed[0]
"""
TIMED = """
import itertools, types
import pytest, torch
from bench.throughput import clock as bench_clock, floor
from bench.throughput.measuring import Measure, Reference
from clock import now, work

@pytest.mark.benchmark(group="timed")
def test_timed(benchmark, monkeypatch):
    monkeypatch.setattr(bench_clock, "time", types.SimpleNamespace(process_time=now))
    monkeypatch.setattr(floor.Yardstick, "read", lambda self: floor.Rates(1000.0, 10.0))
    taken = itertools.chain([50.0], itertools.cycle([2.0, 4.0, 8.0]))  # the warm-up takes longest
    rounds = Measure(torch.device("cpu"))(
        benchmark,
        lambda: work(next(taken)),
        images=8,
        words=40,
        work=floor.Work(flops=3000, bytes=20),
        references=[Reference("literal", lambda: work(5.0), share=0.25)],
        rounds=3,
        prepare=lambda: work(1000.0),
    )
    assert rounds.seconds == [2.0, 4.0, 8.0]
"""


def run_pytest(folder, *options):
    """Runs pytest in a process of its own and returns what pytest-benchmark stored."""
    stored = folder / "benchmarks.json"
    # What this process tells its children about itself would make pytest-benchmark measure nothing.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n0",
        "-p",
        "no:cacheprovider",
        "--benchmark-json",
        stored,
    ]
    subprocess.run(
        [*command, *options],
        check=True,
        env=environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)},
        cwd=Path(__file__).parents[1],
    )
    return json.loads(stored.read_bytes())


@pytest.mark.slow
def test_each_round_is_held_against_its_own_readings_by_the_clock(tmp_path):
    (tmp_path / "clock.py").write_text(CLOCK)
    (tmp_path / "test_timed.py").write_text(TIMED)
    (timed,) = run_pytest(tmp_path, "--benchmark-timer=clock.now", tmp_path / "test_timed.py")["benchmarks"]
    info = timed["extra_info"]
    assert timed["stats"]["median"] == 4.0
    assert info["images_per_second"] == 2.0
    assert (info["words_per_second"], info["ms_per_word"]) == (10.0, 100.0)
    assert info["floor_seconds"] == 3.0
    assert info["floor_fraction"] == 0.75
    assert info["ratio_to_literal"] == 20.0 / 4.0


@pytest.mark.slow
def test_the_suite_runs_and_stores_what_a_reader_needs(tmp_path):
    content = run_pytest(tmp_path, "bench/throughput", "-k", "scenes or read_pictures")
    benchmarks = {item["name"]: item["extra_info"] for item in content["benchmarks"]}
    scenes = benchmarks["test_encode_scenes[cpu]"]
    assert scenes["images_per_second"] > 0
    assert 0 < scenes["floor_fraction"] < 2
    assert benchmarks["test_read_pictures"]["images_per_second"] > 0
    assert content["machine_info"]["throughput"]["threads"] == 1
    assert "node" not in content["machine_info"]
    assert [row.name for row in read_benchmarks(tmp_path / "benchmarks.json").rows] == list(benchmarks)
