"""The sample browser in a real browser: what is seen must be what is stored."""

import csv
import dataclasses
import io
import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import BEAMS, FAILED

from reports.comparison.page import write_comparison
from reports.html import write_report
from reports.overlay import STEPS, colours, quantised
from reports.pictures_page import write_pictures_page
from reports.records import CaptionRow
from reports.store import RunStore, map_key

pytestmark = pytest.mark.browser
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
SCENE = "scene-003"
FIRST, SECOND = "attention", "grid_integrated_gradients"
DEEP = f"#id={SCENE}&word=2&method={FIRST}&variant=beam%20size%205"
HOSTILE = (
    '=HYPERLINK("https://example.org","x")',
    "@SUM(1+1) <img src=x onerror=alert(1)>",
    "-1+1 </script><script>alert(1)</script> {{7*7}}",
    "\tplus ${7*7} \u202eright to left\u202c \u2028 '\"><svg onload=alert(1)>",
    "+" + "a" * 3000,
)
NUMBERS = """canvas => {
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  return [...copy.getImageData(0, 0, canvas.width, canvas.height).data] }"""


@pytest.fixture
def visit(browser) -> Iterator[Callable]:
    """`visit(url, width=1280)` opens a page; it may neither complain nor ask for anything but itself."""
    context = browser.new_context()
    complaints: list[str] = []
    requests: set[str] = set()
    visited: set[str] = set()

    def visit(url: str, *, width: int = 1280, scheme: str = "light"):
        page = context.new_page()
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda request: requests.add(request.url.partition("#")[0]))
        page.goto(url)
        page.locator("#samples").wait_for()
        visited.add(url.partition("#")[0])
        return page

    visit.requests = requests
    yield visit
    context.close()
    assert complaints == []
    beside = {url.removesuffix("index.html") for url in visited if url.endswith("/index.html")}
    foreign = {url for url in requests - visited if not url.startswith(("data:", "blob:", *beside))}
    assert foreign == set()


@pytest.fixture(scope="module")
def report(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(finished_run, tmp_path_factory.mktemp("page") / "report.html").as_uri()


def unexplained(store: RunStore) -> None:
    """Spares a report its figures."""
    store.write_run(dataclasses.replace(store.read_run(), explanations=None))


@pytest.fixture(scope="module")
def large(make_run: Callable[..., RunStore], tmp_path_factory: pytest.TempPathFactory) -> str:
    """5,000 images, three captions each."""
    store = make_run(tmp_path_factory.mktemp("large") / "run", images=2)
    row, rng = store.read_captions()[0], np.random.default_rng(0)
    more = [f"more-{number:04d}" for number in range(4998)]
    store.append_captions(
        dataclasses.replace(row, image_id=image_id, beam_size=beam) for image_id in more for beam in BEAMS
    )
    scores = store.read_scores()
    assert scores is not None
    new = pd.DataFrame(list(itertools.product(more, BEAMS)), columns=["image_id", "beam_size"])
    new[["CIDEr", "BLEU-4", "METEOR"]] = rng.uniform(0, 1, (len(new), 3))
    store.write_scores(pd.concat([scores, new], ignore_index=True))
    unexplained(store)
    return write_report(store.path).as_uri()


@pytest.fixture(scope="module")
def hostile(make_run: Callable[..., RunStore], tmp_path_factory: pytest.TempPathFactory) -> str:
    store = make_run(tmp_path_factory.mktemp("hostile") / "run", images=len(HOSTILE))
    texts = dict(zip([f"scene-{number:03d}" for number in range(len(HOSTILE))], HOSTILE, strict=True))
    rows = [
        dataclasses.replace(
            row,
            caption=texts[row.image_id],
            words=tuple(texts[row.image_id].split()),
            references=(texts[row.image_id],),
        )
        for row in store.read_captions()
    ]
    (store.path / "captions.jsonl").unlink()
    store.append_captions(rows)
    scores = store.read_scores()
    assert scores is not None
    scores.loc[scores["image_id"] == "scene-002", "METEOR"] = np.nan
    store.write_scores(scores)
    unexplained(store)
    return write_report(store.path).as_uri()


@pytest.fixture(scope="module")
def captions(finished_run: Path) -> dict[tuple[str, int], CaptionRow]:
    return {(row.image_id, row.beam_size): row for row in RunStore(finished_run).read_captions()}


@pytest.fixture(scope="module")
def scores(finished_run: Path) -> pd.DataFrame:
    frame = RunStore(finished_run).read_scores()
    assert frame is not None
    return frame.set_index(["image_id", "beam_size"]).round(4)


def beam(page) -> int:
    """The beam size that is shown."""
    return int(page.locator('[name="variant"] option:checked').inner_text().split()[-1])


def ids(page) -> list[str]:
    return page.locator("tbody tr[data-image] td.id").all_inner_texts()


def choose(page, name: str, label: str) -> None:
    page.locator(f'.controls [name="{name}"]').select_option(label=label)


def expect_count(page, count: int, of: int = 26) -> None:
    sync_api.expect(page.locator(".count")).to_have_text(f"{count:,} of {of:,} images")


def current(page) -> str:
    return page.locator(".spoken [aria-current]").inner_text().split("\n")[0]


def press(page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def assert_drawn(page, side: str, expected: np.ndarray) -> None:
    """Whether a canvas holds a map's colours; faint ones are rounded by the browser, which stores them multiplied."""
    found = np.array(page.locator(f'[data-side="{side}"] canvas').evaluate(NUMBERS)).reshape(14, 14, 4)
    wanted = colours()[expected.astype(int) + STEPS].astype(int)
    assert np.abs(found[..., 3] - wanted[..., 3]).max() <= 1
    strong = wanted[..., 3] > 60
    assert strong.any()
    assert np.abs(found[strong] - wanted[strong]).max() <= 3


def stored_map(run: Path, method: str, word: int) -> np.ndarray:
    key = map_key(SCENE, 5, method)
    return quantised(RunStore(run).read_maps([key])[key])[word]


@pytest.mark.parametrize("metric", ["METEOR", "CIDEr"])
def test_a_click_on_a_head_sorts_worst_first_and_another_best_first(
    visit, report: str, scores: pd.DataFrame, metric: str
) -> None:
    page = visit(report)
    choose(page, "sort", "random")
    values = scores.xs(beam(page), level="beam_size")[metric].sort_index()
    head = page.locator(".rows thead th", has_text=metric)
    for way, ascending in (("ascending", True), ("descending", False)):
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == way
        assert (
            page.locator('thead [aria-sort="none"]').count() == page.locator("thead [aria-sort]").count() - 1
        )
        expected = values.sort_values(ascending=ascending, kind="stable").index
        found = ids(page)
        assert len(found) > 12
        assert found == list(expected[: len(found)])


def test_images_without_a_score_come_last_either_way(visit, hostile: str) -> None:
    page = visit(hostile)
    for order in ("worst METEOR", "best METEOR"):
        choose(page, "sort", order)
        assert ids(page)[-1] == "scene-002"
    assert page.locator("tbody tr[data-image]").last.locator("td.chosen").inner_text() == "–"


def test_the_search_finds_words_of_captions_references_and_ids(visit, report: str, captions) -> None:
    page = visit(report)
    for query in ("red square", "THERE", "scene-007", "nowhere"):
        press(page, "/")
        page.keyboard.type(query)
        said: dict[str, str] = {}
        for (image_id, _), row in captions.items():
            said[image_id] = " ".join(
                [said.get(image_id, image_id), row.caption or "", *row.references]
            ).lower()
        found = [i for i, text in said.items() if all(term in text for term in query.lower().split())]
        expect_count(page, len(found))
        assert set(ids(page)) <= set(found)
        page.get_by_role("button", name="Reset").click()
        expect_count(page, 26)


def test_with_a_base_the_changed_the_better_and_the_worse_can_be_picked_out(
    visit, report: str, captions, scores: pd.DataFrame
) -> None:
    page = visit(report)
    assert not page.get_by_label("changed").is_visible()
    choose(page, "variant", "beam size 5")
    choose(page, "base", "beam size 1")
    changed = [i for i, b in captions if b == 5 and captions[i, 5].caption != captions[i, 1].caption]
    assert 0 < len(changed) < 26
    page.get_by_label("changed").check()
    expect_count(page, len(changed))
    assert set(ids(page)) == set(changed)
    row = page.locator("tbody tr[data-image]").first
    assert row.locator("ins").count() == row.locator("del").count() == 1
    page.get_by_label("changed").uncheck()
    gains = (scores.xs(5, level="beam_size") - scores.xs(1, level="beam_size"))["CIDEr"].round(6)
    page.get_by_label("better (CIDEr)").check()
    expect_count(page, int((gains > 0).sum()))
    page.get_by_label("worse (CIDEr)").check()
    expect_count(page, int((gains != 0).sum()))
    choose(page, "sort", "largest difference in CIDEr")
    assert ids(page)[0] == gains.abs().idxmax()
    assert page.locator("thead th.chosen").get_attribute("aria-sort") == "other"


def test_lengths_bound_what_is_shown(visit, report: str) -> None:
    page = visit(report)
    for name, value, count in (("Shortest", "7", 26), ("Shortest", "8", 0), ("Longest", "7", 0)):
        page.get_by_label(f"{name} length in words").fill(value)
        expect_count(page, count)
    assert page.get_by_text("No image passes these filters.").is_visible()


def test_a_row_opens_by_click_and_by_enter_and_escape_gives_the_focus_back(visit, report: str) -> None:
    page = visit(report)
    viewer = page.locator("dialog.viewer")
    second = page.locator("tbody tr[data-image]").nth(1)
    second.locator("td.score").first.click()
    assert viewer.locator(".image-id").inner_text() == second.locator("td.id").inner_text()
    press(page, "Escape")
    assert not viewer.is_visible()
    assert second.locator("th button").evaluate("e => e === document.activeElement")
    press(page, "j", "Enter")
    third = page.locator("tbody tr[data-image]").nth(2)
    viewer.wait_for()
    assert viewer.locator(".image-id").inner_text() == third.locator("td.id").inner_text()
    assert viewer.locator(".place").inner_text() == "3 of 26"


def test_words_walked_by_key_and_by_pointer_draw_the_stored_maps(
    visit, report: str, finished_run: Path
) -> None:
    page = visit(report + DEEP)
    words = page.locator(".spoken button")
    assert_drawn(page, "a", stored_map(finished_run, FIRST, 2))
    for key, word in (("ArrowRight", 3), ("ArrowLeft", 2), ("End", 6), ("ArrowRight", 6), ("Home", 0)):
        press(page, key)
        assert_drawn(page, "a", stored_map(finished_run, FIRST, word))
        assert words.nth(word).evaluate("e => e === document.activeElement")
    words.nth(5).hover()
    assert_drawn(page, "a", stored_map(finished_run, FIRST, 5))
    assert words.nth(5).get_attribute("aria-current") == "true"
    page.locator(".all-words button").nth(1).click()
    assert_drawn(page, "a", stored_map(finished_run, FIRST, 1))
    press(page, "o")
    assert page.locator('select[name="method"]').input_value() != FIRST


def test_a_map_says_how_much_of_it_its_strongest_cell_holds(visit, report: str, finished_run: Path) -> None:
    page = visit(report + DEEP)
    for key, word in (("Home", 0), ("ArrowRight", 1)):
        press(page, key)
        levels = np.maximum(stored_map(finished_run, FIRST, word).astype(float), 0)
        share = 100 * levels.max() / levels.sum()
        told = page.locator('[data-side="a"] figcaption').inner_text()
        assert f"holds {share:.{0 if share >= 1 else 1}f}\u00a0% of it" in told
        assert told.endswith("if even, each would hold 0.5\u00a0%.")


def test_a_map_lies_exactly_over_its_picture(visit, report: str) -> None:
    page = visit(report + DEEP)
    frame = page.locator('[data-side="a"] .frame')
    assert frame.locator("img").bounding_box() == frame.locator("canvas").bounding_box()


def test_two_methods_stand_beside_their_difference(visit, report: str, finished_run: Path) -> None:
    page = visit(report + DEEP)
    press(page, "d")
    assert page.locator('select[name="with"] option:checked').inner_text() == "Integrated gradients (grid)"
    a, b = (stored_map(finished_run, method, 2) for method in (FIRST, SECOND))
    assert_drawn(page, "a", a)
    assert_drawn(page, "b", b)
    shares = [
        np.maximum(cells, 0) / np.maximum(cells, 0).sum() for cells in (a.astype(float), b.astype(float))
    ]
    difference = shares[0] - shares[1]
    assert_drawn(page, "difference", np.round(STEPS * difference / np.abs(difference).max()))
    assert "warm: more in A, teal: more in B" in page.locator(".legend").inner_text()
    tops = {
        page.locator(f'[data-side="{side}"] .frame').bounding_box()["y"] for side in ("a", "b", "difference")
    }
    assert len(tops) == 1
    press(page, "d")
    assert page.locator(".frames figure:visible").count() == 1


def test_the_measures_of_the_word_are_those_of_the_run(visit, report: str, finished_run: Path) -> None:
    page = visit(report + DEEP + f"&with={SECOND}")
    rows = RunStore(finished_run).read_attributions()
    rows = rows[(rows["image_id"] == SCENE) & (rows["word_index"] == 2)].set_index("method")
    table = page.locator(".measures tbody tr", has_text="Mass")
    expected = [f"{round(rows.loc[method, 'mass'], 4):.3f}" for method in (FIRST, SECOND)]
    assert table.locator("td").all_inner_texts() == expected
    assert "0 to 1, ↑ higher is better" in table.inner_text()
    assert rows.loc[FIRST, "word_class"] in page.locator(".word-now").inner_text()
    resolution = "The grid has 14 × 14 cells, pooled up from 8 × 8."
    assert page.locator(".resolution").inner_text() == resolution


def test_opacity_lets_the_picture_through(visit, report: str) -> None:
    page = visit(report + DEEP)
    frame = page.locator('[data-side="a"] .frame')
    seen = []
    for opacity in ("100", "40", "0"):
        page.get_by_label("Opacity").fill(opacity)
        seen.append(frame.screenshot())
    assert len(set(seen)) == 3
    page.get_by_label("Opacity").fill("100")
    page.get_by_label("smooth").check()
    assert frame.screenshot() not in seen


def test_a_method_that_is_struck_out_says_why(visit, report: str) -> None:
    page = visit(report + DEEP)
    page.locator('select[name="method"]').select_option(value=FAILED)
    assert "its maps equal those of the plain gradient" in page.locator(".remarks").inner_text()
    assert "(struck out)" in page.locator('select[name="method"] option:checked').inner_text()


SNAPSHOT = """() => [...document.querySelectorAll('#samples select')].map(s => s.selectedOptions[0]?.textContent)
  .concat([...document.querySelectorAll('#samples input:not([type=range])')].map(i => i.value + i.checked))
  .concat([...document.querySelectorAll('.count, .image-id, .place, .spoken [aria-current], thead [aria-sort]')]
    .map(e => e.textContent + e.ariaSort))"""


def test_the_address_restores_everything(visit, report: str) -> None:
    page = visit(report)
    choose(page, "variant", "beam size 5")
    choose(page, "base", "beam size 1")
    choose(page, "sort", "METEOR rose most")
    page.get_by_label("with pictures").check()
    page.get_by_label("Longest length in words").fill("9")
    page.get_by_label("Search").fill("red & blue")
    page.get_by_label("Search").fill("red")
    sync_api.expect(page).to_have_url(re.compile("q=red"))
    page.locator("tbody tr[data-image]").nth(2).click()
    page.locator("dialog.viewer").wait_for()
    press(page, "ArrowRight", "ArrowRight", "o", "d")
    sync_api.expect(page).to_have_url(re.compile("word=2.*with="))
    again = visit(page.url)
    again.locator("dialog.viewer").wait_for()
    assert again.evaluate(SNAPSHOT) == page.evaluate(SNAPSHOT)
    assert "METEOR rose most" in again.evaluate(SNAPSHOT)


def test_links_and_anchors_in_an_open_page_are_followed(visit, report: str) -> None:
    page = visit(report)
    page.evaluate(f"location.hash = '{DEEP}'")
    page.locator("dialog.viewer").wait_for()
    assert page.locator(".image-id").inner_text() == SCENE
    assert page.locator(".spoken button").nth(2).get_attribute("aria-current") == "true"
    page.evaluate("location.hash = '#id=nobody'")
    page.get_by_text("no image with the id").wait_for()
    sync_api.expect(page.locator("dialog.viewer")).not_to_be_visible()
    page.evaluate("location.hash = '#scores'")
    sync_api.expect(page.locator("dialog.viewer")).not_to_be_visible()
    expect_count(page, 26)


def test_an_address_is_followed_though_the_page_is_about_to_write_its_own(visit, report: str) -> None:
    page = visit(report)
    page.evaluate(f"location.hash = '{DEEP}'")
    page.locator("dialog.viewer").wait_for()
    # The page writes its address a moment after the last change, and here between a new one and its event.
    page.evaluate("location.hash = '#id=nobody'; history.replaceState(null, '', '#id=x')")
    page.get_by_text("no image with the id").wait_for()
    sync_api.expect(page.locator("dialog.viewer")).not_to_be_visible()


def test_j_and_k_walk_the_images_that_the_filter_leaves(visit, report: str) -> None:
    page = visit(report)
    page.get_by_label("Search").fill("scene-01")
    sync_api.expect(page.locator(".count")).not_to_have_text("26 of 26 images")
    order = ids(page)
    assert 2 < len(order) < 20
    page.get_by_label("Search").press("j")  # typed, not obeyed
    assert page.locator("tr.current").count() == 0
    page.get_by_label("Search").fill("scene-01")
    expect_count(page, len(order))
    page.get_by_label("Search").blur()
    press(page, "j", "j", "Control+j")
    assert page.locator("tr.current td.id").inner_text() == order[1]
    press(page, "Enter")
    page.locator("dialog.viewer").wait_for()
    for key, place in (("j", 2), ("k", 1), ("k", 0), ("k", 0)):
        press(page, key)
        sync_api.expect(page.locator(".image-id")).to_have_text(order[place])
    press(page, "Escape")
    assert page.locator("tr.current td.id").inner_text() == order[0]
    press(page, "?")
    assert page.get_by_role("heading", name="Keys").is_visible()
    press(page, "Escape")
    press(page, "/")
    assert page.get_by_label("Search").evaluate("e => e === document.activeElement")


def test_a_slash_leaves_the_open_image_for_the_search(visit, report: str) -> None:
    page = visit(report + DEEP)
    press(page, "/")
    sync_api.expect(page.locator("dialog.viewer")).not_to_be_visible()
    page.evaluate("() => new Promise(done => setTimeout(done, 50))")
    assert page.get_by_label("Search").evaluate("e => e === document.activeElement")


def download(page, name: str) -> str:
    with page.expect_download() as waiting:
        page.get_by_role("button", name=name).click()
    return Path(waiting.value.path()).read_text(encoding="utf-8-sig")


def test_exports_hold_what_the_filter_leaves_in_its_order(visit, report: str, scores: pd.DataFrame) -> None:
    page = visit(report + "#sort=METEOR&down=1&q=scene-01&variant=beam%20size%205&base=beam%20size%201")
    order = ids(page)
    assert 2 < len(order) < 20
    rows = list(csv.DictReader(io.StringIO(download(page, "Download CSV"))))
    records = json.loads(download(page, "Download JSON"))
    assert [row["image_id"] for row in rows] == [record["image_id"] for record in records] == order
    for row, record in zip(rows, records, strict=True):
        expected = scores.loc[(row["image_id"], 5), "METEOR"]
        assert float(row["METEOR"]) == record["scores"]["METEOR"] == expected
        assert float(row["base METEOR"]) == scores.loc[(row["image_id"], 1), "METEOR"]
        assert row["beam size"] == record["beam size"] == "beam size 5"
        assert len(record["references"]) == 2
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy JSON").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert json.loads(page.evaluate("navigator.clipboard.readText()")) == records


def test_a_spreadsheet_executes_no_caption(visit, hostile: str) -> None:
    page = visit(hostile)
    choose(page, "sort", "as in the data")
    rows = list(csv.DictReader(io.StringIO(download(page, "Download CSV"))))
    cells = [cell for row in rows for cell in (row["caption"], row["references"])]
    assert len(cells) == 2 * len(HOSTILE)
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in cells)
    assert [row["caption"][0] for row in rows[:3]] == ["'"] * 3
    assert sum(float(row["METEOR"] or -1) >= 0 for row in rows) == len(rows) - 1


def test_hostile_texts_are_shown_and_not_obeyed(visit, hostile: str) -> None:
    page = visit(hostile)
    choose(page, "sort", "as in the data")
    shown = page.locator("tbody th button").all_inner_texts()
    assert shown[1] == HOSTILE[1]
    assert shown[2] == HOSTILE[2]
    assert "(3,001 characters)" in page.locator("tbody th button").nth(4).text_content()
    for number in range(len(HOSTILE)):
        page.locator("tbody th button").nth(number).click()
        page.locator("dialog.viewer").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate("e => e.scrollWidth <= e.clientWidth", page.query_selector("dialog.viewer"))
        press(page, "Escape")
    made = page.evaluate("document.querySelectorAll('#samples :is(script, svg, iframe, [onerror])').length")
    assert made == 0


def test_five_thousand_images_take_a_screenful_of_rows(visit, large: str) -> None:
    page = visit(large)
    expect_count(page, 5000, 5000)
    table = page.locator(".rows table")
    assert table.get_attribute("aria-rowcount") == "5001"
    assert page.locator(".rows tr").count() < 200
    choose(page, "sort", "as in the data")
    page.locator(".rows").evaluate("e => e.scrollTo(0, e.scrollHeight)")
    last = page.locator('tr[aria-rowindex="5001"]')
    last.wait_for()
    assert last.locator("td.id").inner_text() == "more-4997"
    assert page.locator(".rows tr").count() < 200
    box, rows = last.bounding_box(), page.locator(".rows").bounding_box()
    assert box["y"] + box["height"] <= rows["y"] + rows["height"] + 1
    rows_now = "document.querySelectorAll('tr[data-image]').length"
    page.evaluate(f"addEventListener('beforeprint', () => {{ window.printed = {rows_now} }})")
    page.pdf()
    assert page.evaluate("window.printed") == 100
    assert page.locator(".rows tr").count() < 60


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen_never_scrolls_sideways(visit, report: str, scheme: str) -> None:
    page = visit(
        report + "#base=beam%20size%201&variant=beam%20size%205&sort=METEOR", width=390, scheme=scheme
    )
    fits = "e => e.scrollWidth <= e.clientWidth"
    assert page.evaluate(fits, page.query_selector("html"))
    assert page.evaluate(fits, page.query_selector(".rows"))
    heads = page.locator(".rows thead th:visible").all_inner_texts()
    assert [head.split()[0] for head in heads] == ["Caption", "METEOR"]
    page.locator("tbody th button").first.click()
    page.locator("dialog.viewer").wait_for()
    press(page, "d", "End")
    assert page.locator(".frames figure:visible").count() == 3
    assert page.evaluate(fits, page.query_selector("html"))
    assert page.evaluate(fits, page.query_selector("dialog.viewer"))


CONTRAST = """root => {
  const light = c => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255)
      .map(x => x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
    return .2126 * v[0] + .7152 * v[1] + .0722 * v[2] };
  const behind = e => { for (; e; e = e.parentElement) {
    const c = getComputedStyle(e).backgroundColor; if (!c.startsWith('rgba(0, 0, 0, 0')) return c } };
  return [...document.querySelectorAll(root + ' *')].filter(e => e.checkVisibility()
      && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())).map(e => {
    const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
    return [(a + .05) / (b + .05), e.tagName + '.' + e.className + ' ' + e.textContent.slice(0, 40)] })
    .sort((x, y) => x[0] - y[0]) }"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_a_contrast_of_at_least_four_and_a_half(visit, report: str, scheme: str) -> None:
    page = visit(report + DEEP + f"&with={FAILED}&base=beam%20size%201&sort=change%20CIDEr", scheme=scheme)
    for root in ("#samples > :not(dialog)", "dialog.viewer"):
        texts = page.evaluate(CONTRAST, root)
        assert len(texts) > 30
        assert texts[0][0] >= 4.5, texts[0]


def test_an_image_without_picture_or_maps_says_how_to_get_them(visit, large: str) -> None:
    page = visit(large)
    page.get_by_label("with pictures").check()
    expect_count(page, 2, 5000)
    assert page.locator("tbody img").count() == 2
    page.get_by_label("with pictures").uncheck()
    page.get_by_label("Search").fill("more-0007")
    expect_count(page, 1, 5000)
    page.locator("tbody th button").click()
    page.locator("dialog.viewer").wait_for()
    said = page.locator(".lacking").inner_text()
    assert "This page holds no picture of this image." in said
    assert "This page holds no map of this image." in said
    assert "gazebench report RUN --images all" in said
    press(page, "ArrowRight", "ArrowRight")
    assert current(page) == page.locator(".spoken button").nth(2).inner_text().split("\n")[0]


def test_a_bundle_reads_the_files_beside_it(visit, finished_run: Path, tmp_path: Path) -> None:
    index = write_report(finished_run, bundle=tmp_path / "bundle")
    page = visit(index.as_uri() + DEEP)
    page.locator("dialog.viewer").wait_for()
    assert_drawn(page, "a", stored_map(finished_run, FIRST, 2))
    assert page.locator('[data-side="a"] img').evaluate("e => e.complete && e.naturalWidth > 0")
    assert any("/data/sample-" in url for url in visit.requests)


def test_the_viewer_alone_walks_its_pictures_in_the_flow_of_the_page(make_run, visit, tmp_path: Path) -> None:
    store = make_run(tmp_path / "run", images=3)
    rows = [row for row in store.read_captions() if row.beam_size == 5]
    (store.path / "captions.jsonl").unlink()
    store.append_captions(rows)
    page = visit(write_pictures_page(store, tmp_path / "page.html").as_uri(), width=390)
    title, canvas = page.locator(".image-id"), page.locator('[data-side="a"] canvas')
    sync_api.expect(title).to_have_text("scene-000")
    before = canvas.evaluate(NUMBERS)
    page.locator(".spoken button").nth(1).click()
    assert canvas.evaluate(NUMBERS) != before
    page.get_by_role("button", name="Next").click()
    sync_api.expect(title).to_have_text("scene-001")
    press(page, "j", "j")
    sync_api.expect(title).to_have_text("scene-002")
    page.get_by_role("button", name="Previous").click()
    sync_api.expect(title).to_have_text("scene-001")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_word_is_seen_beside_the_same_word_of_another_run(make_run, visit, tmp_path: Path) -> None:
    first, other = (make_run(tmp_path / name, images=5) for name in ("first", "other"))
    keys = {method: map_key(SCENE, 5, method) for method in (FIRST, SECOND)}
    maps = first.read_maps(keys.values())
    # The other run begins with one word more, and its attention is the first run's integrated gradients.
    longer = np.concatenate([np.ones((1, 14, 14), np.float16), maps[keys[SECOND]]])
    other.write_maps({keys[FIRST]: longer})
    rows = [
        dataclasses.replace(row, caption=f"look {row.caption}", words=("look", *row.words))
        for row in other.read_captions()
    ]
    (other.path / "captions.jsonl").unlink()
    other.append_captions(rows)
    write_comparison([str(first.path), str(other.path)], tmp_path / "page.html", beam_size=5)
    page = visit((tmp_path / "page.html").as_uri() + f"#id={SCENE}&word=3&variant=1&with={FIRST}&of=0")
    page.locator("dialog.viewer").wait_for()
    assert_drawn(page, "a", quantised(maps[keys[SECOND]])[2])
    assert_drawn(page, "b", quantised(maps[keys[FIRST]])[2])
    press(page, "Home")
    assert page.locator('[data-side="b"] figcaption').inner_text().endswith("(no map of this word)")
