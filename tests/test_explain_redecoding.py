"""Decoding again without what a map marks: literal loops, planted maps, and the protocol of Sun et al. by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from demo_captions import BEAM, demo_captions
from torch import nn

from explain import redecoding
from explain.perturbing import removal_places
from explain.redecoding import disappeared, sun2022
from models.beam import DecodingRules, beam_search

SEARCH = {"beam_size": BEAM, "rules": DecodingRules(), "max_steps": None}
CELLS = 196


@pytest.fixture(scope="module")
def caption():
    return demo_captions(8)[0][0]


def random_maps(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def planted(caption, places):
    """The places of words, and the inverse of a map that knows nothing, as (2, W, L)."""
    oracle, _ = np.stack(list(places.values()), axis=1)
    return np.stack([oracle, random_maps(*oracle.shape, seed=caption.seed)]), list(places)


def test_disappeared_is_what_decoding_again_one_by_one_says():
    answers = set()
    for caption, places in demo_captions(4):
        if not places:
            continue
        maps, words = planted(caption, places)
        maps = maps + random_maps(*maps.shape) * 1e-6  # no ties
        found = disappeared(caption, maps, words, seed=0, **SEARCH)
        for m in range(len(maps)):
            for w, word in enumerate(words):
                top = np.argsort(-maps[m, w])[:20]
                annotations = caption.annotations.clone()
                annotations[top] = caption.annotation_baseline[top]
                said = beam_search(caption.captioner, annotations[None], BEAM)[0][0].token_ids
                assert found[m, w] == (caption.token_ids[word] not in said)
                answers.add(found[m, w])
    assert answers == {0.0, 1.0}


def test_words_disappear_with_their_place_and_rarely_with_random_cells():
    rates = []
    for caption, places in demo_captions(8):
        if places:
            maps, words = planted(caption, places)
            rates.append(disappeared(caption, maps, words, seed=0, **SEARCH))
    place, chance = np.concatenate(rates, axis=1).mean(axis=1)
    assert place > 0.8
    assert chance < 0.2


def test_a_word_that_comes_elsewhere_has_not_disappeared(caption):
    # "there is a black star and a red star ...": the article of the first phrase is still said in the second.
    article = caption.token_ids.index(caption.captioner.vocabulary.words.index("a"))
    maps = random_maps(3, 1, CELLS)
    assert (disappeared(caption, maps, [article], seed=0, **SEARCH) == 0).all()


@torch.no_grad()
def literal_sun(caption, map_, word):
    fine = nn.functional.interpolate(
        torch.from_numpy(map_).reshape(1, 1, 14, 14), (28, 28), mode="bilinear", align_corners=False
    ).flatten()
    picture = caption.image.clone()
    for patch in fine.argsort(descending=True)[:20].tolist():
        y, x = divmod(patch, 28)
        picture[:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] = 0.0  # a patch of 4 of 112 pixels
    annotations = caption.captioner.encode(picture[None])
    said = beam_search(caption.captioner, annotations, BEAM)[0][0].token_ids
    if caption.token_ids[word] not in said:
        return 1.0, np.nan
    tokens = torch.tensor([caption.token_ids])
    before, after = (
        caption.captioner.word_log_probs(seen, tokens)[0, word].exp().item()
        for seen in (caption.annotations[None], annotations)
    )
    return 0.0, before - after


def test_sun2022_is_its_protocol_by_hand():
    answers = set()
    for caption, places in demo_captions(4):
        if not places:
            continue
        maps, words = planted(caption, places)
        maps = maps + random_maps(*maps.shape) * 1e-6
        found = sun2022(caption, maps, words, **SEARCH)
        for m in range(len(maps)):
            for w, word in enumerate(words):
                gone, drop = literal_sun(caption, maps[m, w], word)
                assert found.disappeared[m, w] == gone
                np.testing.assert_allclose(found.drop[m, w], drop, rtol=0, atol=1e-5)
                answers.add(gone)
    assert answers == {0.0, 1.0}


def test_sun2022_hurts_more_at_the_words_place_than_at_random_patches():
    gone, drops = [], []
    for caption, places in demo_captions(8):
        if places:
            maps, words = planted(caption, places)
            found = sun2022(caption, maps, words, **SEARCH)
            gone.append(found.disappeared)
            drops.append(found.drop)
    place, chance = np.concatenate(gone, axis=1).mean(axis=1)
    assert place > chance + 0.3
    lost = np.concatenate(drops, axis=1)
    assert np.isnan(lost).any()
    assert ((np.abs(lost) <= 1) | np.isnan(lost)).all()


@pytest.mark.parametrize("measure", ["disappeared", "drop"])
def test_maps_with_nan_are_undefined_and_leave_the_others_alone(caption, measure):
    def run(maps):
        if measure == "disappeared":
            return disappeared(caption, maps, [3, 4], seed=0, **SEARCH)
        found = sun2022(caption, maps, [3, 4], **SEARCH)
        assert np.isnan(found.disappeared[1, 0]) == np.isnan(maps[1, 0]).any()
        return found.drop

    whole = random_maps(2, 2, CELLS)
    holed = whole.copy()
    holed[1, 0, 7] = np.nan
    before, after = run(whole), run(holed)
    assert np.isnan(after[1, 0])
    np.testing.assert_array_equal(np.delete(after.ravel(), 2), np.delete(before.ravel(), 2))
    assert np.isnan(run(np.full((2, 2, CELLS), np.nan))).all()


def test_the_size_of_batches_changes_nothing(caption, monkeypatch):
    maps = random_maps(4, 2, CELLS)
    whole = [disappeared(caption, maps, [3, 4], seed=0, **SEARCH), *sun2022(caption, maps, [3, 4], **SEARCH)]
    monkeypatch.setattr(redecoding, "BATCH_FLOATS", 3 * 112 * 112 * 3)
    parts = [disappeared(caption, maps, [3, 4], seed=0, **SEARCH), *sun2022(caption, maps, [3, 4], **SEARCH)]
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-5)


def test_rows_that_are_alike_are_decoded_once(caption, monkeypatch):
    decoded = []
    search = redecoding.beam_search
    monkeypatch.setattr(
        redecoding, "beam_search", lambda *args, **rest: decoded.append(len(args[1])) or search(*args, **rest)
    )
    maps = np.tile(random_maps(1, 1, CELLS), (5, 3, 1))
    disappeared(caption, maps, [2, 3, 4], seed=0, **SEARCH)
    sun2022(caption, maps, [2, 3, 4], **SEARCH)
    assert decoded == [1, 1]


def test_the_rules_of_the_search_are_the_callers(caption):
    # In one step, nothing but a first word is said.
    maps, short = random_maps(1, 2, CELLS), SEARCH | {"max_steps": 1}
    assert (disappeared(caption, maps, [3, 4], seed=0, **short) == 1).all()
    assert (sun2022(caption, maps, [3, 4], **short).disappeared == 1).all()


def test_ties_are_broken_by_the_seeds(caption):
    flat = np.zeros((1, 1, 28 * 28))
    assert (removal_places(flat, [3], seed=0) != removal_places(flat, [3], seed=1)).any()
    constant = np.ones((1, 1, CELLS))
    runs = [
        sun2022(replace(caption, seed=seed), constant, [3], **SEARCH).drop.item() for seed in (0, 0, 1, 2, 3)
    ]
    assert runs[0] == runs[1] or np.isnan(runs[:2]).all()
    assert len(set(runs)) > 2
