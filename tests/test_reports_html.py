"""The report: one safe file made from the run directory alone."""

import base64
import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import html5lib
import numpy as np
import pytest
from hostile_runs import ATTACKS, count_tags, poison

from reports.estimates import OPERATED
from reports.gallery import Wanted
from reports.html import STRIPS, render_report, write_report
from reports.legend import CAPTIONS, MEASURES, OPERATORS, measure_of
from reports.maps import map_key
from reports.page import SCRIPTS
from reports.records import (
    AGREEMENT,
    EXTRAS,
    GATE,
    LOCALISATION,
    PATHS,
    TRIAL_DISTANCES,
    TRIAL_DROPS,
    Failure,
    ImageCounts,
    MetricRow,
    RunError,
)
from reports.samples import WORDS
from reports.store import RunStore
from reports.strips import SHOWN_WORDS

ROOT = Path(__file__).parents[1]


def parse(page: str) -> list:
    """Every element, once the page is known to be valid HTML."""
    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    return list(parser.parse(page).iter())


def markup(page: str) -> str:
    """The page without what stands in its scripts."""
    return re.sub(r"(<script[^>]*>).*?(</script>)", r"\1\2", page, flags=re.DOTALL)


def rendered(store: RunStore) -> str:
    return render_report(store).html


def gallery_of(page: str) -> dict:
    """The data of the sample browser."""
    return json.loads(re.search(r'id="data-gallery">(.*?)</script>', page, re.DOTALL).group(1))


def edit_run(store: RunStore, **fields: object) -> None:
    store.write_run(dataclasses.replace(store.read_run(), **fields))


@pytest.fixture(scope="module")
def page(finished_run: Path) -> str:
    return rendered(RunStore(finished_run))


def test_the_page_is_valid_html_with_unique_ids(page: str) -> None:
    elements = parse(page)
    ids = Counter(element.get("id") for element in elements if element.get("id"))
    assert [name for name, count in ids.items() if count > 1] == []
    targets = [element.get("href") for element in elements if element.tag == "a"]
    assert targets
    assert all(target[0] == "#" for target in targets)
    assert all(target[1:] in ids for target in targets if "=" not in target)
    known = {f"#id={image_id}&variant=beam%20size%205" for image_id in gallery_of(page)["ids"]}
    links = {target for target in targets if "=" in target}
    assert len(links) == STRIPS
    assert links <= known


def test_the_page_asks_no_network_and_runs_one_script(page: str) -> None:
    elements = parse(page)
    assert not {"link", "iframe", "object", "embed", "base", "form"} & {e.tag for e in elements}
    scripts = Counter(e.get("type") for e in elements if e.tag == "script")
    assert scripts[None] == 1
    assert set(scripts) == {None, "application/json"}
    sources = [
        e.get(name) for e in elements for name in ("src", "srcset", "data", "action", "poster") if e.get(name)
    ]
    links = [value for e in elements for key, value in e.attrib.items() if str(key).endswith("href")]
    styles = re.findall(r"url\(([^)]*)\)|@import", markup(page))
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert all(link.startswith("#") for link in links)
    assert all(style.startswith(("data:image/jpeg;base64,", "#")) for style in styles)
    assert not [key for e in elements for key in e.attrib if str(key).lower().startswith("on")]


def test_the_page_forbids_all_but_its_own_style_pictures_and_script(page: str) -> None:
    policy = next(e.get("content") for e in parse(page) if e.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    (script,) = (e.text for e in parse(page) if e.tag == "script" and e.get("type") is None)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert rules == {
        "default-src": "'none'", "img-src": "data:", "style-src": "'unsafe-inline'", "base-uri": "'none'",
        "form-action": "'none'", "script-src": f"'sha256-{digest}'",
    }  # fmt: skip


def test_no_template_switches_escaping_off() -> None:
    templates = list((ROOT / "reports/templates").glob("*.*"))
    assert templates
    for path in templates:
        assert not re.search(r"\|\s*safe|autoescape|Markup", path.read_text()), path.name
        assert ("<script" in path.read_text()) == (path.name == "page.html.j2"), path.name


def test_the_script_never_makes_markup_or_code_of_text() -> None:
    scripts = list((ROOT / "reports/templates/gallery").glob("*.js"))
    assert {path.name for path in scripts} == set(SCRIPTS)
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|setTimeout\(['\"]|srcdoc"
    for path in scripts:
        assert not re.search(ways, path.read_text()), path.name


def test_tables_are_semantic(page: str) -> None:
    elements = parse(page)
    filled_by_script = {e for e in elements if e.get("id") == "samples" for e in e.iter()}
    for table in (e for e in elements if e.tag == "table" and e not in filled_by_script):
        heads = list(table.iter("th"))
        assert heads
        assert all(head.get("scope") in ("col", "row", "rowgroup") for head in heads)
        assert table.find("caption") is not None or table.get("class") == "maps"
    assert all(e.get("alt") is not None for e in parse(page) if e.tag == "img")


def test_the_verdict_comes_first_and_provenance_last(page: str) -> None:
    order = [e.get("id") for e in parse(page) if e.tag == "section"]
    assert order == [
        "verdict",
        "scores",
        "beams",
        "explanations",
        "browse",
        "words",
        "throughput",
        "provenance",
    ]


def test_some_explained_images_have_a_strip_with_three_methods_and_every_word(page: str) -> None:
    strips = [e for e in parse(page) if e.get("class") == "strip"]
    assert len(strips) == STRIPS
    for strip in strips:
        table = next(strip.iter("table"))
        words = [e for e in table.iter("th") if e.get("scope") == "col"]
        rows = ["".join(e.itertext()) for e in table.iter("th") if e.get("scope") == "row"]
        assert rows == ["Attention", "Integrated gradients (grid)", "Saliency (pixels)"]
        assert len(list(table.iter("img"))) == 3 * len(words) == 21


def test_equal_runs_give_equal_reports(finished_run: Path, page: str) -> None:
    assert rendered(RunStore(finished_run)) == page


def test_the_report_lies_in_the_run_or_where_it_is_asked_for(example_run: Path, tmp_path: Path) -> None:
    before = {p: p.read_bytes() for p in example_run.rglob("*") if p.is_file()}
    assert write_report(example_run) == example_run / "report.html"
    assert write_report(example_run, tmp_path / "new/page.html") == tmp_path / "new/page.html"
    assert (tmp_path / "new/page.html").read_bytes() == (example_run / "report.html").read_bytes()
    (example_run / "report.html").unlink()
    assert {p: p.read_bytes() for p in example_run.rglob("*") if p.is_file()} == before


@pytest.fixture(scope="module")
def harmless_tags(
    make_run: Callable[..., RunStore], tmp_path_factory: pytest.TempPathFactory
) -> Counter[str]:
    store = make_run(tmp_path_factory.mktemp("harmless") / "run", images=1)
    poison(store, " and more")
    return count_tags(parse(rendered(store)))


@pytest.mark.parametrize("attack", ATTACKS, ids=["markup", "quotes", "controls", "length"])
def test_no_text_of_a_stranger_becomes_markup(
    make_run: Callable[..., RunStore], tmp_path: Path, harmless_tags: Counter[str], attack: str
) -> None:
    store = make_run(tmp_path / "run", images=1)
    poison(store, attack)
    elements = parse(render_report(store, with_paths=True).html)
    assert count_tags(elements) == harmless_tags
    assert harmless_tags["img"] == 21
    assert not [key for e in elements for key in e.attrib if str(key).lower().startswith("on")]
    assert all(e.get("src").startswith("data:image/png;base64,") for e in elements if e.tag == "img")
    if attack.isprintable() and len(attack) < 400:
        command = next(e for e in elements if e.tag == "pre")
        assert "".join(command.itertext()).endswith(attack), "shown as it is"


def test_a_caption_of_two_thousand_words_is_shown_in_part(example_run: Path) -> None:
    store = RunStore(example_run)
    rows = store.read_captions()
    words = tuple(f"word{n}" for n in range(2000))
    long = dataclasses.replace(rows[2], words=words, caption=" ".join(words), word_log_probs=(-0.1,) * 2000)
    assert long.beam_size == 5
    (example_run / "captions.jsonl").unlink()
    store.append_captions([long, *rows[3:12]])
    store.write_maps({map_key(long.image_id, 5, "attention"): np.ones((2000, 14, 14), np.float16)})
    page = rendered(store)
    parse(page)
    assert f"{2000 - SHOWN_WORDS:,} more words are not shown" in page
    assert markup(page).count("<img") == SHOWN_WORDS
    assert len(page) < 2_000_000
    sample = json.loads(re.search(r'id="data-sample-0">(.*?)</script>', page, re.DOTALL).group(1))
    assert len(sample["2"]["words"]) == WORDS
    assert len(base64.b64decode(sample["2"]["maps"]["attention"])) == WORDS * 14 * 14


def test_data_without_ground_truth_is_reported_without_localisation(example_run: Path) -> None:
    store = RunStore(example_run)
    record = store.read_run()
    assert record.explanations is not None
    edit_run(
        store, explanations=dataclasses.replace(record.explanations, reason="these photographs have no masks")
    )
    frame = store.read_attributions()
    assert frame is not None
    names = [f"{name}{mark}" for name in LOCALISATION for mark in ("", "_null", "_ceiling")]
    store.write_attributions(frame.assign(**dict.fromkeys(names, np.nan), region=None))
    page = rendered(store)
    text = "".join(parse(page)[0].itertext())
    assert "Localisation was not measured: these photographs have no masks." in text
    assert "These photographs have no masks." in text, "the verdict says so too"
    assert "hit " not in text
    assert page.count('class="strip"') == STRIPS


def test_the_headline_of_the_explanations_comes_before_their_numbers(page: str) -> None:
    section = page[page.index('<section id="explanations">') :]
    places = [section.index(text) for text in ("Is attention as faithful", "passed the gates", "<figure>")]
    assert places == sorted(places)


def test_every_part_of_the_benchmark_has_its_table(page: str) -> None:
    captions = ["".join(e.itertext()) for e in parse(page) if e.tag == "caption"]
    for beginning in (
        "Gates", "Completeness", "Localisation", "Attention’s localisation", "Faithfulness, cells",
        "Faithfulness, blur",
        "Agreement with attention", "AUC by word class", "ABPC (cells) by word class", "Path shares",
        "What a word’s probability loses", "By how much the distribution", "Attention on a word’s place",
        "Captions decoded with attention tampered with", "Weights made random from the output layer on",
        "Weights of one stage", "Does a map change with the word", "Which measures to believe",
        "Each method less attention on the same words, localisation",
        "Each method less attention on the same words, faithfulness", "The methods and controls",
    ):  # fmt: skip
        assert sum(caption.startswith(beginning) for caption in captions) == 1, beginning


def test_numbers_stand_beside_images_words_and_coverage(page: str) -> None:
    (table,) = (e for e in parse(page) if e.tag == "table" and "Localisation: is" in "".join(e.itertext()))
    row = next(e for e in table.iter("tr") if "".join(e.itertext()).startswith("Gradient (grid)"))
    assert [small.text for small in row[-1].iter("small")] == ["26 images", "100\u00a0% covered"]
    assert row[-1].text == "130 words"


def test_a_method_that_failed_a_gate_is_struck_out_with_the_reason_and_in_no_figure(page: str) -> None:
    elements = parse(page)
    struck = {"".join(e.itertext()) for e in elements if e.tag == "s"}
    assert struck == {"Guided backprop (pixels)"}
    assert "struck out: its maps equal those of the plain gradient" in page
    assert not any("Guided backprop" in "".join(e.itertext()) for e in elements if e.tag == "svg")
    comparisons = [e for e in elements if e.tag == "table" and "less attention" in "".join(e.itertext())]
    assert comparisons
    assert not any("Guided backprop" in "".join(e.itertext()) for e in comparisons)


def test_what_must_be_said_of_the_grid_stands_at_every_figure_of_maps_and_every_strip(page: str) -> None:
    said = "The grid has 14 × 14 cells, pooled up from 8 × 8."
    elements = parse(page)
    section = next(e for e in elements if e.get("id") == "explanations")
    captions = ["".join(e.itertext()) for e in section.iter("figcaption")]
    assert [said in caption for caption in captions] == [True] * 6
    assert all(said in "".join(e.itertext()) for e in elements if e.get("class") == "strip")


def test_the_measures_have_one_legend_each(page: str) -> None:
    (legend,) = (
        e for e in parse(page) if e.tag == "table" and "Measures, their ranges" in "".join(e.itertext())
    )
    heads = ["".join(e.itertext()) for e in legend.iter("th") if e.get("scope") == "row"]
    assert heads == [m.label for table in (CAPTIONS, MEASURES, OPERATORS) for m in table.values()]
    assert len(heads) == len(set(heads))


@pytest.mark.parametrize(
    "column",
    [
        *AGREEMENT,
        *LOCALISATION,
        *OPERATED,
        *EXTRAS,
        *PATHS,
        "path_sum_error",
        *TRIAL_DROPS,
        *TRIAL_DISTANCES,
        GATE,
    ],
)
def test_every_stored_measure_has_a_legend(column: str) -> None:
    found = measure_of(column)
    assert found.label
    assert found.range
    assert found.source
    assert found.meaning.endswith(".")


def test_a_run_of_before_the_benchmark_has_its_report(old_run: Path) -> None:
    page = rendered(RunStore(old_run))
    elements = parse(page)
    headings = [e.text for e in elements if e.tag == "h3"]
    assert "Localisation: is the map where the word’s thing is?" in headings
    assert "Agreement: do maps look like attention?" in headings
    assert not any(
        "Faithfulness" in (h or "") or "trial" in (h or "") or "Sanity" in (h or "") for h in headings
    )
    assert page.count('class="strip"') == STRIPS
    assert "Attention was not put on trial in this run." in page
    assert not re.search(r"\b(nan|inf|None)\b", re.sub(r"base64,[^\")]*", "", markup(page)))


def test_a_run_that_explained_nothing_says_how_to(example_run: Path) -> None:
    store = RunStore(example_run)
    for name in ("attributions.parquet", "maps.npz"):
        (example_run / name).unlink()
    shutil.rmtree(example_run / "thumbs")
    edit_run(store, explanations=None)
    page = rendered(store)
    assert "This run explained no captions; <code>--explain 64</code> does." in page
    assert "No maps are stored in this run." in page
    assert "<img" not in markup(page)
    parse(page)


@pytest.mark.parametrize("images", [0, 1])
def test_a_run_of_hardly_any_images_has_a_report(
    make_run: Callable[..., RunStore], tmp_path: Path, images: int
) -> None:
    store = make_run(tmp_path / "run", images=1)
    if images == 0:
        for path in (p for p in store.path.rglob("*") if p.is_file() and p.name != "run.json"):
            path.unlink()
        edit_run(store, metrics=(), images=ImageCounts(1, 0, 1))
    page = rendered(store)
    parse(page)
    assert ("one image: no interval" in page) == (images == 1)
    assert ("No image was captioned" in page) == (images == 0)
    assert not re.search(r"\b(nan|inf|None)\b", re.sub(r"base64,[^\")]*", "", markup(page)))


def test_a_measure_that_could_not_be_computed_says_why(example_run: Path) -> None:
    store = RunStore(example_run)
    row = MetricRow("SPICE", 5, None, "0 to 1", True, None, None, 0, "there is no Java")
    edit_run(store, metrics=(*store.read_run().metrics, row))
    page = rendered(store)
    assert "SPICE was not computed: there is no Java." in page
    assert "not computed" in page


def test_many_failures_are_listed_up_to_a_bound(example_run: Path) -> None:
    store = RunStore(example_run)
    store.append_failures(Failure(f"image-{n}", "it is truncated") for n in range(5000))
    page = rendered(store)
    assert "5,000 of 26 pictures could not be read: scores are over the other 26." in page
    assert "Pictures that could not be read, the first 200 of 5,000" in page
    assert page.count("it is truncated") == 200


def test_pictures_are_those_of_the_images_asked_for(finished_run: Path) -> None:
    store = RunStore(finished_run)
    few, none = (gallery_of(render_report(store, wanted=Wanted(n)).html) for n in (5, 0))
    assert len(few["pictures"]) == len(few["shown"]) == len(few["explained"]) == 5
    assert none["pictures"] == none["shown"] == []
    assert len(few["ids"]) == len(none["ids"]) == 26
    assert gallery_of(rendered(store))["pictures"] == list(range(26))


def test_a_bundle_holds_every_picture_and_map_beside_its_page(finished_run: Path, tmp_path: Path) -> None:
    page = write_report(finished_run, bundle=tmp_path / "bundle")
    assert page == tmp_path / "bundle/index.html"
    assert len(list((tmp_path / "bundle/pictures").iterdir())) == 26
    assert len(list((tmp_path / "bundle/data").iterdir())) == 27
    policy = next(e.get("content") for e in parse(page.read_text()) if e.get("http-equiv"))
    assert "img-src data: 'self'" in policy
    again = {p: p.read_bytes() for p in (tmp_path / "bundle").rglob("*") if p.is_file()}
    write_report(finished_run, bundle=tmp_path / "bundle")
    assert {p: p.read_bytes() for p in (tmp_path / "bundle").rglob("*") if p.is_file()} == again
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_bundle_replaces_nothing_but_a_bundle(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="is not a bundle; give a new or empty folder"):
        write_report(finished_run, bundle=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_absolute_paths_are_left_out_unless_asked_for(example_run: Path) -> None:
    store = RunStore(example_run)
    edit_run(store, command="gazebench eval /home/ann/secret/best.pth", warnings=("see /home/ann/notes.txt",))
    store.append_failures([Failure("a.jpg", "/home/ann/pictures/a.jpg is truncated")])
    page = rendered(store)
    assert "/home" not in page
    assert "ann" not in re.findall(r"\w+", markup(page))
    assert "gazebench eval …/best.pth" in page
    assert "/home/ann/secret/best.pth" in render_report(store, with_paths=True).html


def test_maps_that_would_make_the_page_too_large_are_left_out(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = gallery_of(rendered(RunStore(finished_run)))
    monkeypatch.setattr("reports.gallery.MAP_BYTES", 100_000)
    page = rendered(RunStore(finished_run))
    kept = gallery_of(page)["explained"]
    assert 0 < len(kept) < len(whole["explained"]) == 26
    for place in range(26):
        sample = json.loads(re.search(rf'id="data-sample-{place}">(.*?)</script>', page, re.DOTALL).group(1))
        assert bool(sample["2"]["maps"]) == (place in kept)


def test_a_directory_that_is_no_run_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no run\.json"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_reports_import_no_torch() -> None:
    probe = (
        "import sys, reports.html, reports.terminal; print([m in sys.modules for m in ('torch', 'pandas')])"
    )
    run = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[False, True]", "the second shows that the probe can tell"
