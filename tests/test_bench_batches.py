"""Batches where memory is short: for real, in a process that may take no more."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from bench import memory
from bench.batches import (
    MOST_IMAGES,
    AtOnce,
    auto_batch_size,
    bytes_per_image,
    fitted,
    in_batches,
    is_out_of_memory,
)
from bench.config import DEMO_CHECKPOINT, EvalConfig, SearchConfig
from bench.errors import ConfigError
from models.formats import load_checkpoint

ROOT = Path(__file__).parents[1]
DECODE = """
    import json, resource, sys
    sys.path.insert(0, {root!r})
    import torch
    from bench.batches import in_batches
    from models.beam import beam_search
    from models.captioner import Captioner
    from models.decoder import DecoderConfig
    from models.encoder import EncoderConfig
    from models.preprocessing import Preprocessing
    from models.vocabulary import Vocabulary

    words = ("<pad>", "<start>", "<end>", "<unk>", *(f"word{{n}}" for n in range(10_000)))
    sizes = DecoderConfig(len(words), 80, embedding_dim=16, hidden_dim=16, attention_dim=16)
    torch.manual_seed(0)
    captioner = Captioner(
        EncoderConfig("scenes", 4), sizes, Vocabulary(words, 0, 1, 2, 3), Preprocessing(size=32)
    ).eval()
    pictures = torch.randn(200, 3, 32, 32)
    calls = []

    @torch.no_grad()
    def decode(numbers):
        calls.append(list(numbers))
        found = beam_search(captioner, captioner.encode(pictures[calls[-1]]), 5, max_steps=4)
        return [(number, best.token_ids) for number, (best, *_) in zip(numbers, found)]

    before = [row for batch in in_batches(range(200), 4, decode) for row in batch]
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + {room}, resource.RLIM_INFINITY))
    calls.clear()
    after = [row for batch in in_batches(range(200), 200, decode) for row in batch]
    print(json.dumps([before == after, calls]))
"""


def no_room() -> None:
    """Takes more memory than any machine has."""
    torch.empty(2**60, dtype=torch.uint8)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process")
def test_a_batch_that_does_not_fit_into_memory_is_decoded_in_halves_with_the_same_captions():
    program = textwrap.dedent(DECODE).format(root=str(ROOT), room=100 << 20)
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    same, calls = json.loads(done.stdout)
    assert same
    said = [line for line in done.stderr.splitlines() if "out of memory" in line]
    assert said[0] == "out of memory with 200 images at once; going on with 100"
    sizes = [len(call) for call in calls]
    assert sizes[: len(said) + 1] == [200 >> n for n in range(len(said) + 1)]
    finished = [number for call in calls[len(said) :] for number in call]
    assert finished == list(range(200))


def test_what_was_yielded_is_not_computed_again_and_batches_stay_small(capsys):
    calls = []

    def compute(items):
        calls.append(list(items))
        if 7 in items and len(items) > 2:
            no_room()
        return sum(items)

    assert list(in_batches(range(12), 5, compute)) == [10, 11, 15, 19, 11]
    assert calls == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [5, 6], [7, 8], [9, 10], [11]]
    assert capsys.readouterr().err == "out of memory with 5 images at once; going on with 2\n"


@pytest.mark.parametrize("take", [no_room, lambda: bytearray(2**62)], ids=["torch", "Python"])
def test_where_one_image_is_too_much_the_cure_is_said(take):
    with pytest.raises(ConfigError, match=r"^out of memory with 1 image at once .*--beam-size"):
        list(in_batches([1, 2, 3], 3, lambda _: take()))


def test_where_memory_was_short_the_next_items_begin_in_small_batches():
    calls = []

    def compute(items):
        calls.append(len(items))
        if len(items) > 3:
            no_room()
        return sum(items)

    at_once = AtOnce(6)
    assert at_once.compute(range(2), compute) == [1]
    assert at_once.compute(range(6), compute) == [3, 12]
    assert at_once.compute(range(4), compute) == [3, 3]
    assert at_once.compute([], compute) == []
    assert calls == [2, 6, 3, 3, 3, 1]


def test_a_smallest_size_is_kept(capsys):
    with pytest.raises(ConfigError, match="with 3 images"):
        list(in_batches(range(9), 9, lambda _: no_room(), smallest=3))
    assert capsys.readouterr().err.splitlines()[-1].endswith("going on with 3")


def test_a_short_last_batch_is_halved_by_its_own_size():
    sizes = []

    def compute(items):
        sizes.append(len(items))
        if 9 in items and len(items) > 1:
            no_room()

    list(in_batches(range(10), 8, compute))
    assert sizes == [8, 2, 1, 1]


def test_an_error_of_another_kind_is_no_lack_of_memory():
    layer = torch.nn.Linear(3, 2).eval()
    with torch.no_grad(), pytest.raises(RuntimeError) as wrong:
        torch.ops.mkldnn._linear_pointwise(torch.zeros(4, 5), layer.weight, layer.bias, "none", [], "")
    assert not is_out_of_memory(wrong.value)
    assert not is_out_of_memory(ValueError("out of memory"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        list(in_batches(range(4), 4, lambda items: torch.zeros(len(items), 5) @ torch.zeros(3, 2)))


@pytest.fixture(scope="module")
def captioner():
    return load_checkpoint(DEMO_CHECKPOINT).captioner


@pytest.fixture
def free(monkeypatch, tmp_path):
    """Sets how much memory the system says that is available; before, it says nothing."""
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    return lambda size: (tmp_path / "meminfo").write_text(f"MemAvailable: {size // 1024} kB\n")


def test_the_batch_size_follows_the_memory(captioner, free):
    each = bytes_per_image(captioner, 5)
    assert auto_batch_size(captioner, (1, 3, 5)) == MOST_IMAGES["cpu"]
    for size, expected in ((0, 1), (each, 1), (20.5 * each, 10), (1e12, MOST_IMAGES["cpu"])):
        free(int(size))
        assert auto_batch_size(captioner, (1, 3, 5)) == expected


def test_an_image_takes_about_as_much_memory_as_is_counted(captioner):
    """Counted with the numbers of one step, its picture, and its annotation vectors, and no more than twice that."""
    config, cells = captioner.decoder.config, 14 * 14
    least = 3 * 112**2 + cells * (config.annotation_dim + config.attention_dim)
    least += 5 * (config.vocabulary_size + config.annotation_dim + 6 * config.hidden_dim)
    assert 4 * least < bytes_per_image(captioner, 5)
    assert bytes_per_image(captioner, 10) > bytes_per_image(captioner, 5) > bytes_per_image(captioner, 1)


def test_a_size_that_is_given_counts(captioner, free):
    free(10 * bytes_per_image(captioner, 3) + 4096)
    given = EvalConfig(batch_size=7)
    assert fitted(given, captioner) is given
    found = fitted(EvalConfig(search=SearchConfig(beam_sizes=(3, 1))), captioner)
    assert found.batch_size == 5
