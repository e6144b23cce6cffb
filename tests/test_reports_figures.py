"""Figures as SVG and maps as tiny pictures."""

import base64
import io
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reports.figures import (
    lag_profile,
    measures_by_method,
    multiples_of_floor,
    path_shares,
    quality_against_time,
    scores_by_beam,
    trial_drops,
)
from reports.overlay import overlay_png
from reports.records import MethodInfo, MetricRow
from reports.stats import Interval
from reports.store import RunStore
from reports.summary import Estimate, Summary, summarise


@pytest.fixture(scope="module")
def summary(finished_run: Path) -> Summary:
    return summarise(RunStore(finished_run))


def method(name: str, label: str) -> MethodInfo:
    return MethodInfo(name, label, "grid", signed=False, complete=False, source="")


def found(value: float) -> Estimate:
    return Estimate(Interval(value, value - 0.1, value + 0.1, 9), 0.1, 0.9)


def draw(label: str = "A method") -> str:
    svg = measures_by_method(
        {"m": {"mass": found(0.5)}}, [[method("m", label)]], ["mass"], name="x", title="t"
    )
    assert svg is not None
    return svg


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg.replace("xlink:", "")).iter("text")]


def test_equal_input_gives_equal_bytes(summary: Summary) -> None:
    assert draw() == draw()
    assert path_shares(summary.paths) == path_shares(summary.paths)
    assert scores_by_beam(summary.record.metrics) == scores_by_beam(summary.record.metrics)
    assert lag_profile(summary.lags) == lag_profile(summary.lags)
    assert trial_drops(summary.trial) == trial_drops(summary.trial)
    assert quality_against_time(POINTS, "CIDEr") == quality_against_time(POINTS, "CIDEr")
    assert multiples_of_floor({"a": {"b": 2.0}}) == multiples_of_floor({"a": {"b": 2.0}})


def test_axes_name_measure_range_and_direction() -> None:
    shown = texts(draw())
    for text in ("Mass", "0 to 1", "higher is better", "A method", "null: by chance", "value, 95 % interval"):
        assert text in shown


def test_a_figure_holds_no_font_no_date_no_address_and_its_own_ids() -> None:
    svg = draw()
    assert not re.search(r"font-family|<metadata|<style|<!--|https?:|20\d\d-\d\d", svg)
    ids = re.findall(r'\bid="([^"]*)"', svg)
    assert all(name.startswith("x-") for name in ids)
    assert set(re.findall(r'(?:href="#|url\(#)([^")]*)', svg)) <= set(ids)


@pytest.mark.parametrize(
    "label", ["</text><script>alert(1)</script>", "$\\frac{", "日本 🐈 \x00\x1b", "a & b --> <!--", ""]
)
def test_a_label_is_drawn_as_text_whatever_it_holds(label: str) -> None:
    assert "<script" not in draw(label)
    assert label.replace("\x00", "\ufffd").replace("\x1b", "\ufffd") in texts(draw(label)) or not label


@pytest.mark.parametrize("measure", ["auc", "deletion_cells"])
def test_the_best_method_of_a_group_comes_first_and_one_without_a_value_last(measure: str) -> None:
    methods = [method(name, name) for name in ("none", "middle", "top", "low")]
    values = {"middle": 0.5, "top": 0.9, "low": 0.1}
    table = {name: {measure: found(value), "mass": found(0.5)} for name, value in values.items()}
    table["none"] = {"mass": found(0.5)}
    svg = measures_by_method(table, [methods], [measure, "mass"], name="x", title="t")
    shown = [text for text in texts(svg or "") if text in table]
    expected = ["top", "middle", "low", "none"] if measure == "auc" else ["low", "middle", "top", "none"]
    assert shown == expected


def test_the_lag_profile_has_a_line_per_word_class_and_the_trial_a_panel_per_drop(summary: Summary) -> None:
    shown = texts(lag_profile(summary.lags) or "")
    assert {"Mass", "Pointing", "colour", "shape", "relation", "−2", "2"} <= set(shown)
    assert "all words" not in shown, "it would hide the classes"
    shown = texts(trial_drops(summary.trial) or "")
    assert {"Shuffled", "Even", "Adversarial", "Random cell erased", "all but function words"} <= set(shown)


def test_differences_that_are_rounding_errors_do_not_fill_a_panel() -> None:
    rows = [MetricRow("BLEU-4", n, 1 - n * 1e-13, "0 to 1", True, None, None, 9, None) for n in (1, 3)]
    shown = texts(scores_by_beam(rows) or "")
    assert {"0.98", "1.00", "1.02"} <= set(shown), shown


POINTS = {
    "beam size 1": (7.4, Interval(6.13, 6.09, 6.17, 100)),
    "beam size 5": (8.4, Interval(6.29, 6.25, 6.33, 100)),
}


def places(svg: str, colour: str) -> list[tuple[float, float]]:
    """Where marks of a colour are drawn."""
    found = re.findall(rf'<use [^>]*x="([\d.]+)" y="([\d.]+)" style="fill: var\({colour}\)', svg)
    return [(float(x), float(y)) for x, y in found]


def test_each_beam_size_is_a_labelled_point_and_axes_say_what_they_are() -> None:
    svg = quality_against_time(POINTS, "CIDEr") or ""
    shown = texts(svg)
    for text in (*POINTS, "milliseconds per image, lower is better", "CIDEr, 0 to 10", "higher is better"):
        assert text in shown
    (first, second) = places(svg, "--accent")
    assert first[0] < second[0]
    assert first[1] > second[1]


def test_small_differences_in_time_and_quality_stay_small() -> None:
    close = {
        "beam size 1": (10.0, Interval(6.2, 6.1, 6.3, 9)),
        "beam size 3": (10.1, Interval(6.2001, 6.1, 6.3, 9)),
    }
    svg = quality_against_time(close, "CIDEr") or ""
    width = float((re.search(r'viewBox="0 0 ([\d.]+)', svg) or [""] * 2)[1])
    (first, second) = places(svg, "--accent")
    assert second[0] - first[0] < 0.1 * width
    assert abs(second[1] - first[1]) < 1


def test_bars_are_as_long_as_the_multiple_of_the_floor() -> None:
    svg = multiples_of_floor({"decoder": {"fast": 1.0, "slow": 2.0}, "training": {"<slower>": 4.0}}) or ""
    assert {"fast", "slow", "<slower>", "1.00", "2.00", "4.00", "the floor"} <= set(texts(svg))
    bars = re.findall(
        r'd="M ([\d.]+) [\d.]+ \nL ([\d.]+) [^"]*" clip-path="[^"]*" style="fill: var\(--accent\)', svg
    )
    first, second, third = (float(end) - float(start) for start, end in bars)
    assert (second / first, third / first) == pytest.approx((2, 4), rel=1e-3)


def test_text_is_no_smaller_on_a_narrow_screen_and_hardly_larger_on_a_wide_one() -> None:
    floors = multiples_of_floor({"a": {"b": 2.0}})
    for svg in (draw(), quality_against_time(POINTS, "CIDEr") or "", floors or ""):
        found = re.search(r'min-width: (\d+)px; max-width: min\(62rem, (\d+)px\)" viewBox="0 0 ([\d.]+)', svg)
        assert found
        least, most, width = map(float, found.groups())
        assert least == pytest.approx(width, abs=1)
        assert most == pytest.approx(1.28 * width, abs=1)


def test_nothing_to_draw_is_none() -> None:
    assert scores_by_beam([MetricRow("BLEU-4", 1, None, "0 to 1", True, None, None, 0, "no caption")]) is None
    assert measures_by_method({}, [[method("m", "A")]], ["mass"], name="x", title="t") is None
    assert path_shares({}) is None
    assert lag_profile({}) is None
    assert trial_drops({}) is None
    assert multiples_of_floor({}) is None
    assert multiples_of_floor({"decoder": {}}) is None
    assert quality_against_time({}, "CIDEr") is None
    assert quality_against_time(dict(list(POINTS.items())[:1]), "CIDEr") is None
    assert trial_drops({"all words": {"gate": found(0.5)}}) is None


def test_one_image_is_drawn_without_intervals() -> None:
    alone = Estimate(Interval(0.5, None, None, 1), None, None)
    shown = texts(
        measures_by_method({"m": {"mass": alone}}, [[method("m", "A")]], ["mass"], name="x", title="t") or ""
    )
    assert "null: by chance" not in shown
    assert scores_by_beam([MetricRow("BLEU-4", 1, 0.5, "0 to 1", True, None, None, 1, None)])


def pixels(cells: list[list[float]]) -> np.ndarray:
    head, _, data = overlay_png(np.array(cells, np.float16)).partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.mode == "RGBA"
        return np.asarray(picture).astype(int)


def test_a_map_has_one_pixel_per_cell_and_covers_more_where_it_is_stronger() -> None:
    shown = pixels([[0.0, 0.1, 0.2], [0.4, 0.8, 0.3]])
    assert shown.shape == (2, 3, 4)
    cover = shown[..., 3].ravel()
    assert (cover[0], cover.max()) == (0, 230)
    assert list(np.argsort(cover)) == [0, 1, 2, 5, 3, 4]


def test_what_speaks_against_a_word_is_teal_and_what_speaks_for_it_is_warm() -> None:
    against, silent, speaks = pixels([[-1.0, 0.0, 1.0]])[0]
    assert silent[3] == 0
    assert against[3] == speaks[3]
    assert min(against[1], against[2]) > against[0] + 40
    assert speaks[0] > speaks[2] + 40


def test_the_scale_of_a_map_does_not_matter() -> None:
    np.testing.assert_array_equal(pixels([[0.25, 0.5]]), pixels([[0.5, 1.0]]))


@pytest.mark.parametrize("cells", [[[0.0, 0.0]], [[np.nan, 1.0]], [[np.inf, -np.inf]]])
def test_maps_of_zeros_or_worse_are_pictures_too(cells: list[list[float]]) -> None:
    assert pixels(cells).shape == (1, 2, 4)
