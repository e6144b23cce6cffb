"""The run directory: what is written is read back, and a stranger's directory can do no harm."""

import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from reports.maps import map_key
from reports.records import CaptionRow, Failure, RunError
from reports.store import RunStore

ROW = CaptionRow("1", 3, "a dog", ("a", "dog"), (4, 5), -1.5, (-1.0, -0.5), ("a dog .",), True, None)


def jpeg(size: tuple[int, int]) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, "teal").save(content, "JPEG")
    return content.getvalue()


JPEG = jpeg((16, 16))
STRANGE = [
    "a/b",
    "../../etc/passwd",
    "/etc/passwd",
    "C:\\x",
    "日本 🐈",
    'it\'s "quoted"',
    "</script>",
    "a\u2028b",
    "\udc80",
    "n\0l",
    "",
]


def strange_rows() -> list[CaptionRow]:
    return [CaptionRow(i, 1, i, (i,), (4,), -1.0, (-1.0,), (i,), True, None) for i in STRANGE]


def test_nothing_is_created_by_opening(tmp_path: Path) -> None:
    RunStore(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_captions_with_any_line_break_come_back_as_they_were(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run")
    store.append_captions(strange_rows()[:4])
    store.append_captions(strange_rows()[4:])
    assert store.read_captions() == strange_rows()


def test_failures_come_back_as_they_were(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    assert store.read_failures() == []
    store.append_failures([Failure("a", "it is empty\r\n")])
    store.append_failures([Failure("b", "it is no picture")])
    assert store.read_failures() == [Failure("a", "it is empty\r\n"), Failure("b", "it is no picture")]


@pytest.mark.parametrize("kept", [1, 20, -1])
def test_a_torn_last_line_is_dropped_and_then_removed(tmp_path: Path, kept: int) -> None:
    store = RunStore(tmp_path)
    store.append_captions([ROW, ROW])
    path = tmp_path / "captions.jsonl"
    whole = path.read_bytes()
    line = len(whole) // 2
    torn = whole[: line + (line + kept if kept < 0 else kept)]
    path.write_bytes(torn)
    assert store.read_captions() == [ROW]
    assert path.read_bytes() == torn, "reading changes nothing"
    store.append_captions([ROW])
    assert path.read_bytes() == whole


def test_captions_are_read_line_by_line_from_files_of_any_size(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.append_captions([ROW])
    os.truncate(tmp_path / "captions.jsonl", 3 << 30)  # a hole, which takes no room
    assert next(store.iter_captions()) == ROW
    (tmp_path / "scores.parquet").touch()
    os.truncate(tmp_path / "scores.parquet", 3 << 30)
    with pytest.raises(RunError, match="at most 2,147,483,648 are read"):
        store.read_scores()


def test_a_file_that_is_one_torn_line_is_started_over(tmp_path: Path) -> None:
    (tmp_path / "captions.jsonl").write_text('{"image_id": "1')
    store = RunStore(tmp_path)
    assert store.read_captions() == []
    store.append_captions([ROW])
    assert store.read_captions() == [ROW]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    (tmp_path / "captions.jsonl").write_text('{"image_id": "1\n')
    store.append_captions([ROW])
    with pytest.raises(RunError, match=r"captions.jsonl, line 1 is not JSON"):
        store.read_captions()


def test_the_run_is_replaced_whole(example_run: Path) -> None:
    store = RunStore(example_run)
    record = store.read_run()
    before = sorted(example_run.iterdir())
    store.write_run(record)
    assert store.read_run() == record
    assert sorted(example_run.iterdir()) == before, "no temporary file is left"


def test_nan_is_refused_and_the_run_stays_as_it_was(example_run: Path) -> None:
    store = RunStore(example_run)
    record, before = store.read_run(), sorted(example_run.iterdir())
    for value in (float("nan"), float("inf")):
        with pytest.raises(RunError, match=r"run.json can't hold NaN or an infinity"):
            store.write_run(record.__class__(**{**record.__dict__, "config": {"rate": value}}))
    assert store.read_run() == record
    assert sorted(example_run.iterdir()) == before


def test_nan_in_json_is_refused_when_reading(example_run: Path) -> None:
    path = example_run / "run.json"
    path.write_text(path.read_text().replace("12.5", "NaN"))
    with pytest.raises(RunError, match=r"run.json is not JSON \(NaN is not JSON\)"):
        RunStore(example_run).read_run()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"9" * 5000])
def test_a_run_that_is_not_json_is_one_clear_error(example_run: Path, content: bytes) -> None:
    (example_run / "run.json").write_bytes(content)
    with pytest.raises(RunError, match=r"run.json is not JSON"):
        RunStore(example_run).read_run()


@pytest.mark.parametrize("content", [b"[]", b"1", b"null"])
def test_a_run_that_is_no_object_is_one_clear_error(example_run: Path, content: bytes) -> None:
    (example_run / "run.json").write_bytes(content)
    with pytest.raises(RunError, match=r"run.json is .*; expected RunRecord"):
        RunStore(example_run).read_run()


def test_a_missing_run_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no run.json; expected the directory of a run"):
        RunStore(tmp_path).read_run()
    with pytest.raises(RunError, match="is not a directory"):
        RunStore(tmp_path / "nowhere").read_run()


def test_nan_in_a_frame_becomes_null_and_comes_back_as_nan(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    store = RunStore(tmp_path)
    store.write_scores(
        pd.DataFrame({"image_id": ["a", "b"], "beam_size": [1, 1], "CIDEr": [0.1 + 0.2, np.nan]})
    )
    assert pq.read_table(tmp_path / "scores.parquet")["CIDEr"].to_pylist() == [0.1 + 0.2, None]
    scores = store.read_scores()
    assert scores is not None
    assert scores["CIDEr"][0] == 0.1 + 0.2
    assert np.isnan(scores["CIDEr"][1])


def test_measures_that_a_run_lacks_are_null(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    key = {"image_id": "a", "beam_size": 1, "word_index": 0, "method": "m", "word": "w", "word_class": "c"}
    store.write_attributions(pd.DataFrame([key | {"mass": None}]))
    frame = store.read_attributions()
    assert frame is not None
    assert frame[["mass", "mass_null", "share_now"]].isna().all(axis=None)


def test_a_frame_without_rows_is_none(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    assert store.read_attributions() is None
    store.write_attributions(pd.DataFrame([]))
    assert store.read_attributions() is None


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"image_id": ["a"]}, "lacks the columns beam_size"),
        ({"image_id": [1], "beam_size": [1]}, "expected text in every row of image_id"),
        ({"image_id": ["a"], "beam_size": ["one"]}, "values of another kind"),
        ({"image_id": ["a"], "beam_size": [1], "CIDEr": ["high"]}, "values of another kind"),
        ({"image_id": ["a"], "beam_size": [1], "CIDEr": [[1.0]]}, "values of another kind"),
    ],
)
def test_a_frame_of_something_else_is_refused(tmp_path: Path, frame: dict, message: str) -> None:
    store = RunStore(tmp_path)
    store.write_scores(pd.DataFrame(frame))
    with pytest.raises(RunError, match=message):
        store.read_scores()


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scores.parquet").write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(RunError, match="not a readable parquet file"):
        RunStore(tmp_path).read_scores()


def test_maps_of_images_with_any_name_come_back_as_they_were(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    maps = {
        map_key(i, 5, "attention"): np.random.default_rng(n).random((n, 3, 2)).astype(np.float16)
        for n, i in enumerate(STRANGE)
    }
    store.write_maps(maps)
    found = store.read_maps([*maps, "not there"])
    assert list(found) == list(maps)
    for key, array in maps.items():
        np.testing.assert_array_equal(found[key], array)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["maps.npz"], "nothing is written anywhere else"


def test_numpy_can_read_the_maps_and_equal_maps_give_equal_files(tmp_path: Path) -> None:
    maps = {"a/5/attention": np.ones((2, 14, 14), np.float16)}
    for name in ("one", "two"):
        RunStore(tmp_path / name).write_maps(maps)
    with np.load(tmp_path / "one/maps.npz", allow_pickle=False) as loaded:
        np.testing.assert_array_equal(loaded["a/5/attention"], maps["a/5/attention"])
    assert (tmp_path / "one/maps.npz").read_bytes() == (tmp_path / "two/maps.npz").read_bytes()


class Explosive:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("exploded",)


def npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


HEADER = b"{'descr': '<f2', 'fortran_order': False, 'shape': (%b), }"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(npy(np.array([Explosive()], dtype=object)), id="pickled object"),
        pytest.param(pickle.dumps(Explosive()), id="pickle"),
        pytest.param(npy(np.ones((1, 2, 2))), id="float64"),
        pytest.param(npy(np.ones((2, 2), np.float16)), id="two dimensions"),
        pytest.param(npy(np.asfortranarray(np.ones((2, 3, 2), np.float16))), id="by columns"),
        pytest.param(npy(np.ones((1, 2, 2), np.float16))[:-2], id="cut short"),
        pytest.param(
            b"\x93NUMPY\x01\x00v\x00" + HEADER % b"999999, 999999, 999999" + b"\n", id="claims terabytes"
        ),
        pytest.param(
            b"\x93NUMPY\x01\x00v\x00" + HEADER % b"__import__('os').mkdir('exploded'), 1, 1" + b"\n",
            id="code",
        ),
        pytest.param(b"\0" * (5 << 20), id="too large"),
        pytest.param(b"", id="empty"),
    ],
)
def test_an_entry_that_is_no_map_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("maps.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/5/attention.npy", content)
    with pytest.raises(RunError, match=r"maps.npz is damaged"):
        RunStore(tmp_path).read_maps(["a/5/attention"])
    assert not Path("exploded").exists()


def test_maps_that_are_no_zip_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "maps.npz").write_bytes(pickle.dumps(Explosive()))
    with pytest.raises(RunError, match="damaged"):
        RunStore(tmp_path).read_maps(["a"])


def test_pictures_of_images_with_any_name_stay_inside_the_folder(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run")
    for image_id in STRANGE:
        store.write_thumb(image_id, JPEG)
    assert set(store.read_thumbs([*STRANGE, "not there"])) == set(STRANGE)
    assert {p.parent.name for p in tmp_path.rglob("*.jpg")} == {"thumbs"}
    assert len(list(tmp_path.rglob("*.jpg"))) == len(STRANGE)


def test_a_picture_is_read_without_what_a_stranger_hid_in_it(tmp_path: Path) -> None:
    picture, content = Image.linear_gradient("L").convert("RGB"), io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = "a secret description"
    picture.save(content, "JPEG", exif=exif, comment=b"a secret comment", quality=95)
    store = RunStore(tmp_path)
    store.write_thumb("a", content.getvalue() + b"<script>a secret script</script>")
    read = store.read_thumbs(["a"])["a"]
    assert b"secret" not in read
    shown = np.asarray(Image.open(io.BytesIO(read)), np.int16)
    assert np.abs(shown - np.asarray(picture, np.int16)).mean() < 2


def test_explanations_appear_whole_and_equal_those_written_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("reports.explained._ROWS_AT_A_TIME", 3)
    keys = {"beam_size": 1, "word_index": 0, "word": "a", "word_class": "function"}
    rows = [
        keys | {"image_id": f"i{n}", "method": f"m{k}", "mass": n / 7} for n in range(5) for k in range(2)
    ]
    rows[3]["mass"], rows[4]["reason"] = np.nan, "because"
    maps = {map_key(f"i{n}", 1, "m0"): np.full((1, 2, 2), n, np.float16) for n in range(5)}
    store, at_once = RunStore(tmp_path / "run"), RunStore(tmp_path / "at_once")
    with store.writing_explanations() as explanations:
        for n in range(5):
            key = map_key(f"i{n}", 1, "m0")
            explanations.append(rows[2 * n : 2 * n + 2], {key: maps[key]})
            assert store.read_attributions() is None
            assert not (store.path / "maps.npz").exists()
    at_once.write_attributions(pd.DataFrame(rows))
    at_once.write_maps(maps)
    frame, expected = store.read_attributions(), at_once.read_attributions()
    pd.testing.assert_frame_equal(frame[expected.columns.drop("reason")], expected.drop(columns="reason"))
    assert frame["reason"].dropna().tolist() == ["because"]
    assert frame["mass"].isna().sum() == 1
    assert (store.path / "maps.npz").read_bytes() == (at_once.path / "maps.npz").read_bytes()


def test_explaining_that_is_broken_off_leaves_what_was_there(tmp_path):
    store = RunStore(tmp_path)
    store.write_maps({map_key("i", 1, "m"): np.ones((1, 2, 2), np.float16)})
    earlier = (tmp_path / "maps.npz").read_bytes()

    def broken_off() -> None:
        with store.writing_explanations() as explanations:
            explanations.append([], {map_key("j", 1, "m"): np.zeros((1, 2, 2), np.float16)})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    assert (tmp_path / "maps.npz").read_bytes() == earlier
    assert sorted(path.name for path in tmp_path.iterdir()) == ["maps.npz"]


def test_a_link_out_of_the_directory_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(JPEG)
    store = RunStore(tmp_path / "run")
    store.write_thumb("a", JPEG)
    (thumb,) = (tmp_path / "run/thumbs").iterdir()
    thumb.unlink()
    thumb.symlink_to(secret)
    with pytest.raises(RunError, match="not a plain file inside the run directory"):
        store.read_thumbs(["a"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<svg>", "not a readable JPEG"),
        (JPEG[:-200], "not a readable JPEG"),
        (jpeg((2000, 10)), "2000 x 10 pixels"),
        (JPEG + bytes(1 << 20), "at most 1,048,576 are read"),
    ],
)
def test_a_picture_that_is_no_small_jpeg_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    store = RunStore(tmp_path)
    store.write_thumb("a", content)
    with pytest.raises(RunError, match=message):
        store.read_thumbs(["a"])


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(RunError, match="not a plain file"):
        RunStore(tmp_path).read_run()


def test_clearing_removes_a_runs_files_and_no_other(example_run: Path) -> None:
    (example_run / "notes.txt").write_text("mine")
    RunStore(example_run).clear()
    assert [p.name for p in example_run.rglob("*") if p.is_file()] == ["notes.txt"]


def test_an_image_that_is_scored_twice_at_one_beam_size_is_refused(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.write_scores(pd.DataFrame({"image_id": ["a", "a"], "beam_size": [1, 3], "CIDEr": [1.0, 2.0]}))
    assert len(store.read_scores()) == 2
    store.write_scores(pd.DataFrame({"image_id": ["a", "a"], "beam_size": [1, 1], "CIDEr": [1.0, 2.0]}))
    with pytest.raises(RunError, match="has an image twice at one beam size; score the run again"):
        store.read_scores()
