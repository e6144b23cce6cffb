"""Pictures that can't be read: how many a run bears, and who says so."""

import shutil

import html5lib
import lxml.html
import pytest

from bench.cli import _parser, main
from bench.config import EvalConfig
from bench.data.scenes import make_scene
from bench.errors import ConfigError, DataError
from bench.failures import check_failures
from reports.records import Failure
from reports.store import RunStore

BRIEF = ("--split", "all", "--beam-size", "1", "--explain", "0", "--retrieval", "0", "--batch-size", "2")


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """Eight pictures with captions, of which the third, the sixth and the seventh are cut off."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    (folder / "Images").mkdir(parents=True)
    lines = ["image,caption"]
    for number in range(8):
        path = folder / "Images" / f"{number}.jpg"
        scene = make_scene("test", number)
        scene.picture().save(path)
        if number in (2, 5, 6):
            path.write_bytes(path.read_bytes()[:600])
        lines += [f'{path.name},"{reference}"' for reference in scene.references]
    (folder / "captions.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def stopped(broken, tmp_path_factory):
    """A run that bears one failure, and what became of it; and its command, but for the limit."""
    out = tmp_path_factory.mktemp("runs") / "run"
    command = ["eval", "--data", str(broken), *BRIEF, "--out", str(out)]
    code = main([*command, "--max-failures", "1"])
    return out, command, code


@pytest.fixture(scope="module")
def finished(stopped, tmp_path_factory):
    """The same run after the same command with a higher limit."""
    out, command, _ = stopped
    resumed = tmp_path_factory.mktemp("resumed") / "run"
    shutil.copytree(out, resumed)
    command[-1] = str(resumed)
    assert main([*command, "--max-failures", "0.4"]) == 0
    return resumed


def test_a_run_with_too_many_failures_stops_and_keeps_what_it_has(stopped):
    out, _, code = stopped
    assert code == 2
    store = RunStore(out)
    assert store.read_run().status == "failed"
    assert {row.image_id for row in store.read_captions()} == {f"{n}.jpg" for n in range(6)}
    assert [failure.image_id for failure in store.read_failures()] == ["2.jpg", "5.jpg"]
    assert not (out / "report.html").exists()


def test_what_stopped_it_is_one_sentence_with_the_first_reason_and_the_cure(
    stopped, broken, tmp_path, capsys
):
    _, command, _ = stopped
    assert main([*command[:-1], str(tmp_path / "run"), "--max-failures", "0"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(
        "gazebench: error: 1 of 8 pictures can't be read, and --max-failures 0 allows 0; the first: '2.jpg' "
    )
    assert "higher --max-failures" in error
    assert "--fresh" in error


def test_a_higher_limit_goes_on_where_it_stopped(stopped, finished):
    before, after = RunStore(stopped[0]), RunStore(finished)
    rows = after.read_captions()
    assert [row.image_id for row in rows] == [f"{n}.jpg" for n in range(8)]
    assert [row for row in rows if row in before.read_captions()] == rows[:6]
    record = after.read_run()
    assert record.status == "finished"
    assert (record.images.expected, record.images.done, record.images.failed) == (8, 5, 3)
    assert "max_failures" not in record.config


def test_the_report_says_first_how_many_pictures_the_scores_leave_out(finished):
    text = (finished / "report.html").read_text()
    html5lib.HTMLParser(strict=True).parse(text)
    page = lxml.html.fromstring(text)
    (section,) = page.xpath("//main/*[1][@id='verdict']")
    first = section[0]
    assert first.get("id") == "failures"
    told = "3 of 8 pictures could not be read: scores are over the other 5."
    assert first.xpath("string(p)") == f"Note: {told}"
    assert page.text_content().count(told) == 1
    (folded,) = first.xpath("details")
    assert folded.get("open") is None
    assert folded.xpath(".//tbody/tr/th/text()") == ["2.jpg", "5.jpg", "6.jpg"]
    assert all("runcated" in reason for reason in folded.xpath(".//tbody/tr/td/text()"))


def test_the_terminal_and_a_comparison_say_so_too(finished, tmp_path, capsys):
    assert main(["score", str(finished)]) == 0
    assert "3 of 8 pictures could not be read: scores are over the other 5." in capsys.readouterr().out
    out = tmp_path / "compare.html"
    assert main(["compare", str(finished), str(finished), "-o", str(out)]) == 0
    assert "3 of 8 pictures could not be read" in out.read_text()
    assert main(["compare", str(finished), str(finished), "-o", str(out), "--json"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    ("most", "failed", "stops"),
    [
        (None, 1000, False),
        (0, 0, False),
        (0, 1, True),
        (5, 5, False),
        (5, 6, True),
        (0.01, 10, False),
        (0.01, 11, True),
        (0.0, 1, True),
    ],
)
def test_a_limit_is_a_number_or_a_share_of_all_pictures(most, failed, stops):
    failures = [Failure(str(number), f"{number} is broken") for number in range(failed)] * 2
    if not stops:
        check_failures(failures, expected=1000, most=most)
        return
    with pytest.raises(DataError, match=rf"^{failed} of 1,000 pictures .*the first: 0 is broken"):
        check_failures(failures, expected=1000, most=most)


@pytest.mark.parametrize("given", [-1, 1.0, 1.5, -0.1, float("nan"), float("inf")])
def test_a_limit_that_is_none_is_refused(given):
    with pytest.raises(ConfigError, match="--max-failures is"):
        EvalConfig(max_failures=given)


@pytest.mark.parametrize("text", ["many", "", "1%", "1,5"])
def test_a_limit_that_is_no_number_is_refused_with_what_is_expected(text, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["eval", "--max-failures", text])
    assert ended.value.code == 2
    assert f"{text!r} was given; expected a number of pictures, or a share" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "size"), [("auto", None), ("7", 7)])
def test_a_batch_size_is_a_number_or_auto(text, size):
    assert _parser().parse_args(["eval", "--batch-size", text]).batch_size == size
