"""Throughput of the demo model, stage by stage: `tox -e bench`.

Absolute times of a shared machine prove nothing, so every run also times a reference kernel of fixed work; compare
runs by the ratio of the two. Threads are pinned to one. On a machine with a CUDA device each benchmark runs there too.
"""

import pytest
import torch

from bench.config import DEMO_CHECKPOINT
from bench.data.scenes import make_scene
from explain.methods import METHODS, ExplainedCaption
from models.beam import beam_search
from models.formats import load_captioner

BATCH = 16
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(scope="module", params=DEVICES)
def loaded(request):
    torch.set_num_threads(1)
    captioner, _ = load_captioner(DEMO_CHECKPOINT)
    captioner.to(request.param)
    pictures = [make_scene("test", index).picture() for index in range(BATCH)]
    images = torch.stack([captioner.preprocessing(picture) for picture in pictures]).to(request.param)
    with torch.no_grad():
        return captioner, images, captioner.encode(images)


def measure(benchmark, loaded, work, images):
    """Times `work` and stores what a reader needs to judge it."""
    device = loaded[0].device

    def finished():
        result = work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return result

    result = benchmark.pedantic(finished, rounds=7, warmup_rounds=2)
    seconds = benchmark.stats.stats.median
    benchmark.extra_info.update(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu, 1 thread",
        images=images,
        images_per_second=images / seconds,
    )
    return result


def test_reference_kernel(benchmark, loaded):
    """A fixed amount of matrix work, to divide the other times by."""
    square = torch.randn(256, 256, device=loaded[0].device, generator=None)

    def work():
        product = square
        for _ in range(20):
            product = torch.tanh(product @ square)
        return product

    measure(benchmark, loaded, work, 1)


def test_encode(benchmark, loaded):
    captioner, images, _ = loaded
    with torch.no_grad():
        measure(benchmark, loaded, lambda: captioner.encode(images), BATCH)


@pytest.mark.parametrize("beam_size", [1, 3, 5])
def test_decode(benchmark, loaded, beam_size):
    captioner, _, annotations = loaded
    hypotheses = measure(benchmark, loaded, lambda: beam_search(captioner, annotations, beam_size), BATCH)
    assert all(hypothesis.finished for hypothesis in hypotheses)
    benchmark.extra_info["words"] = sum(len(hypothesis.token_ids) for hypothesis in hypotheses)


@pytest.mark.parametrize(
    "name", [method.name for method in METHODS.values() if method.kind in ("grid", "pixels")]
)
def test_explain(benchmark, loaded, name):
    captioner, images, annotations = loaded
    (hypothesis,) = beam_search(captioner, annotations[:1], 5)
    caption = ExplainedCaption(
        captioner=captioner,
        image=images[0],
        annotations=annotations[0],
        token_ids=hypothesis.token_ids,
        alphas=hypothesis.alphas[:-1].double().numpy(),
        annotation_baseline=annotations.mean(dim=0),
        seed=0,
    )
    measure(benchmark, loaded, lambda: METHODS[name](caption), 1)
