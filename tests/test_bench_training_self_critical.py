"""Self-critical training raises the score that it trains for, on pictures that it has not seen."""

import dataclasses

import numpy as np
import pytest
from small_trainings import few_scenes, trained_on

from bench.distributed import World
from bench.scoring.cider import CiderD
from bench.scoring.ngrams import Ngrams
from bench.training.examples import read_examples
from bench.training.presets import PRESETS, changed
from models.beam import beam_search
from models.formats import load_checkpoint
from reports.training import TrainingStore

UNSEEN = 120


def ciders(checkpoint, images, cache):
    """CIDEr of greedy captions, image by image."""
    captioner = load_checkpoint(checkpoint).captioner
    examples = read_examples(
        images, captioner, frozen=False, cache=cache, world=World(0, 1, 0), label="reading unseen pictures"
    )
    references = [[Ngrams(text.replace(",", " ")) for text in texts] for texts in examples.references]
    cider = CiderD(references)
    captions = []
    for first in range(0, len(examples), 40):
        block = range(first, min(first + 40, len(examples)))
        for best, *_ in beam_search(captioner, examples.annotations(block, captioner), 1):
            captions.append(Ngrams(" ".join(captioner.vocabulary.decode(best.token_ids))))
    return np.array([cider.score(*pair) for pair in zip(captions, references, strict=True)])


@pytest.mark.slow
def test_self_critical_training_raises_the_cider_of_a_half_trained_model_beyond_chance(tmp_path):
    seen, cache = few_scenes(320, 16), tmp_path / "cache"
    half = trained_on(seen, changed(PRESETS["scenes"], epochs=6), tmp_path / "half", cache=cache)
    recipe = changed(PRESETS["scenes"], epochs=0, self_critical=1)
    stage = dataclasses.replace(recipe.stages[0], epochs=18)
    critical = dataclasses.replace(recipe, stages=(stage,))
    best = trained_on(seen, critical, tmp_path / "critical", start=half, cache=cache)
    rewards = [row.reward for row in TrainingStore(tmp_path / "critical").read_training().epochs]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3])
    unseen = few_scenes(0, 16 + UNSEEN).images[16:]
    gained = ciders(best, unseen, cache) - ciders(half, unseen, cache)
    draw = np.random.default_rng(0)
    means = gained[draw.integers(len(gained), size=(10_000, len(gained)))].mean(axis=1)
    assert np.quantile(means, 0.025) > 0, f"mean gain {gained.mean():.3f}"
