"""The report of a large run: making it, and using it in a real browser."""

import shutil
import subprocess
import sys

import pytest

from bench.throughput.large_run import IMAGES, write_large_run
from reports.html import write_report

pytestmark = pytest.mark.benchmark(group="report")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# A program of its own: what a process once held can't be told from what it needs.
ALONE = """
import sys
from pathlib import Path
from reports.html import write_report
write_report(Path(sys.argv[1]), Path(sys.argv[2]))
from bench.throughput.peak_memory import peak_memory_bytes
print(peak_memory_bytes())
"""
SORT = """async button => {
  const begun = performance.now();
  button.click();
  await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
  return performance.now() - begun;
}"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_large_run(tmp_path_factory.mktemp("large") / "run").path


@pytest.fixture(scope="module")
def report(run):
    return write_report(run)


def test_make_the_report(benchmark, measure_on_cpu, run, tmp_path):
    out = tmp_path / "report.html"
    measure_on_cpu(benchmark, lambda: write_report(run, out), images=IMAGES, rounds=2, warmup_rounds=0)
    alone = [sys.executable, "-P", "-c", ALONE, str(run), str(out)]
    peak = subprocess.run(alone, capture_output=True, text=True, check=True).stdout
    benchmark.extra_info |= {"page_bytes": out.stat().st_size, "peak_memory_bytes": int(peak)}


@pytest.fixture(scope="module")
def page():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium or chromium-browser is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser.new_page(viewport={"width": 1280, "height": 900})
        browser.close()


def test_open_the_report(benchmark, measure_on_cpu, page, report):
    measure_on_cpu(benchmark, lambda: page.goto(report.as_uri(), wait_until="load"), images=IMAGES)
    painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    benchmark.extra_info["first_paint_ms"] = painted


def test_sort_the_samples(benchmark, measure_on_cpu, page, report):
    page.goto(report.as_uri())
    button = page.locator("#samples thead button").nth(1)
    button.wait_for()
    measured = measure_on_cpu(benchmark, lambda: button.evaluate(SORT), images=IMAGES)
    benchmark.extra_info["sort_to_paint_ms"] = measured.result
