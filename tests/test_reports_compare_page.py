"""The page of a comparison: safe, valid, the same again, and readable in a real browser."""

import dataclasses
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import html5lib
import pytest
from hostile_runs import ATTACKS, count_tags, poison

from bench.cli import main
from reports.comparison.compare import compare
from reports.comparison.markdown import as_markdown
from reports.comparison.output import as_json, as_text
from reports.comparison.page import render_comparison, write_comparison
from reports.gallery import Wanted
from reports.records import RunError
from reports.store import RunStore
from reports.wording import defused

SECTIONS = ["verdict", "scores", "captions", "explanations", "speed", "runs", "browse", "provenance"]


def parse(page: str) -> list:
    """Every element, once the page is known to be valid HTML."""
    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    return list(parser.parse(page).iter())


def text_of(element) -> str:
    return " ".join(" ".join(element.itertext()).split())


def worsen(run: Path) -> None:
    """Says another word in ten captions, and scores them lower."""
    store, hit = RunStore(run), {f"scene-{n:03d}" for n in range(10)}
    frame = store.read_scores()
    assert frame is not None
    rows = frame["image_id"].isin(hit) & (frame["beam_size"] == 5)
    frame["CIDEr"] = frame["CIDEr"].where(~rows, frame["CIDEr"] - 2)
    store.write_scores(frame)
    means = frame.groupby("beam_size")["CIDEr"].mean()
    record = store.read_run()
    store.write_run(dataclasses.replace(record, metrics=tuple(
        dataclasses.replace(row, value=float(means[row.beam_size])) if row.name == "CIDEr" else row
        for row in record.metrics
    )))  # fmt: skip
    captions = store.read_captions()
    (run / "captions.jsonl").unlink()
    for n, row in enumerate(captions):
        if row.image_id in hit and row.beam_size == 5:
            words = (*row.words[:1], "pink", *row.words[2:])
            captions[n] = dataclasses.replace(row, words=words, caption=" ".join(words))
    store.append_captions(captions)


@pytest.fixture(scope="module")
def runs(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("compared")
    for name in ("first", "worse", "third"):
        shutil.copytree(finished_run, folder / name)
    worsen(folder / "worse")
    return [str(folder / name) for name in ("first", "worse", "third")]


@pytest.fixture(scope="module")
def written(runs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two runs with its files; only to be read."""
    out = tmp_path_factory.mktemp("page") / "two.html"
    write_comparison(runs[:2], out, command="gazebench compare first worse")
    return out


@pytest.fixture(scope="module")
def page(written: Path) -> str:
    return written.read_text()


@pytest.fixture(scope="module")
def elements(page: str) -> list:
    return parse(page)


def test_the_page_is_valid_html_with_unique_ids_and_links_that_lead_somewhere(elements: list) -> None:
    ids = Counter(element.get("id") for element in elements if element.get("id"))
    assert [name for name, count in ids.items() if count > 1] == []
    targets = [element.get("href") for element in elements if element.tag == "a"]
    assert targets
    assert all(target[0] == "#" and target[1:] in ids for target in targets)


def test_the_verdict_comes_first_and_provenance_last(elements: list) -> None:
    assert [e.get("id") for e in elements if e.tag == "section"] == SECTIONS
    assert next(text_of(e) for e in elements if e.get("class") == "answer") == "No, worse"


def test_tables_are_semantic_and_every_table_has_a_caption(elements: list) -> None:
    tables = [e for e in elements if e.tag == "table" and e.find("caption") is not None]
    assert len(tables) >= 8
    for table in tables:
        assert all(head.get("scope") in ("col", "row", "rowgroup") for head in table.iter("th"))


def test_scores_say_direction_interval_p_and_outcome_in_words(elements: list) -> None:
    rows = [text_of(e) for e in elements if e.tag == "tr"]
    (cider,) = [row for row in rows if row.startswith("CIDEr ↑ higher is better, 0 to 10")]
    assert "10 of 26 differ ▼ worse" in cider
    assert re.search(r"−0\.769 −\d\.\d{3} to −\d\.\d{3}", cider)


def test_captions_that_changed_are_shown_with_the_words_that_went_and_came(elements: list) -> None:
    inserted = [text_of(e) for e in elements if e.tag == "ins"]
    assert inserted.count("pink") == 10
    deleted = [text_of(e) for e in elements if e.tag == "del"]
    assert len(deleted) == 11, "ten captions, and the legend"


def test_equal_runs_give_equal_pages(runs: list[str], page: str) -> None:
    again = compare(runs[:2], command="gazebench compare first worse")
    assert render_comparison(again).html == page


def test_json_and_markdown_lie_beside_the_page(written: Path) -> None:
    assert sorted(path.name for path in written.parent.iterdir()) == ["two.html", "two.json", "two.md"]
    assert (
        json.loads(written.with_suffix(".json").read_text())["verdict"]["runs"][0]["answers"][0]["answer"]
        == "No, worse"
    )
    assert "**No, worse.**" in written.with_suffix(".md").read_text()


def test_what_can_not_be_compared_leaves_no_file(runs: list[str], tmp_path: Path) -> None:
    with pytest.raises(RunError, match="expected 2 to 8"):
        write_comparison(runs[:1], tmp_path / "new" / "page.html")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("run/run.html", "in the directory of a run"),
        ("x.json", "the comparison’s .json file would take its place"),
        ("x.MD", "the comparison’s .MD file would take its place"),
        ("run", "which is no name of a file"),
    ],
)
def test_a_page_never_takes_the_place_of_other_files(
    runs: list[str], tmp_path: Path, name: str, reason: str
) -> None:
    (tmp_path / "run").mkdir()
    record = tmp_path / "run" / "run.json"
    record.write_text("{}")
    with pytest.raises(RunError, match=re.escape(reason)):
        write_comparison(runs[:2], tmp_path / name)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [record]
    assert record.read_text() == "{}"


def test_more_than_two_runs_have_a_matrix_of_who_beats_whom(runs: list[str]) -> None:
    html = render_comparison(compare(runs), images=Wanted(0)).html
    elements = parse(html)
    assert "matrix" in {e.get("id") for e in elements}
    rows = [text_of(e) for e in elements if e.tag == "tr"]
    assert "worse ▼ worse −0.769 – ▼ worse −0.769" in rows
    assert "first – ▲ better +0.769 = level 0.000" in rows


def test_pictures_are_as_many_as_asked_for(runs: list[str]) -> None:
    comparison = compare(runs[:2])
    shown = []
    for wanted in (0, 3, None):
        html = render_comparison(comparison, images=Wanted(wanted)).html
        data = re.search(r'id="data-pictures">(.*?)</script>', html)
        assert data
        shown.append(len(json.loads(data[1])))
    assert shown == [0, 3, 26]


def test_paths_are_left_out_unless_asked_for(runs: list[str], tmp_path: Path) -> None:
    secret = Path(shutil.copytree(runs[0], tmp_path / "secret"))
    store = RunStore(secret)
    record = store.read_run()
    store.write_run(dataclasses.replace(
        record, config={**record.config, "images": "/home/ann/photos"}, command="gazebench eval /home/ann/x.pth"
    ))  # fmt: skip
    for with_paths in (False, True):
        comparison = write_comparison(
            [runs[0], str(secret)], tmp_path / "out.html", with_paths=with_paths,
            command="gazebench compare /home/ann/runs/a b",
        )  # fmt: skip
        texts = [(tmp_path / f"out.{kind}").read_text() for kind in ("html", "json", "md")]
        assert ["/home/ann" in text for text in texts] == [with_paths, with_paths, False]
        assert "gazebench compare" in comparison.command
        assert str(tmp_path) not in "".join(texts)


def compare_poisoned(make_run: Callable[..., RunStore], folder: Path, attack: str):
    name = "".join(c for c in attack[:60] if c not in "/\0\udc80") or "x"
    for place, run in enumerate((folder / f"a{name}", folder / f"b{name}")):
        store = make_run(run, images=7)
        if place:
            worsen(run)
        poison(store, attack, spared=("signature", "metric_signature", "search_signature", "sha256"))
    return compare(
        [str(folder / f"a{name}"), str(folder / f"b{name}")], command=f"gazebench compare {attack}"
    )


@pytest.fixture(scope="module")
def harmless(make_run, tmp_path_factory: pytest.TempPathFactory) -> Counter[str]:
    comparison = compare_poisoned(make_run, tmp_path_factory.mktemp("harmless"), " and more")
    return count_tags(parse(render_comparison(comparison).html))


@pytest.mark.parametrize("attack", ATTACKS, ids=["markup", "quotes", "controls", "length"])
def test_no_text_of_a_stranger_becomes_markup(make_run, tmp_path: Path, harmless, attack: str) -> None:
    comparison = compare_poisoned(make_run, tmp_path, attack)
    html = render_comparison(comparison).html
    elements = parse(html)
    assert count_tags(elements) == harmless
    assert harmless["ins"] == 8
    assert not [key for e in elements for key in e.attrib if str(key).lower().startswith("on")]
    assert all(e.get("src").startswith("data:image/jpeg;base64,") for e in elements if e.tag == "img")
    content = json.loads(as_json(comparison), parse_constant=pytest.fail)
    assert all(line.isascii() for line in as_json(comparison).splitlines())
    assert len(content["captions"][0]["lost_most"]) == 7
    for text in (as_markdown(comparison), as_text(comparison)):
        assert all(line.isprintable() for line in re.sub("[\u200b\xa0]", " ", text).split("\n"))
    told = as_markdown(comparison)
    assert set(re.findall(r"(?<!\\)<(/?\w+)", told)) <= {"ins", "/ins", "del", "/del", "sub", "/sub"}
    tables = [line for line in told.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {10, 5}


def test_markdown_shows_markup_as_text() -> None:
    assert defused("a|b<c>`d*e_f[g](h)~i$j!") == r"a\|b&lt;c&gt;\`d\*e\_f\[g\](h)\~i\$j\!"
    assert defused("line\r\nbreak\u2028here") == "line break here"
    assert defused("@someone #1") == "@\u200bsomeone #\u200b1"
    assert "://" not in defused("https://x.y")
    assert "www." not in defused("WWW.x.y www.x.y".lower())


def test_the_command_prints_the_verdict_and_writes_three_files(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    assert main(["compare", *runs[:2], "-o", str(out), "--images", "none"]) == 0
    printed = capsys.readouterr().out
    assert "Is “worse” better than “first”? No, worse." in printed
    assert "▼ worse" in printed
    assert {path.suffix for path in tmp_path.iterdir()} == {".html", ".json", ".md"}
    assert main(["compare", f"{runs[0]}@1", f"{runs[0]}@5", "-o", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["beam_size"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "some"], "--images is 'some'; expected a number of images, all or none"),
        (["--beam-size", "9"], "has no captions of beam size 9"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_two(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["compare", *runs[:2], "-o", str(tmp_path / "x.html"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()


@pytest.mark.browser
def test_the_page_opens_from_a_file_without_network_or_complaint(browser, written: Path) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(written.as_uri(), wait_until="load")
    page.locator("#samples").wait_for(state="visible")
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [written.as_uri()]
    assert page.locator("select[name=variant] option").all_inner_texts() == ["first", "worse"]
    assert page.locator("select[name=variant]").input_value() == "1"
    assert page.locator("select[name=base]").input_value() == "0"


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_never_wider_than_the_window(browser, written: Path, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.goto(written.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.browser
def test_all_but_the_samples_is_there_without_script(browser, written: Path) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(written.as_uri())
    assert page.locator(".answer").first.inner_text() == "No, worse"
    assert page.locator("ins", has_text="pink").count() == 10
    assert page.locator("#samples").is_hidden()
