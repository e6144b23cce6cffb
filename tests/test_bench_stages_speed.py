"""The speed probe on the demo: counts against formulas, ratios against slowdowns that were put in, and its manners."""

import gc
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median

import pytest
import torch
from torch.nn import functional

import models
from bench.config import DEMO_CHECKPOINT
from bench.data.base import CaptionedImage
from bench.data.scenes import make_scene
from bench.errors import DataError
from bench.stages import speed as stage
from bench.stages.speed import DecoderKernels, EncoderKernels, count_work, measure_speed
from bench.throughput.floor import encoder_work, memory_work, step_work
from models.beam import DECODINGS, beam_search
from models.captioner import Captioner
from models.decoder import AttentionDecoder, DecoderConfig
from models.encoder import EncoderConfig
from models.formats import load_checkpoint
from models.preprocessing import Preprocessing
from models.vocabulary import Vocabulary
from reports.records import from_json
from reports.speed import SpeedRecord

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def captioner():
    return load_checkpoint(DEMO_CHECKPOINT).captioner


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    drawn = []
    for number in range(4):
        path = folder / f"{number}.png"
        make_scene("test", number).picture().save(path)
        drawn.append(CaptionedImage(str(number), (), "test", path))
    return drawn


@pytest.fixture
def measure(captioner, images):
    """`measure(...)`: the rows by name, of the demo unless another captioner or other pictures are given."""

    def rows(model=captioner, pictures=images, beam_size=3, rounds=3, max_steps=None):
        record = measure_speed(
            model,
            pictures,
            beam_size=beam_size,
            rules=DECODINGS["default"],
            max_steps=max_steps,
            rounds=rounds,
        )
        return {row.name: row for row in record.rows}

    return rows


@pytest.fixture
def patched_step(monkeypatch):
    """`patched_step(extra)`: from then on, every step is followed by `extra(step, seconds it took)`."""
    original = AttentionDecoder.step

    def patch(extra):
        def step(self, words, state, memory):
            begun = time.perf_counter()
            result = original(self, words, state, memory)
            extra(lambda: original(self, words, state, memory), time.perf_counter() - begun)
            return result

        monkeypatch.setattr(AttentionDecoder, "step", step)

    return patch


# ---- what is recorded -----------------------------------------------------------------------------------


def test_a_record_names_the_machine_and_survives_json(captioner, images):
    record = measure_speed(
        captioner, images, beam_size=2, rules=DECODINGS["default"], max_steps=None, rounds=2
    )
    assert record.device == "cpu"
    assert record.threads == 1
    assert record.torch == torch.__version__
    assert record.processor
    assert from_json(SpeedRecord, json.loads(json.dumps(asdict(record))), "speed") == record


def test_every_benchmark_has_as_many_rounds_as_were_asked_for_on_both_clocks(measure):
    rows = measure(rounds=4)
    assert list(rows) == ["encode", "decode", "step"]
    for row in rows.values():
        assert len(row.cpu_ratios) == len(row.wall_ratios) == 4
        assert min(row.cpu_ratios + row.wall_ratios) > 0
    assert rows["encode"].sizes == {"images": 4}
    assert rows["decode"].sizes == rows["step"].sizes == {"images": 4, "beam_size": 3}


def test_a_step_takes_part_of_the_time_of_decoding(measure):
    rows = measure()
    for clock in ("cpu_ratios", "wall_ratios"):
        whole, part = getattr(rows["decode"], clock), getattr(rows["step"], clock)
        assert all(part < whole for part, whole in zip(part, whole, strict=True))


# ---- counts ---------------------------------------------------------------------------------------------


def test_counts_and_captions_are_the_same_every_time(measure):
    first, second = measure(), measure()
    for name, row in first.items():
        assert row.exact == second[name].exact
        assert row.captions_sha256 == second[name].captions_sha256
    assert first["encode"].captions_sha256 is None
    assert first["decode"].captions_sha256 == first["step"].captions_sha256


def test_larger_beams_take_more(measure):
    small, large = measure(beam_size=2, rounds=1), measure(beam_size=5, rounds=1)
    assert all(large["decode"].exact[name] > count for name, count in small["decode"].exact.items())
    assert small["encode"].exact == large["encode"].exact


def test_counts_are_those_of_the_shapes(captioner, images, measure, monkeypatch):
    exact = {name: row.exact for name, row in measure(rounds=1).items()}
    pixels = torch.stack([captioner.preprocessing(image.picture()) for image in images])
    calls, step = [], captioner.decoder.step

    def noted(words, state, memory):
        calls.append((len(memory.annotations), len(state.hidden) // len(memory.annotations)))
        return step(words, state, memory)

    monkeypatch.setitem(vars(captioner.decoder), "step", noted)
    with torch.no_grad():
        annotations = captioner.encode(pixels)
    beam_search(captioner, annotations, 3, rules=DECODINGS["default"])
    config, cells = captioner.decoder.config, annotations.shape[1]
    flops = memory_work(config, cells=cells, images=4).flops
    flops += sum(step_work(config, cells=cells, images=n, beams=beams).flops for n, beams in calls)
    assert exact["decode"]["flops"] == flops
    assert exact["decode"]["decoder_steps"] == exact["step"]["decoder_steps"]
    assert exact["decode"]["decoder_steps"] == sum(n * beams for n, beams in calls)
    assert exact["encode"]["flops"] == encoder_work(captioner.encoder, tuple(pixels.shape)).flops


def test_products_of_every_kind_are_counted_by_their_definition():
    rows, matrix = torch.ones(3, 5), torch.ones(5, 7)
    images, kernel = torch.ones(2, 4, 8, 8), torch.ones(6, 4, 3, 3)
    packed = torch.ops.mkldnn._reorder_linear_weight(matrix.T.contiguous(), 16)
    products = {
        lambda: rows @ matrix: 2 * 3 * 5 * 7,
        lambda: functional.linear(rows, matrix.T, torch.ones(7)): 2 * 3 * 5 * 7,
        lambda: torch.ops.mkldnn._linear_pointwise(rows, packed, None, "none", [], ""): 2 * 3 * 5 * 7,
        lambda: torch.bmm(rows.expand(2, 3, 5), matrix.expand(2, 5, 7)): 2 * 2 * 3 * 5 * 7,
        lambda: functional.conv2d(images, kernel, padding=1): 2 * 2 * 6 * 8 * 8 * 4 * 3 * 3,
        lambda: torch.mkldnn_convolution(images, kernel, None, (1, 1), (2, 2), (1, 1), 1): (
            2 * 2 * 6 * 4 * 4 * 4 * 3 * 3
        ),
        lambda: rows.tanh() + 1: 0,
    }
    with torch.no_grad():
        assert [count_work(task, CPU)["flops"] for task in products] == list(products.values())


def test_peak_bytes_are_those_of_what_is_alive_at_once():
    kept = torch.ones(1000)

    def task():
        first = torch.ones(100)  # 400 bytes
        second = first + 1  # 800
        del first  # 400
        views = second.view(10, 10).T, kept.view(10, 100)[3:]  # nothing new
        third = torch.cat([second, second])  # 1,200
        del second, views, third  # 0
        kept.mul_(1)
        return torch.ones(50).add_(1)  # 200

    assert count_work(task, CPU)["peak_bytes"] == 1200


def test_a_decoder_that_computes_a_step_again_takes_more_flops(measure, patched_step):
    before = measure(rounds=1)["decode"]
    patched_step(lambda step, _: step())
    after = measure(rounds=1)["decode"]
    assert after.exact["flops"] > 1.9 * before.exact["flops"]
    assert after.exact["decoder_steps"] == before.exact["decoder_steps"]
    assert after.captions_sha256 == before.captions_sha256


# ---- times ----------------------------------------------------------------------------------------------


def test_a_decoder_that_computes_every_step_three_times_takes_longer_by_both_clocks(measure, patched_step):
    before = measure(rounds=7)
    patched_step(lambda step, _: (step(), step()))
    after = measure(rounds=7)
    for clock in ("cpu_ratios", "wall_ratios"):
        assert median(getattr(after["step"], clock)) > 1.7 * median(getattr(before["step"], clock))
        assert median(getattr(after["decode"], clock)) > 1.3 * median(getattr(before["decode"], clock))


def test_a_decoder_that_sleeps_takes_longer_by_the_wall_clock_alone(measure, patched_step):
    patched_step(lambda _, seconds: time.sleep(2 * seconds))
    step = measure(rounds=5)["step"]
    assert median(step.wall_ratios) > 1.7 * median(step.cpu_ratios)


def test_the_reference_runs_none_of_the_product(captioner):
    """Else it would get slower and faster with it."""
    annotations = torch.zeros(2, 196, captioner.decoder.config.annotation_dim)
    with torch.no_grad():
        decoder = DecoderKernels(captioner.decoder.config, annotations, 3)
        encoder = EncoderKernels(captioner.encoder, torch.zeros(2, 3, 112, 112))
    files = set()
    sys.setprofile(lambda frame, *_: files.add(frame.f_code.co_filename))
    try:
        decoder.begin()
        decoder.step(6, 2)
        encoder.encode()
    finally:
        sys.setprofile(None)
    product = Path(models.__file__).parent
    assert stage.__file__ in files
    assert not [name for name in files if Path(name).is_relative_to(product)]


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"attention_activation": "relu", "initial_state": "linear", "gate": "vector"},
        {"gate": "none", "initial_state": "zero", "output": "deep", "first_input": "zeros"},
    ],
)
def test_every_decoder_can_be_measured(images, measure, choices):
    words = ("<pad>", *"abcdefgh", "<unk>", "<start>", "<end>")
    vocabulary = Vocabulary(words, pad=0, unk=9, start=10, end=11)
    sizes = {"embedding_dim": 8, "hidden_dim": 12, "attention_dim": 6, "dropout": 0.0}
    config = DecoderConfig(len(words), 80, **sizes, **choices)
    model = Captioner(EncoderConfig("scenes", 14), config, vocabulary, Preprocessing(size=112)).eval()
    rows = measure(model, rounds=1, max_steps=4, beam_size=20)
    assert rows["decode"].exact["flops"] > 0


def test_of_a_large_encoder_fewer_images_are_taken(images, measure, monkeypatch, captioner):
    pixels = torch.stack([captioner.preprocessing(image.picture()) for image in images[:1]])
    with torch.no_grad():
        flops = count_work(lambda: captioner.encode(pixels), CPU)["flops"]
    monkeypatch.setattr(stage, "ENCODED_FLOPS", 0.5 * flops)
    monkeypatch.setattr(stage, "DECODED_FLOPS", 2.5 * flops)
    rows = measure(rounds=1)
    assert [row.sizes["images"] for row in rows.values()] == [1, 2, 2]


# ---- manners --------------------------------------------------------------------------------------------


def test_pictures_that_cant_be_read_are_passed_over(images, measure, tmp_path):
    broken = CaptionedImage("broken", (), "test", tmp_path / "nothing.png")
    rows = measure(pictures=[broken, *images], rounds=1)
    assert rows["decode"].sizes["images"] == 4
    assert rows["decode"].captions_sha256 == measure(rounds=1)["decode"].captions_sha256
    with pytest.raises(DataError, match="not one of the first 2 pictures"):
        measure(pictures=[broken, broken])


def test_the_decoder_and_the_process_are_left_as_they_were(captioner, measure, monkeypatch):
    def broken(words, state, memory):
        raise RuntimeError("a step failed")

    attributes, threads = dict(vars(captioner.decoder)), torch.get_num_threads()
    measure(rounds=1)
    assert vars(captioner.decoder) == attributes
    monkeypatch.setitem(vars(captioner.decoder), "step", broken)
    with pytest.raises(RuntimeError, match="a step failed"):
        measure(rounds=1)
    assert captioner.decoder.step is broken
    assert gc.isenabled()
    assert torch.get_num_threads() == threads
