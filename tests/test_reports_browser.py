"""The report in a real browser, opened as a file. Its sample browser has tests of its own, in the file beside."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hostile_runs import ATTACKS, poison

from reports.html import STRIPS, write_report
from reports.store import RunStore

pytestmark = pytest.mark.browser
VIEWER = "#id=scene-003&variant=beam%20size%205&word=1&with=grid_integrated_gradients"
axe = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")


@pytest.fixture(scope="module")
def report(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(finished_run, tmp_path_factory.mktemp("page") / "report.html").as_uri()


@pytest.fixture(scope="module")
def bundle(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(finished_run, bundle=tmp_path_factory.mktemp("page") / "bundle").as_uri()


def test_the_report_opens_from_a_file_without_network_or_complaint(browser, report: str) -> None:
    page = browser.new_context(offline=True).new_page()
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report, wait_until="load")
    page.locator("#samples tbody button").first.wait_for()
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [report]
    assert page.locator(".strip").count() == STRIPS
    sizes = page.evaluate(
        "[...document.querySelectorAll('.tile img')].map(i => [i.complete, i.naturalWidth])"
    )
    assert len(sizes) == STRIPS * 7 * 3
    assert all(size == [True, 14] for size in sizes)


def test_a_bundle_reads_its_data_and_pictures_from_the_files_beside_it(browser, bundle: str) -> None:
    page = browser.new_context(offline=True).new_page()
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(bundle + VIEWER)
    page.locator("dialog[open] figure:not([hidden]) canvas[width='14']").first.wait_for()
    folder = bundle.rsplit("/", 1)[0]
    assert complaints == []
    assert {f"{folder}/data/gallery.js", f"{folder}/data/sample-3.js", f"{folder}/pictures/3.jpg"} <= set(
        requests
    )
    assert all(url.startswith((folder, "data:")) for url in requests)


def test_without_a_script_verdict_tables_figures_and_top_samples_are_there(browser, report: str) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(report)
    assert page.locator("#samples").is_hidden()
    for selector in (
        "#verdict .answer",
        "#scores table",
        "#scores svg",
        "#explanations svg",
        ".strip .tile img",
    ):
        assert page.locator(selector).first.is_visible(), selector
    assert page.locator("#browse table.wrap tbody tr").count() == 16, "the worst and the best"
    assert not page.get_by_text("lists all keys").is_visible(), "nothing speaks of what needs a script"


@pytest.mark.parametrize("attack", ATTACKS[:3], ids=["markup", "quotes", "controls"])
def test_a_run_full_of_attacks_opens_and_nothing_of_it_runs(
    browser, make_run: Callable[..., RunStore], tmp_path: Path, attack: str
) -> None:
    store = make_run(tmp_path / "run", images=2)
    poison(store, attack)
    report = write_report(store.path, tmp_path / "report.html", with_paths=True).as_uri()
    page = browser.new_context(offline=True).new_page()
    events: list[str] = []
    page.on("dialog", lambda dialog: (events.append(dialog.message), dialog.dismiss()))
    page.on("console", lambda message: events.append(message.text))
    page.on("pageerror", lambda error: events.append(str(error)))
    page.on("request", lambda request: events.append(request.url))
    page.goto(report)
    row = page.locator("#samples tbody button").first
    row.click()
    page.locator("dialog[open] .spoken button").first.wait_for()
    assert [event for event in events if not event.startswith("data:")] == [report]
    assert page.locator(":is(script:not([type]), svg script, iframe, [onerror], [onload])").count() == 1
    if attack.isprintable():
        assert attack[:60] in page.locator("dialog[open] .image-id").inner_text(), "the rest is cut"
        assert attack in row.inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_never_wider_than_the_window(browser, report: str, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.goto(report)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_map_lies_exactly_over_its_picture(browser, report: str) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(report)
    tile = page.locator(".tile").first
    assert tile.bounding_box() == tile.locator("img").bounding_box()
    assert tile.evaluate("e => getComputedStyle(e).backgroundImage").startswith(
        'url("data:image/jpeg;base64,'
    )


def test_dark_and_light_pages_differ_and_paper_is_white(browser, report: str) -> None:
    colours = {}
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(report)
        colours[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.emulate_media(media="print")
        assert page.locator("nav").first.is_hidden()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgba(0, 0, 0, 0)"
    assert colours["light"] != colours["dark"]


def scan(page) -> list[str]:
    """What axe-core finds serious or worse."""
    page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text())
    found = page.evaluate("axe.run(document)")
    assert found["passes"], "the scan has run"
    return [
        f"{v['id']}: {node['html'][:200]}"
        for v in found["violations"]
        if v["impact"] in ("serious", "critical")
        for node in v["nodes"]
    ]


def test_the_scan_for_accessibility_can_tell(browser) -> None:
    page = browser.new_page()
    page.set_content(
        "<html><body><img src='data:,'><p style='color:#bbb;background:#fff'>pale</p></body></html>"
    )
    assert {finding.split(":")[0] for finding in scan(page)} >= {
        "image-alt",
        "color-contrast",
        "html-has-lang",
    }


@pytest.mark.parametrize(
    ("scheme", "width", "where"),
    [("light", 1280, ""), ("dark", 390, ""), ("light", 390, VIEWER), ("dark", 1280, VIEWER)],
)
def test_a_scan_for_accessibility_finds_nothing_serious(
    browser, report: str, scheme: str, width: int, where: str
) -> None:
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
    page.goto(report + where)
    page.locator("#samples tbody button").first.wait_for(state="attached")
    if where:
        page.locator("dialog[open] canvas[width='14']").first.wait_for()
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert scan(page) == []
