"""BLEU, METEOR, ROUGE-L and CIDEr, with the real Java programs."""

import pytest

from bench.data.scenes import make_scene
from bench.scoring import Scorer

CAPTIONS = 200

pytestmark = [pytest.mark.java, pytest.mark.benchmark(group="scoring")]


@pytest.fixture(scope="module")
def scenes():
    return [make_scene("test", index) for index in range(CAPTIONS)]


def captions(scenes, number):
    """One caption per scene, wrong in places, and others for every number: the scorer does nothing twice."""
    said = [scene.references[number % len(scene.references)] for scene in scenes]
    return {scene.image_id: f"{caption} {number}" for scene, caption in zip(scenes, said, strict=True)}


def test_score_from_the_start(benchmark, measure_on_cpu, scenes):
    """With starting Java and reading five references per image."""
    references = {scene.image_id: scene.references for scene in scenes}

    def score():
        with Scorer(references) as scorer:
            return scorer.score(captions(scenes, 0))

    measured = measure_on_cpu(benchmark, score, images=CAPTIONS, rounds=2, warmup_rounds=0)
    assert not measured.result.reasons


def test_score_more_captions(benchmark, measure_on_cpu, scenes):
    """Of the same images, with Java running: what each further beam size costs."""
    number = 0

    def next_captions():
        nonlocal number
        number += 1

    with Scorer({scene.image_id: scene.references for scene in scenes}) as scorer:
        scorer.score(captions(scenes, 0))
        measured = measure_on_cpu(
            benchmark,
            lambda: scorer.score(captions(scenes, number)),
            images=CAPTIONS,
            prepare=next_captions,
        )
    assert not measured.result.reasons
