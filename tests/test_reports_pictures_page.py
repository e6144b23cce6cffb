"""The page about pictures of one's own, made from a run directory alone."""

import dataclasses
import math
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import html5lib
import pytest
from hostile_runs import ATTACKS, count_tags, poison
from PIL import Image

from reports.pictures_page import write_pictures_page
from reports.records import Alternative, Failure, RunError
from reports.store import RunStore

HOSTILE = "</script><script>window.hit = 1</script><img src=x onerror='window.hit = 1'>{{7*7}}\u2028\u202e"


def own_pictures(store: RunStore) -> RunStore:
    """Makes a run look like that of `gazebench explain`: one beam size, nothing scored, several captions."""
    rows = [row for row in store.read_captions() if row.beam_size == 5]
    other = Alternative("a blue square", ("a", "blue", "square"), (4, 5, 6), math.log(0.25), -1.0, False)
    rare = Alternative(HOSTILE, (HOSTILE,), (7,), -40.0, -9.0, True)
    (store.path / "captions.jsonl").unlink()
    store.append_captions(dataclasses.replace(row, references=(), alternatives=(other, rare)) for row in rows)
    (store.path / "scores.parquet").unlink()
    store.append_failures(
        [Failure("broken.jpg", "'broken.jpg' can't be read as a picture: /home/ann/broken.jpg")]
    )
    record = store.read_run()
    store.write_run(
        dataclasses.replace(
            record,
            metrics=(),
            command="gazebench explain /home/ann/models/best.pth photo.jpg",
            config={"length_exponent": 0.7},
            search_signature="decoding:default|lp:0.7",
            warnings=("The words came from /home/ann/words.json.",),
        )
    )
    return store


@pytest.fixture
def store(make_run: Callable[..., RunStore], tmp_path: Path) -> RunStore:
    return own_pictures(make_run(tmp_path / "run", images=2))


@pytest.fixture(scope="module")
def page(make_run: Callable[..., RunStore], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    return write_pictures_page(own_pictures(make_run(folder / "run", images=3)), folder / "page.html")


def article(page: Path):
    """The first picture of the page, as an element."""
    tree = html5lib.parse(page.read_text(), namespaceHTMLElements=False)
    return next(element for element in tree.iter("article"))


def text_of(element) -> str:
    return " ".join("".join(element.itertext()).split())


def test_a_picture_has_its_caption_how_sure_the_model_was_and_what_else_it_could_have_said(
    store: RunStore, tmp_path: Path
) -> None:
    row = store.read_captions()[0]
    shown = article(write_pictures_page(store, tmp_path / "page.html"))
    assert text_of(shown.find(".//h2")) == row.caption
    logs = row.word_log_probs[: len(row.words)]
    mean, least = (round(100 * math.exp(value)) for value in (sum(logs) / len(logs), min(logs)))
    assert re.search(rf"held its 7 words {mean}(\.\d)? % probable each", text_of(shown))
    assert re.search(rf"least probable was “{row.words[logs.index(min(logs))]}” with {least}", text_of(shown))
    table = [text_of(line) for line in shown.findall(".//table[@class='grid']/tbody/tr")]
    assert table[0].startswith(row.caption)
    assert table[1] == "a blue square … (unfinished)25 %log p −1.39"
    assert table[2].endswith("below 0.1 %log p −40.0")


def test_every_word_has_a_map_of_attention_and_of_integrated_gradients_without_a_script(page: Path) -> None:
    shown = article(page)
    rows = shown.findall(".//table[@class='maps']/tbody/tr")
    assert [text_of(row.find("th")) for row in rows] == ["Attention", "Integrated gradients (grid)"]
    for row in rows:
        sources = [image.get("src") for image in row.iter("img")]
        assert len(sources) == 7
        assert all(source.startswith("data:image/png;base64,") for source in sources)


def test_the_page_says_what_made_it_and_what_nobody_measured(page: Path) -> None:
    text = text_of(html5lib.parse(page.read_text(), namespaceHTMLElements=False))
    for part in (
        "no proof that it understood",
        "Beam search, beam size 5",
        "decoding:default|lp:0.7",
        "Whether a caption is good, as nobody wrote references",
        "The grid has 14 × 14 cells, pooled up from 8 × 8.",
        "This command makes the same page again",
        "Guided backprop (pixels) is not to be believed here",
        "Pictures that failed: 1 of 3, listed below.",
    ):
        assert part in text


def test_paths_are_left_out_unless_asked_for(store: RunStore, tmp_path: Path) -> None:
    without = write_pictures_page(store, tmp_path / "without.html").read_text()
    assert "ann" not in re.findall(r"\w+", without)
    assert "…/best.pth photo.jpg" in without
    assert "…/words.json" in without
    whole = write_pictures_page(store, tmp_path / "with.html", with_paths=True).read_text()
    for part in ("/home/ann/models/best.pth", "/home/ann/words.json", "/home/ann/broken.jpg"):
        assert part in whole


def test_equal_runs_give_equal_pages_and_strips(store: RunStore, tmp_path: Path) -> None:
    image_id = store.read_captions()[0].image_id
    written = []
    for name in ("one", "two"):
        strips = {image_id: tmp_path / name / "strip.png"}
        page = write_pictures_page(store, tmp_path / name / "page.html", strips=strips)
        written.append((page.read_bytes(), strips[image_id].read_bytes()))
    assert written[0] == written[1]


def test_nothing_is_written_where_one_part_cannot_be(store: RunStore, tmp_path: Path) -> None:
    first, second = store.read_captions()
    out = tmp_path / "new"
    strips = {row.image_id: out / f"{number}.png" for number, row in enumerate((first, second))}
    shutil.rmtree(store.path / "thumbs")
    with pytest.raises(RunError, match=f"holds no picture of '{first.image_id}'; explain it again"):
        write_pictures_page(store, out / "page.html", strips=strips)
    assert not out.exists()


def test_a_strip_that_takes_no_place_takes_the_others_with_it(store: RunStore, tmp_path: Path) -> None:
    first, second = store.read_captions()
    (tmp_path / "file").write_text("")
    strips = {first.image_id: tmp_path / "a.png", second.image_id: tmp_path / "file" / "b.png"}
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OSError, match="file"):
        write_pictures_page(store, tmp_path / "page.html", strips=strips)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_strip_shows_what_the_page_shows(store: RunStore, tmp_path: Path) -> None:
    image_id = store.read_captions()[0].image_id
    write_pictures_page(
        store, tmp_path / "p.html", strips={image_id: tmp_path / "s.png", "broken.jpg": tmp_path / "b.png"}
    )
    with Image.open(tmp_path / "s.png") as strip:
        assert strip.size[0] > 1500
    assert not (tmp_path / "b.png").exists()


def test_captions_without_words_or_end_and_unknown_words_are_told(store: RunStore, tmp_path: Path) -> None:
    first, second = store.read_captions()
    (store.path / "captions.jsonl").unlink()
    silent = dataclasses.replace(
        first, caption="", words=(), token_ids=(), word_log_probs=(), alternatives=()
    )
    words = ("<unk>", *second.words[1:])
    open_end = dataclasses.replace(second, words=words, caption=" ".join(words), finished=False)
    store.append_captions([silent, open_end])
    record = store.read_run()
    assert record.model is not None
    store.write_run(
        dataclasses.replace(record, model=dataclasses.replace(record.model, unknown_word="<unk>"))
    )
    text = text_of(
        html5lib.parse(
            write_pictures_page(store, tmp_path / "p.html").read_text(), namespaceHTMLElements=False
        )
    )
    for part in (
        "The model said no word.",
        "No other caption was kept",
        "The sentence is not finished",
        "Captions that reached the length limit before their end: 1.",
        "“<unk>” stands for a word that the model does not know.",
    ):
        assert part in text


def test_a_run_that_explained_nothing_gives_a_page_without_a_viewer(store: RunStore, tmp_path: Path) -> None:
    (store.path / "attributions.parquet").unlink()
    store.write_run(dataclasses.replace(store.read_run(), explanations=None))
    page = write_pictures_page(store, tmp_path / "p.html")
    assert "There are no maps" in page.read_text()
    assert "<script" not in page.read_text()


def test_captions_from_a_file_are_refused(store: RunStore, tmp_path: Path) -> None:
    store.write_run(dataclasses.replace(store.read_run(), model=None))
    with pytest.raises(RunError, match="holds captions from a file; expected those of a model"):
        write_pictures_page(store, tmp_path / "p.html")
    assert not (tmp_path / "p.html").exists()


def test_hostile_captions_are_text(page: Path) -> None:
    html5lib.HTMLParser(strict=True).parse(page.read_text())
    tree = html5lib.parse(page.read_text(), namespaceHTMLElements=False)
    assert [element.get("type") for element in tree.iter("script")].count(None) == 1
    assert "{{7*7}}" in text_of(tree)


def attacked(make_run: Callable[..., RunStore], folder: Path, attack: str) -> str:
    store = own_pictures(make_run(folder / "run", images=2))
    poison(store, attack)
    return write_pictures_page(store, folder / "page.html", with_paths=True).read_text()


@pytest.fixture(scope="module")
def harmless(make_run: Callable[..., RunStore], tmp_path_factory: pytest.TempPathFactory) -> Counter[str]:
    page = attacked(make_run, tmp_path_factory.mktemp("harmless"), " and more")
    return count_tags(list(html5lib.parse(page, namespaceHTMLElements=False).iter()))


@pytest.mark.parametrize("attack", ATTACKS, ids=["markup", "quotes", "controls", "length"])
def test_no_text_of_a_stranger_becomes_markup(
    make_run: Callable[..., RunStore], tmp_path: Path, harmless: Counter[str], attack: str
) -> None:
    page = attacked(make_run, tmp_path, attack)
    html5lib.HTMLParser(strict=True).parse(page)
    tree = html5lib.parse(page, namespaceHTMLElements=False)
    assert count_tags(list(tree.iter())) == harmless
    assert not [key for e in tree.iter() for key in e.attrib if str(key).lower().startswith("on")]
    if attack.isprintable() and len(attack) < 400:
        assert attack in "".join(tree.itertext())


def test_the_page_is_made_without_torch() -> None:
    probe = (
        "import sys, reports.pictures_page; print({'torch', 'bench', 'models', 'explain'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-P", "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


class Opened:
    """The page in a browser, with all that it complained of and asked for."""

    def __init__(self, browser, page: Path, **options) -> None:
        self.view = browser.new_page(**{"viewport": {"width": 1280, "height": 900}} | options)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.view.on("console", lambda message: self.complaints.append(message.text))
        self.view.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.view.on("request", lambda request: self.requests.append(request.url))
        self.view.goto(page.as_uri(), wait_until="load")

    def map_shown(self) -> str:
        """What the viewer's first canvas shows, as a data URI."""
        return self.view.locator("#gaze figure[data-side='a'] canvas").evaluate("c => c.toDataURL()")

    def word(self) -> str:
        return self.view.locator("#gaze .spoken [aria-current]").inner_text()


@pytest.mark.browser
def test_the_page_opens_from_a_file_without_network_or_complaint(browser, page: Path) -> None:
    opened = Opened(browser, page)
    opened.view.locator("#gaze .spoken button").first.wait_for()
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [page.as_uri()]
    assert opened.view.evaluate("window.hit") is None
    sizes = opened.view.evaluate(
        "[...document.querySelectorAll('.tile img')].map(i => [i.complete, i.naturalWidth])"
    )
    assert sizes == [[True, 14]] * (3 * 7 * 2)


@pytest.mark.browser
def test_keys_and_pointer_move_the_gaze(browser, page: Path) -> None:
    opened = Opened(browser, page)
    words = opened.view.locator("#gaze .spoken button")
    words.first.wait_for()
    first, shown = opened.word(), opened.map_shown()
    words.first.focus()
    opened.view.keyboard.press("ArrowRight")
    by_key = opened.map_shown()
    assert opened.word() != first
    assert by_key != shown
    words.nth(4).hover()
    assert opened.map_shown() not in (shown, by_key)
    assert opened.complaints == []


@pytest.mark.browser
def test_the_viewer_goes_from_picture_to_picture(browser, page: Path) -> None:
    opened = Opened(browser, page)
    name = opened.view.locator("#gaze .image-id")
    opened.view.locator("#gaze .spoken button").first.wait_for()
    seen = [name.inner_text()]
    for _ in range(2):
        opened.view.locator("#gaze button[data-do='next']").click()
        seen.append(name.inner_text())
    assert len(set(seen)) == 3
    assert opened.complaints == []


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("script", [True, False])
def test_the_page_is_never_wider_than_the_window(
    browser, page: Path, width: int, scheme: str, script: bool
) -> None:
    opened = Opened(
        browser,
        page,
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
        java_script_enabled=script,
    )
    assert opened.view.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.view.locator("article h2").first.is_visible()


@pytest.mark.browser
def test_without_a_script_the_page_says_that_a_part_needs_one(browser, page: Path) -> None:
    opened = Opened(browser, page, java_script_enabled=False)
    assert opened.view.locator("#gaze noscript").inner_text() == (
        "This part needs JavaScript; everything else on this page does without."
    )
    assert not opened.view.locator("#samples").is_visible()
