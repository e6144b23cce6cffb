"""What is left out of a report that is sent to others."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reports.records import RunRecord, to_json
from reports.redaction import redacted, without_folder, without_paths
from reports.store import RunStore

SECRET = "annsecret"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/ann/x/y.pth", "…/y.pth"),
        ("~/x/y.pth", "…/y.pth"),
        ("~ann/y.pth", "…/y.pth"),
        (r"C:\Users\ann\y.pth", "…/y.pth"),
        ("C:/Users/ann/y.pth", "…/y.pth"),
        (r"\\host\share\y.pth", "…/y.pth"),
        ("//host/share/y.pth", "…/y.pth"),
        ("file:///home/ann/y%20z.pth", "…/y%20z.pth"),
        ("ssh://ann@host/data/y.pth", "…/y.pth"),
        ("ann@host:/data/sets/y.pth", "…/y.pth"),
        ("ann@host:sets/y.pth", "sets/y.pth"),
        ("ann@10.0.0.7:y.pth", "y.pth"),
        ("https://ann:word@host.org/y", "https://host.org/y"),
        ("/home/ann", "…"),
        ("/home/ann/", "…"),
        (r"C:\Users\ann", "…"),
        ("/data/sets/", "…/sets"),
        ("'/home/ann/my files/y z.pth' is gone", "'…/y z.pth' is gone"),
        ('opened "/home/ann/my files/y.pth", read', 'opened "…/y.pth", read'),
        ("{'images': '/home/ann/my files/y'}", "{'images': '…/y'}"),
        (r"'C:\\Users\\ann\\my files\\y.pth'", "'…/y.pth'"),
        (r"C:\Users\Ann Lee\y.pth is gone", "…/y.pth is gone"),
        (r"/home/ann/my\ files/y.pth", "…/y.pth"),
        ("/home/ann/it's/y.pth", "…/y.pth"),
        ("--images=/home/ann/y", "--images=…/y"),
        ("-o/home/ann/x/y", "-o…/y"),
        ("--data coco:/home/ann/y.json", "--data coco:…/y.json"),
        ("/opt/x/a.pth, /opt/x/b.pth; /opt/x/c.pth", "…/a.pth, …/b.pth; …/c.pth"),
        ("(/opt/x/y.pth): not found", "(…/y.pth): not found"),
        ("/opt/x/y.pth: line 3 of /opt/x/z", "…/y.pth: line 3 of …/z"),
    ],
)
def test_of_an_absolute_path_the_last_part_is_kept_and_of_a_home_folder_nothing(
    text: str, shown: str
) -> None:
    assert without_paths(text) == shown
    assert without_paths(f"see {text}").endswith(shown)


@pytest.mark.parametrize(
    "text",
    [
        "1/3 and/or 2/4 words/s, 5 m/s/image",
        "~1/3 of the words",
        "0 to 1",
        "--data=scenes:x --limit 3",
        "https://arxiv.org/abs/1502.03044 and http://localhost:80/a/b?c=/d",
        "references:5|tokenizer:PTB|lp:0.7|rep:0",
        "data/flickr/images.zip, ./a/b, ../c/d/e",
        "$HOME/data/x, ${HOME}/data/x and %HOME%/data/x",
        "/data is a folder",
        "Retrieval recall@5: 0.98, P@1:0.5",
        "…/y.pth",
        r"a \\ b, \frac{1}{2}, \n",
        "a </b> c",
        "",
    ],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert without_paths(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/ann/my pictures/a b.jpg", "…/a b.jpg"),
        ("--images=/home/ann/my pictures", "--images=…/my pictures"),
        ("coco:/data/a set/b c.json", "coco:…/b c.json"),
        (r"C:\Users\Ann Lee", "…"),
        (r"C:\Users\Ann Lee\a b.jpg", "…/a b.jpg"),
        ("see https://x.org/a b/c", "see https://x.org/a b/c"),
        ("it is in /data/sets/x, and/or not", "it is in …/x, and/or not"),
        ("scene-main-test-0-00000", "scene-main-test-0-00000"),
        ("COCO_val2014/000042.jpg", "COCO_val2014/000042.jpg"),
    ],
)
def test_a_name_that_is_nothing_but_a_path_may_hold_spaces(text: str, shown: str) -> None:
    assert without_folder(text) == shown
    assert without_folder(shown) == shown


NAMES = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="/\\\"'`<>|…"), min_size=1)
FOLDERS = st.lists(NAMES.map(lambda name: f"{SECRET}{name}"), min_size=1, max_size=4)
AROUND = st.sampled_from(["", " ", "see ", "a=", "--data=", "(", "x: ", "'", '"', "\n", ", ", "coco:"])


@given(AROUND, FOLDERS, st.sampled_from(["y.pth", "y", "x.tar.gz"]), st.text(max_size=12))
def test_no_folder_of_an_absolute_path_survives(
    before: str, folders: list[str], last: str, after: str
) -> None:
    for path in (
        "/" + "/".join([*folders, last]),
        "C:\\" + "\\".join([*folders, last]),
        "\\\\" + "\\".join(["host", *folders, last]),
        "~/" + "/".join([*folders, last]),
        "file:///" + "/".join([*folders, last]),
    ):
        assert SECRET not in without_paths(f"{before}{path} {after}"), path
        quoted = path.replace(last, f"a file, {last}")
        assert SECRET not in without_paths(f"{before.strip(chr(39) + chr(34))}'{quoted}' {after}"), quoted


@given(st.text(st.characters(exclude_characters="/\\@")))
def test_text_without_slashes_is_unchanged(text: str) -> None:
    assert without_paths(text) == text


@given(st.text(st.sampled_from("/\\~ab:.@'\" ,=…-C1")))
@example("a@b@c:d:e@f:g")
def test_doing_it_twice_changes_nothing_more(text: str) -> None:
    assert without_paths(without_paths(text)) == without_paths(text)


@pytest.fixture
def told(finished_run: Path) -> RunRecord:
    """A record in which every kind of field holds a path."""
    record = RunStore(finished_run).read_run()
    assert record.model is not None
    secret = f"/home/{SECRET}/my files/best model.pth"
    return dataclasses.replace(
        record,
        command=shlex.join(["gazebench", "eval", secret, f"--images={secret}", "-o", f"/home/{SECRET}/o"]),
        config={"checkpoint": secret, "images": [f"/{SECRET}/a", {"deep": f"~/{SECRET}/b"}], "seed": 0},
        model=dataclasses.replace(record.model, name=secret, training={"data": secret, "epochs": 8}),
        data=dataclasses.replace(
            record.data, name=secret, missing=(secret,), warnings=(f"{secret} has no split, see a/b",)
        ),
        metrics=(dataclasses.replace(record.metrics[0], reason=f"'{secret}' is gone"),),
        warnings=(f"{SECRET}@host:/data/sets/x is far", "1/3 of the words"),
        provenance=dataclasses.replace(record.provenance, sha256={secret: "ab"}),
    )


def test_every_text_of_a_record_is_searched(told: RunRecord) -> None:
    shown = redacted(told)
    assert SECRET not in str(to_json(shown))
    assert shown.model is not None
    assert shown.config == {"checkpoint": "…/best model.pth", "images": ["…/a", {"deep": "…/b"}], "seed": 0}
    assert shown.model.name == shown.data.name == shown.data.missing[0] == "…/best model.pth"
    assert shown.data.warnings == ("…/best model.pth has no split, see a/b",)
    assert shown.metrics[0].reason == "'…/best model.pth' is gone"
    assert shown.warnings == ("…/x is far", "1/3 of the words")
    assert shown.provenance.sha256 == {"…/best model.pth": "ab"}
    assert redacted(shown) == shown


def test_a_command_is_still_a_command(told: RunRecord) -> None:
    assert redacted(told).command == "gazebench eval '…/best model.pth' '--images=…/best model.pth' -o …/o"
    unclosed = dataclasses.replace(told, command=f"gazebench eval '/home/{SECRET}/x/y.pth")
    assert redacted(unclosed).command == "gazebench eval '…/y.pth"


def test_a_record_without_paths_is_as_it_was(finished_run: Path) -> None:
    record = RunStore(finished_run).read_run()
    assert redacted(record) == record
    quoted = dataclasses.replace(record, command='gazebench eval --data "scenes"')
    assert redacted(quoted) == quoted


def test_the_machine_that_writes_the_report_is_not_asked_for_its_names() -> None:
    source = (Path(__file__).parents[1] / "reports/redaction.py").read_text()
    assert not re.search(r"getpass|socket|platform|environ|expanduser|import os", source)
