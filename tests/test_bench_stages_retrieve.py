"""Retrieval: planted likelihoods, and the demo on scenes, blank pictures and pictures that can't be told apart."""

import numpy as np
import pandas as pd
import pytest
import torch

import bench.stages.retrieve
from bench.config import DEMO_CHECKPOINT
from bench.data.base import CaptionedImage
from bench.data.scenes import make_scene
from bench.scoring.variety import retrieval
from bench.stages.retrieve import TIE_NATS, ranks, retrieve
from models.beam import beam_search
from models.formats import load_checkpoint
from reports.unfinished import Unfinished

COLUMNS = ["retrieval_above", "retrieval_ties", "retrieval_images"]
NO, NAN = -np.inf, np.nan


def ranked(rows, captions="abcd", images="abcd"):
    frame = ranks(pd.DataFrame(rows, index=list(captions), columns=list(images)))
    assert list(frame.columns) == COLUMNS
    return {
        image_id: tuple(row) for image_id, row in zip(frame.index, frame.to_numpy().tolist(), strict=True)
    }


# ---- planted likelihoods --------------------------------------------------------------------------------


def test_an_images_rank_counts_the_images_above_it_and_those_beside_it():
    found = ranked(
        [[-1, -2, -3, -4], [-1, -2, -3, -4], [-5, -5, -5, -5], [-9, -1, -9, -9 + 2 * TIE_NATS]],
    )
    assert found == {"a": (0, 0, 4), "b": (1, 0, 4), "c": (0, 3, 4), "d": (1, 0, 4)}


def test_the_noise_of_float32_is_no_difference():
    noise = TIE_NATS / 3
    assert ranked([[-4, -4 + noise, -4 - noise, -4 + 4 * noise]] * 4)["a"] == (1, 2, 4)


def test_images_without_a_caption_are_candidates_and_captions_without_an_image_are_left_out():
    assert ranked([[-1, 0], [-1, -2]], captions="bx", images="ab") == {"b": (0, 0, 2)}
    assert ranked(np.empty((2, 0)), captions="ab", images="") == {}


def test_rows_stand_in_the_order_of_the_images_whatever_the_order_of_the_captions():
    assert list(ranked(np.zeros((4, 4)), captions="dbca")) == [*"abcd"]


def test_impossible_captions_are_as_impossible_of_every_image_and_what_is_not_a_number_has_no_rank():
    found = ranked([[NO, NO, -1, NO], [-1, -1, NAN, -1], [-1, NO, -1, NO], [0, 0, 0, 0]])
    assert found["a"] == (1, 2, 4)
    assert found["c"] == (0, 1, 4)
    assert np.isnan(found["b"]).all()


# ---- the demo -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def captioner():
    return load_checkpoint(DEMO_CHECKPOINT).captioner


@torch.no_grad()
def caption(captioner, scenes, beam_size):
    said = {}
    for first in range(0, len(scenes), 50):
        pictures = [captioner.preprocessing(scene.picture()) for scene in scenes[first : first + 50]]
        found = beam_search(captioner, captioner.encode(torch.stack(pictures)), beam_size)
        said |= {
            scene.image_id: hypotheses[0].token_ids
            for scene, hypotheses in zip(scenes[first : first + 50], found, strict=True)
        }
    return said


@pytest.fixture(scope="module")
def said(captioner):
    """The captions of 200 scenes."""
    return caption(captioner, [make_scene("test", index) for index in range(200)], beam_size=5)


def metrics(frame):
    return {each.name: each for each in retrieval(frame)}


def test_the_demos_captions_pick_out_their_scenes(captioner, said):
    scenes = [make_scene("test", index) for index in range(200)]
    frame = retrieve(captioner, scenes, said, batch_size=64)
    assert list(frame.index) == [scene.image_id for scene in scenes]
    assert set(frame["retrieval_images"]) == {200}
    found = metrics(frame)
    assert found["Retrieval recall@1"].chance == 1 / 200
    assert found["Retrieval recall@1"].interval.low > 0.85
    assert found["Retrieval recall@10"].value > 0.99
    assert found["Retrieval median rank"].value == 1


def test_among_blank_pictures_the_same_captions_are_at_chance(captioner, said):
    blanks = [make_scene("test", index, variant="blank") for index in range(200)]
    captions = {blank.image_id: each for blank, each in zip(blanks, said.values(), strict=True)}
    for each in retrieval(retrieve(captioner, blanks, captions, batch_size=64)):
        assert each.interval.low <= each.chance <= each.interval.high, each


def test_a_picture_that_is_there_several_times_is_found_as_often_as_a_guess_among_them(captioner, tmp_path):
    pictures = []
    for number in range(9):
        path = tmp_path / f"{number}.png"
        make_scene("test", 3 if number < 8 else 4).picture().save(path)
        pictures.append(CaptionedImage(str(number), (), "test", path))
    captions = caption(captioner, pictures, beam_size=3)
    frame = retrieve(captioner, pictures, captions, batch_size=3)
    assert frame.to_numpy().tolist() == [[0, 7, 9]] * 8 + [[0, 0, 9]]


def test_the_batch_size_changes_nothing_but_what_ties_absorb(captioner):
    scenes = [make_scene("val", index) for index in range(10)]
    captions = {scene.image_id: caption(captioner, scenes, 1)[scene.image_id] for scene in scenes[:4]}
    frames = [retrieve(captioner, scenes, captions, batch_size=size) for size in (1, 3, 64)]
    for frame in frames:
        pd.testing.assert_frame_equal(frame, frames[0])
        assert list(frame.index) == list(captions)
        assert set(frame["retrieval_images"]) == {10}


def test_where_memory_is_short_batches_are_halved_and_ranks_stay(captioner, monkeypatch, capsys, tmp_path):
    scenes = [make_scene("val", index) for index in range(9)]
    captions = caption(captioner, scenes, 1)
    whole = retrieve(captioner, scenes, captions, batch_size=4)
    real, sizes = bench.stages.retrieve.caption_log_likelihoods, []

    def with_little_room(captioner, annotations, captions):
        sizes.append(len(annotations))
        if len(annotations) > 2:
            torch.empty(2**60, dtype=torch.uint8)
        return real(captioner, annotations, captions)

    monkeypatch.setattr(bench.stages.retrieve, "caption_log_likelihoods", with_little_room)
    unfinished = Unfinished(tmp_path)
    found = retrieve(captioner, scenes, captions, batch_size=4, unfinished=unfinished)
    pd.testing.assert_frame_equal(found, whole)
    assert sizes == [4, 2, 2, 2, 2, 1]
    assert "out of memory with 4 images at once; going on with 2" in capsys.readouterr().err
    pd.testing.assert_frame_equal(
        retrieve(captioner, scenes, captions, batch_size=4, unfinished=unfinished), whole
    )
    assert len(sizes) == 6


def test_an_empty_caption_has_the_rank_of_a_guess(captioner):
    scenes = [make_scene("val", index) for index in range(3)]
    frame = retrieve(captioner, scenes, {scenes[1].image_id: ()}, batch_size=64)
    assert frame.loc[scenes[1].image_id].tolist() == [0, 2, 3]


def test_pictures_that_cannot_be_read_are_no_candidates(captioner, tmp_path):
    scenes = [make_scene("val", index) for index in range(3)]
    captions = caption(captioner, scenes, 1)
    captions["broken"] = captions[scenes[0].image_id]
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    broken = CaptionedImage("broken", (), "val", tmp_path / "broken.png")
    frame = retrieve(captioner, [broken, *scenes], captions, batch_size=2)
    assert frame.to_numpy().tolist() == [[0, 0, 3]] * 3
    assert list(frame.index) == [scene.image_id for scene in scenes]
    assert retrieve(captioner, [broken], {"broken": (4,)}, batch_size=2).empty


def test_progress_is_told_on_stderr(captioner, capsys):
    scenes = [make_scene("val", index) for index in range(3)]
    retrieve(captioner, scenes, {scenes[0].image_id: (4,)}, batch_size=2)
    captured = capsys.readouterr()
    assert "retrieving: 2 of 2 batches" in captured.err
    assert captured.out == ""
