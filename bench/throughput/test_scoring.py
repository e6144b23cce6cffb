"""BLEU, METEOR, ROUGE-L and CIDEr, with the real Java programs."""

import json
import os
import subprocess
import sys
import time
from statistics import median

import pytest

from bench.data.scenes import make_scene
from bench.scoring import Scorer
from bench.scoring.java import find_java

CAPTIONS = 200

pytestmark = [pytest.mark.java, pytest.mark.benchmark(group="scoring")]
# It waits for ever after an error of METEOR's, so that it runs in a process of its own.
PYCOCOEVALCAP = """
import json, os, sys, time
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
references, captions = json.load(sys.stdin)
begun = time.perf_counter()
tokenize = PTBTokenizer().tokenize
references = tokenize({key: [{"caption": text} for text in texts] for key, texts in references.items()})
captions = tokenize({key: [{"caption": text}] for key, text in captions.items()})
for scorer in (Bleu(4), Meteor(), Rouge(), Cider()):
    scorer.compute_score(references, captions)
print(time.perf_counter() - begun, flush=True)
os._exit(0)
"""


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


def test_score_three_sets_beside_pycocoevalcaps_one(benchmark, scenes):
    """From the start. By the clock on both sides: most of the work is done by other processes."""
    references = {scene.image_id: scene.references for scene in scenes}
    path = os.pathsep.join([str(find_java().parent), os.environ.get("PATH", "")])
    ratios = []

    def pycocoevalcap():
        done = subprocess.run(
            [sys.executable, "-c", PYCOCOEVALCAP],
            input=json.dumps([references, captions(scenes, 0)]),
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PATH": path, "LC_ALL": "C.UTF-8"},
        )
        ratios.append(float(done.stdout.splitlines()[-1]))

    def score():
        begun = time.perf_counter()
        with Scorer(references) as scorer:
            found = [scorer.score(captions(scenes, number)) for number in range(3)]
        ratios[-1] /= time.perf_counter() - begun
        return found

    found = benchmark.pedantic(score, setup=pycocoevalcap, rounds=3)
    assert not any(scores.reasons for scores in found)
    benchmark.extra_info |= {
        "device": "cpu",
        "images": 3 * CAPTIONS,
        "ratio_to_pycocoevalcap_for_one_set": median(ratios),
    }
