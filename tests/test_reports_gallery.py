"""What the sample browser is given."""

import base64
import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reports.gallery import Wanted, by_lot, gallery, told_apart
from reports.overlay import STEPS, colours, overlay_png, quantised
from reports.page import render
from reports.records import CaptionRow, MethodInfo
from reports.samples import Variant
from reports.store import RunStore

IDS = [f"i{n}" for n in range(20)]


def row(image_id: str, caption: str | None = "a dog", **fields: object) -> CaptionRow:
    words = tuple((caption or "").split())
    made = CaptionRow(image_id, 1, caption, words, (), -1.0, (-0.5,) * len(words), ("a cat",), True, None)
    return dataclasses.replace(made, **fields)


def variant(tmp_path: Path, *rows: CaptionRow, **fields: object) -> Variant:
    return Variant("run", RunStore(tmp_path), 1, {r.image_id: r for r in rows}, **fields)


@pytest.fixture
def whole(finished_run: Path) -> dict:
    """The whole index of a run, as the report has it."""
    from reports.html import render_report

    page = render_report(RunStore(finished_run)).html
    return json.loads(page.split('id="data-gallery">')[1].split("</script>")[0])


def test_explained_images_are_shown_first_then_worst_best_and_any_in_turn() -> None:
    ranking, explained = IDS, ["i7", "i3"]
    lot = [i for i in by_lot(IDS) if i not in ("i7", "i3", "i0", "i19")]
    chosen = Wanted(6).choose(ranking, IDS, explained)
    assert chosen == ["i7", "i3", "i0", "i19", lot[0], "i1" if lot[0] != "i1" else "i2"]
    assert Wanted(1).choose(ranking, IDS, explained) == ["i7"]
    assert Wanted(0).choose(ranking, IDS, explained) == []
    assert sorted(Wanted(None).choose([], IDS, [])) == sorted(IDS)
    assert len(set(Wanted(99).choose(ranking, IDS, explained))) == 20


def test_columns_are_as_long_as_there_are_images_and_say_what_the_run_says(
    whole: dict, finished_run: Path
) -> None:
    store = RunStore(finished_run)
    rows = {(r.image_id, r.beam_size): r for r in store.read_captions()}
    assert whole["variants"] == ["beam size 1", "beam size 3", "beam size 5"]
    assert [m["name"] for m in whole["metrics"]] == ["CIDEr", "BLEU-4", "METEOR", "ROUGE-L"]
    scores = store.read_scores().set_index(["image_id", "beam_size"])
    for v, beam in enumerate((1, 3, 5)):
        assert whole["captions"][v] == [rows[i, beam].caption for i in whole["ids"]]
        assert whole["lengths"][v] == [7] * 26
        assert whole["scores"][v][0] == [round(scores.loc[(i, beam), "CIDEr"], 4) for i in whole["ids"]]
    assert sorted(whole["random"]) == list(range(26))
    assert whole["resolution"] == "The grid has 14 × 14 cells, pooled up from 8 × 8."
    struck = {m["name"]: m["struck"] for m in whole["methods"] if m["struck"]}
    assert struck == {"pixel_guided_backprop": "its maps equal those of the plain gradient"}


def test_a_caption_that_failed_is_null_and_an_unknown_word_is_counted(tmp_path: Path) -> None:
    rows = (row("a", None), row("b", "a <unk> <unk>", finished=False), row("c"))
    index = gallery(
        [variant(tmp_path, *rows, unknown_word="<unk>")], ["a", "b", "c", "d"], noun="run", start=0
    ).index
    assert index["captions"] == [[None, "a <unk> <unk>", "a dog", None]]
    assert index["unknown"] == [[0, 2, 0, 0]]
    assert index["unfinished"] == [[1]]
    assert index["metrics"] == []
    assert index["sort"] is None
    known = gallery([variant(tmp_path, *rows)], ["a", "b"], noun="run", start=0).index
    assert known["unknown"] == [None]


def test_levels_keep_the_signs_and_the_order_of_a_map() -> None:
    maps = np.random.default_rng(0).normal(size=(3, 7, 7))
    levels = quantised(maps)
    assert levels.dtype == np.int8
    for level, map_ in zip(levels, maps, strict=True):
        assert np.abs(level).max() == STEPS
        assert np.abs(level / STEPS - map_ / np.abs(map_).max()).max() <= 0.5 / STEPS
    assert not quantised(np.zeros((1, 2, 2))).any()
    assert quantised(np.array([[np.nan, 1.0]])).tolist() == [[0, 127]]


def test_colours_are_clear_at_nothing_and_strongest_at_the_ends() -> None:
    table = colours()
    assert table.shape == (255, 4)
    opacity = table[:, 3].astype(int)
    assert opacity[STEPS] == 0
    assert (np.diff(opacity[STEPS:]) >= 0).all()
    assert (opacity == opacity[::-1]).all()
    assert overlay_png(np.eye(3)).startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    "attack",
    ["</script><script>alert(1)</script>", "<!--<script>", "\u2028\u2029", "&quot;", "\x00\u202e", "\udc80"],
)
def test_data_in_the_page_can_end_no_element_and_reads_back_printable(tmp_path: Path, attack: str) -> None:
    found = gallery(
        [variant(tmp_path, row("a" + attack, "x " + attack))], ["a" + attack], noun="run", start=0
    )
    html = render("page.html.j2", gallery=found).html
    html.encode()
    text = html.split('id="data-gallery">')[1].split("</script>")[0]
    assert not set("<>&\u2028\u2029") & set(text)
    (caption,) = json.loads(text)["captions"][0]
    assert caption.startswith("x ")
    if attack.isprintable():
        assert caption == "x " + attack


def test_the_colours_in_the_page_are_those_of_the_pictures(whole: dict) -> None:
    assert base64.b64decode(whole["colours"]) == colours().tobytes()


def test_images_that_are_called_alike_are_told_apart() -> None:
    assert told_apart(["a", "a", "a (2)", "b", "a"]) == ["a", "a (2)", "a (2) (2)", "b", "a (3)"]


def test_a_method_is_struck_out_only_where_every_run_strikes_it_out(tmp_path: Path) -> None:
    method = MethodInfo("m", "M", "grid", False, False, "")
    frame = pd.DataFrame({"image_id": ["a"], "method": "m", "word_index": 0, "word_class": "content"})
    known = {"methods": (method,), "attributions": frame}
    sound, failed = (
        variant(tmp_path, row("a"), **known),
        variant(tmp_path, row("a"), struck={"m": "why"}, **known),
    )
    both = gallery([failed, failed], ["a"], noun="run", start=0).index["methods"]
    one = gallery([sound, failed], ["a"], noun="run", start=0).index["methods"]
    assert [m["struck"] for m in both] == ["why"]
    assert [(m["struck"], m["note"]) for m in one] == [(None, "struck out in run: why")]


def test_a_score_of_an_image_without_a_caption_is_passed_over(tmp_path: Path) -> None:
    made = gallery([variant(tmp_path, row("a"))], ["a"], noun="run", start=0, ranking=["gone", "a"])
    assert made.index["ids"] == ["a"]


def test_words_have_no_probability_where_silent_tokens_stand_between_them(tmp_path: Path) -> None:
    silent = row("a", "a dog", word_log_probs=(-0.1, -2.5, -0.2, -0.2))
    spoken = row("b", "a dog", word_log_probs=(-0.1, -0.2, -0.2))
    samples = gallery([variant(tmp_path, silent, spoken)], ["a", "b"], noun="run", start=0).samples
    assert samples[0]["0"]["probabilities"] == [None, None]
    assert samples[1]["0"]["probabilities"] == [0.9048, 0.8187]
