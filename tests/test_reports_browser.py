"""The report in a real browser, opened as a file."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from reports.html import write_report

pytestmark = pytest.mark.browser
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if CHROMIUM is None:
        pytest.skip("no chromium or chromium-browser is installed")
    with sync_api.sync_playwright() as playwright:
        options = [
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-dev-shm-usage",
        ]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(finished_run, tmp_path_factory.mktemp("page") / "report.html").as_uri()


def test_the_report_opens_from_a_file_without_network_or_complaint(browser, report: str) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report, wait_until="load")
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [report]
    assert page.locator(".strip").count() == 26
    sizes = page.evaluate(
        "[...document.querySelectorAll('.tile img')].map(i => [i.complete, i.naturalWidth])"
    )
    assert len(sizes) == 26 * 7 * 3
    assert all(size == [True, 14] for size in sizes)


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


CONTRAST = """() => {
  const light = c => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255)
      .map(x => x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
    return .2126 * v[0] + .7152 * v[1] + .0722 * v[2] };
  const behind = e => { for (; e; e = e.parentElement) {
    const c = getComputedStyle(e).backgroundColor; if (!c.startsWith('rgba(0, 0, 0, 0')) return c } };
  const texts = 'h1, h2, h3, p, td, th, small, dt, dd, a, summary, caption, li b';
  return [...document.querySelectorAll(texts)].map(e => {
    const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
    return [(a + .05) / (b + .05), e.tagName + '.' + e.className] }).sort((x, y) => x[0] - y[0])[0] }"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_a_contrast_of_at_least_four_and_a_half(browser, report: str, scheme: str) -> None:
    page = browser.new_page(color_scheme=scheme)
    page.goto(report)
    lowest, where = page.evaluate(CONTRAST)
    assert lowest >= 4.5, where
