"""Every attribution method on a caption of the demo model."""

import dataclasses

import numpy as np
import pytest
import torch

from bench.data.scenes import make_scene
from bench.throughput.captum_loop import LOOPS, captum_maps
from bench.throughput.measuring import Reference
from explain.methods import METHODS, ExplainedCaption
from models.beam import beam_search


@pytest.fixture(scope="module")
def caption(demo, device):
    with torch.no_grad():
        pictures = [make_scene("test", index).picture() for index in range(2)]
        images = torch.stack([demo.preprocessing(picture) for picture in pictures]).to(device)
        annotations = demo.encode(images)
        (best, *_), (other, *_) = beam_search(demo, annotations, 5)
    words = len(best.token_ids) - 1
    return ExplainedCaption(
        captioner=demo,
        image=images[0],
        annotations=annotations[0],
        token_ids=best.token_ids,
        alphas=best.alphas[:words].double().numpy(),
        annotation_baseline=annotations.mean(dim=0),
        seed=0,
        donor_alphas=other.alphas[[0] * words].double().numpy(),
    )


@pytest.mark.benchmark(group="attribution")
@pytest.mark.parametrize("method", METHODS)
def test_attribute(benchmark, measure, caption, method):
    """One map per word."""
    measured = measure(benchmark, lambda: METHODS[method](caption), images=1, words=caption.words, rounds=5)
    assert measured.result.maps.shape == (caption.words, *caption.captioner.grid)


@pytest.mark.benchmark(group="attribution")
@pytest.mark.parametrize(
    "names", [LOOPS, [name for name in LOOPS if name != "grid_ablation"]], ids=["all", "but ablation"]
)
def test_attribute_beside_a_loop_over_words(benchmark, measure, caption, names):
    """The default methods that are Captum's, beside the obvious loop: every word, and every method, on its own.

    Most of the loop's time is ablation, which Captum does a cell at a time unless told otherwise.
    """

    def ours():
        anew = dataclasses.replace(caption)  # which has computed nothing yet
        return {name: METHODS[name](anew).maps for name in names}

    def one_by_one():
        return {name: captum_maps(caption, name) for name in names}

    loop = Reference("captum_loop", one_by_one)
    measured = measure(benchmark, ours, images=1, words=caption.words, references=[loop], rounds=3)
    for name, expected in one_by_one().items():
        found = measured.result[name].reshape(expected.shape)
        error = np.abs(found - expected.cpu().numpy()).max() / np.abs(expected.cpu().numpy()).max()
        assert error < 1e-5, name
