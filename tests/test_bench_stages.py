"""The parts of an evaluation that decide what is compared with what."""

import dataclasses

import pytest
import torch

from bench.config import DEMO_CHECKPOINT
from bench.data.base import CaptionedImage
from bench.data.scenes import SHAPES, SceneTruth, load_scenes, make_scene
from bench.errors import DataError
from bench.scoring import Scorer
from bench.stages.attention_seen import AttentionSeen
from bench.stages.decode import caption_row, decode
from bench.stages.facts import caption_facts, training_captions
from bench.stages.score import score
from bench.stages.stock import take_stock
from models.beam import DECODINGS, Hypothesis
from models.formats import load_checkpoint
from reports.records import CaptionRow
from reports.store import RunStore


@pytest.fixture(scope="module")
def captioner():
    return load_checkpoint(DEMO_CHECKPOINT).captioner


@pytest.fixture(scope="module")
def decoded(captioner, tmp_path_factory):
    images = [make_scene("test", index) for index in range(5)]
    store = RunStore(tmp_path_factory.mktemp("run"))
    decode(captioner, images, store, beam_sizes=(1, 2), batch_size=3, begin=lambda: None)
    return images, {row.image_id: row for row in store.read_captions() if row.beam_size == 2}


def test_what_is_done_is_not_decoded_again(captioner, decoded, tmp_path):
    images, _ = decoded
    store = RunStore(tmp_path / "run")
    decode(captioner, images[:2], store, beam_sizes=(1,), batch_size=2, begin=lambda: None)
    done = store.find_captions([image.image_id for image in images], (1,)).done
    decode(captioner, images, store, beam_sizes=(1,), batch_size=2, done=done, begin=lambda: None)
    assert [row.image_id for row in store.read_captions()] == [image.image_id for image in images]


def test_rules_and_the_number_of_captions_reach_the_search(captioner, decoded, tmp_path):
    images, _ = decoded
    store = RunStore(tmp_path / "run")
    decode(
        captioner, images, store, beam_sizes=(3,), batch_size=2, begin=lambda: None,
        rules=dataclasses.replace(DECODINGS["default"], length_exponent=0.0), n_best=3, max_steps=7,
    )  # fmt: skip
    for row in store.read_captions():
        ranked = [row, *row.alternatives]
        assert len(ranked) == len({r.token_ids for r in ranked}) == 3
        assert [r.score for r in ranked] == sorted((r.score for r in ranked), reverse=True)
        assert all(len(r.token_ids) <= 7 and r.score == pytest.approx(r.log_prob_nats) for r in ranked)


def test_a_caption_row_describes_the_attention_of_the_words_that_are_shown(captioner):
    vocabulary = captioner.vocabulary
    alphas = torch.zeros(5, 196)
    alphas[0], alphas[2] = 1 / 196, 1 / 196  # the words; what stands between them, and <end>, looks elsewhere
    alphas[[1, 3, 4], [3, 50, 100]] = 1
    said = (vocabulary.encode(["red"])[0], vocabulary.pad, vocabulary.encode(["circle"])[0], vocabulary.start)
    hypothesis = Hypothesis((*said, vocabulary.end), (-1.0,) * 5, alphas, True, -2.5)
    row = caption_row(captioner, make_scene("test", 0), 1, [hypothesis])
    assert row.words == ("red", "circle")
    assert row.score == -2.5
    assert row.attention_entropy == pytest.approx(1, abs=1e-6)
    assert row.attention_movement == 0


def caption_of(words, entropy, movement):
    said = tuple("word" for _ in range(words))
    return CaptionRow(
        "i", 1, " ".join(said), said, (4,) * words, -1.0, (-1.0,), ("a",), True, None,
        attention_entropy=entropy, attention_movement=movement,
    )  # fmt: skip


def attention(rows):
    seen = AttentionSeen()
    for row in rows:
        seen.add(row)
    return list(seen.described())


def test_attention_metrics_weigh_words_and_leave_out_captions_that_can_not_say():
    rows = [
        caption_of(2, 0.2, 0.5),
        caption_of(6, 0.6, 0.009),
        caption_of(1, 0.1, None),
        caption_of(0, None, None),
    ]
    entropy, collapsed = attention(rows)
    assert entropy.value == pytest.approx((2 * 0.2 + 6 * 0.6 + 0.1) / 9)
    assert (entropy.n, entropy.higher_is_better) == (3, None)
    assert collapsed.value == 0.5
    assert (collapsed.n, collapsed.higher_is_better) == (2, False)


def test_attention_metrics_without_words_have_a_reason():
    entropy, collapsed = attention([caption_of(0, None, None)])
    assert (entropy.value, entropy.reason) == (None, "no words were said")
    assert (collapsed.value, collapsed.reason) == (None, "no caption has two words")


@pytest.mark.java
@pytest.mark.parametrize(("collapsed", "warned"), [(2, False), (3, True)])
def test_a_run_is_warned_of_when_most_of_its_captions_have_collapsed(tmp_path, collapsed, warned):
    images = [make_scene("test", index) for index in range(4)]
    rows = [
        dataclasses.replace(caption_of(3, 0.5, 0.001 if number < collapsed else 0.3), image_id=image.image_id)
        for number, image in enumerate(images)
    ]
    with Scorer({image.image_id: image.references for image in images}) as scorer:
        stock = take_stock(rows, scorer.references)
        store = RunStore(tmp_path)
        scored = score(scorer, rows, stock, store, search_signature="", unknown_word=None)
    warnings = [w for w in scored.warnings if "attention is the same for every word" in w]
    assert warnings == (
        [
            "beam size 1: attention is the same for every word in 75 % of the captions; its maps explain nothing"
        ]
        if warned
        else []
    )


def test_nothing_readable_leaves_nothing_behind(captioner, tmp_path):
    image = CaptionedImage("x.jpg", ("a",), "test", tmp_path / "x.jpg")
    with pytest.raises(DataError, match="not one of 1 pictures could be read"):
        decode(
            captioner,
            [image],
            RunStore(tmp_path / "run"),
            beam_sizes=(1,),
            batch_size=1,
            begin=lambda: None,
        )
    assert not (tmp_path / "run").exists()


def test_facts_count_true_words_absent_objects_and_copies():
    data = load_scenes()
    scene = data.select("test")[0]
    first, second = scene.named
    absent = next(shape for shape in SHAPES if all(shape != figure.shape for figure in scene.figures))
    said = (first.colour, first.shape, "near", "a", second.colour, absent)
    copied = data.images[0].references[0].split()
    rows = [
        dataclasses.replace(
            caption_of(1, None, None), image_id=scene.image_id, words=words, caption=" ".join(words)
        )
        for words in (said, tuple(copied))
    ]
    training = training_captions(data, "test")
    facts = caption_facts(rows, {scene.image_id: scene}, ground_truth=SceneTruth(), training=training)
    assert len(facts) == 2
    assert facts.loc[0, ["said_colour", "true_colour", "said_shape", "true_shape"]].tolist() == [2, 2, 2, 1]
    assert facts.loc[0, ["objects_said", "objects_absent", "copied"]].tolist() == [2, 1, 0]
    assert facts.loc[1, "copied"] == 1


@pytest.mark.parametrize("split", ["train", "all"])
def test_what_the_model_was_trained_on_can_not_be_copied(split):
    assert training_captions(load_scenes(), split) is None
