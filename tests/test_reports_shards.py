"""Files that several processes write of one run, and what becomes of them."""

import json
from pathlib import Path

import numpy as np
import pytest

from reports.explained import ExplainedImage, Parts
from reports.maps import map_key
from reports.records import AGREEMENT, CaptionRow, Failure, ImageExplained, RunError
from reports.shards import Shard, shards
from reports.store import RunStore

IDS = ("b", "\udc80", "a\u2028")


def caption(image_id: str, size: int, text: str = "a dog") -> CaptionRow:
    words = tuple(text.split())
    return CaptionRow(image_id, size, text, words, (4, 5), -1.5, (-1.0, -0.1), ("ref",), True, None)


def write(folder: Path, rank: int, *rows: CaptionRow) -> Path:
    with Shard(folder, rank) as shard:
        shard.append("captions", rows)
    return max(folder.glob(f"captions.{rank}.*.jsonl"), key=lambda path: int(path.name.split(".")[2]))


def test_nobody_appends_to_what_an_earlier_attempt_has_torn(tmp_path: Path) -> None:
    first = write(tmp_path, 0, caption("b", 1), caption("b", 3))
    first.write_bytes(first.read_bytes()[:-5])
    second = write(tmp_path, 0, caption("\udc80", 1))
    assert [path.name for path in shards(tmp_path)] == ["captions.0.1.jsonl", "captions.0.2.jsonl"]
    assert second.read_bytes().count(b"\n") == 1
    assert [row.image_id for row in RunStore(tmp_path).read_captions()] == ["b", "\udc80"]
    assert RunStore(tmp_path).find_captions(IDS, (3, 1)).done.tolist() == [
        [False, True],
        [False, True],
        [False, False],
    ]


def test_a_process_that_writes_nothing_leaves_no_file(tmp_path: Path) -> None:
    with Shard(tmp_path / "run", 0) as shard:
        shard.append("captions", [])
    assert not (tmp_path / "run").exists()


def test_merging_puts_all_captions_in_one_order_and_each_once(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.append_captions([caption("a\u2028", 3), caption("b", 1, "the first")])
    write(tmp_path, 1, caption("a\u2028", 1), caption("b", 1, "another"))
    write(tmp_path, 10, *(caption("\udc80", size) for size in (3, 1)))
    write(tmp_path, 1, caption("b", 3))
    with Shard(tmp_path, 1) as shard:
        shard.append("failures", [Failure("a\u2028", "torn"), Failure("a\u2028", "again")])
    with Shard(tmp_path, 0) as shard:
        shard.append("failures", [Failure("b", "empty")])
    store.merge_captions(IDS, (3, 1))
    found = store.read_captions()
    assert [(row.image_id, row.beam_size) for row in found] == [(i, size) for i in IDS for size in (1, 3)]
    assert found[0].caption == "the first"
    assert [(row.image_id, row.reason) for row in store.read_failures()] == [
        ("b", "empty"),
        ("a\u2028", "torn"),
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["captions.jsonl", "failures.jsonl"]
    merged = (tmp_path / "captions.jsonl").stat().st_ino
    store.merge_captions(IDS, (3, 1))
    assert (tmp_path / "captions.jsonl").stat().st_ino == merged, "what is merged stays as it is"


def test_captions_that_are_merged_and_not_yet_removed_are_read_once(tmp_path: Path) -> None:
    rows = [caption(image_id, size) for image_id in IDS for size in (1, 3)]
    write(tmp_path, 0, *rows[::-1])
    store = RunStore(tmp_path)
    store.append_captions(rows)
    assert store.read_captions() == rows
    store.merge_captions(IDS, (1, 3))
    assert store.read_captions() == rows
    assert shards(tmp_path) == []


def test_a_run_that_lacks_a_caption_is_not_merged(tmp_path: Path) -> None:
    write(tmp_path, 0, caption("b", 1))
    with pytest.raises(RunError, match="lacks 5 of 6 captions; run the same command again"):
        RunStore(tmp_path).merge_captions(IDS, (1, 3))
    assert [path.name for path in tmp_path.iterdir()] == ["captions.0.1.jsonl"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{\n", "line 1 is not JSON"),
        (b"[]\n", "line 1 is no caption"),
        (b'{"image_id": "b", "beam_size": "1"}\n', "line 1 is no caption"),
        (b'{"image_id": "c", "beam_size": 1}\n', "line 1 is of picture 'c' at beam size 1, which this run"),
        (b'{"image_id": "b", "beam_size": 2}\n', "line 1 is of picture 'b' at beam size 2, which this run"),
        (b"x" * (5 << 20), "line 1 is longer than"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    (tmp_path / "captions.3.1.jsonl").write_bytes(line)
    with pytest.raises(RunError, match=f"captions.3.1.jsonl, {message}"):
        RunStore(tmp_path).find_captions(IDS, (1, 3))


def test_a_link_out_of_the_run_is_not_read(tmp_path: Path) -> None:
    write(tmp_path / "other", 0, caption("b", 1))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/captions.0.1.jsonl").symlink_to(tmp_path / "other/captions.0.1.jsonl")
    with pytest.raises(RunError, match="not a plain file inside"):
        RunStore(tmp_path / "run").read_captions()


def test_clearing_and_tidying_remove_what_was_left(tmp_path: Path) -> None:
    write(tmp_path, 0, caption("b", 1))
    store = RunStore(tmp_path)
    Parts(tmp_path).note("chosen", {})
    for name in (".run.json.abc_1234", "explained/.00-ab.zip.abcd1234", ".vimrc", "thumbs/.x.jpg.abcdefgh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    store.tidy()
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == [".vimrc", "captions.0.1.jsonl", "explained/chosen.json"]
    store.clear()
    assert [path.name for path in tmp_path.iterdir()] == [".vimrc"]


# ---- explained images -----------------------------------------------------------------------------------


def explained(number: int) -> ExplainedImage:
    """What could be found of an image, with numbers that decimals can't hold."""
    rng, image_id = np.random.default_rng(number), IDS[number]
    key = {"image_id": image_id, "beam_size": 3, "word_class": "function", "region": None, "reason": "none"}
    rows = [
        key
        | {"word_index": word, "word": f"w{word}", "method": method}
        | {name: rng.random() / 3 for name in AGREEMENT[:3]}
        | {"beyond_shifts": np.nan, "gate": np.float32(0.1)}
        for method in ("attention", "path_now")
        for word in range(2)
    ]
    sane = [
        {"image_id": image_id, "test": "cascade", "method": "attention", "stage": "output", "order": 0,
         "cosine": rng.random() / 3, "spearman": np.nan, "entropy_rise": np.nan, "words": 2, "reason": None}
    ]  # fmt: skip
    maps = {map_key(image_id, 3, "attention"): rng.random((2, 3, 2)).astype(np.float16)}
    about = ImageExplained(image_id, 2, {"attention": 0.1 + 0.2})
    return ExplainedImage(about, rows, maps, sane)


def test_images_that_were_stored_one_by_one_make_the_same_files_to_the_last_bit(tmp_path: Path) -> None:
    at_once, merged, parts = RunStore(tmp_path / "a"), RunStore(tmp_path / "b"), Parts(tmp_path / "b")
    images = [explained(number) for number in range(3)]
    with at_once.writing_explanations() as explanations:
        for image in images:
            explanations.append(image.rows, image.maps, image.sane)
    for number in (2, 0, 1):
        parts.write(number, images[number])
    with merged.writing_explanations() as explanations:
        for number, image in enumerate(images):
            assert explanations.append_part(parts.path(number, image.about.image_id)) == image.about
    for name in ("attributions.parquet", "sanity.parquet", "maps.npz"):
        assert (at_once.path / name).read_bytes() == (merged.path / name).read_bytes()
    frame = merged.read_attributions()
    assert frame is not None
    assert frame["cosine"].tolist() == [row["cosine"] for image in images for row in image.rows]
    parts.clear()
    assert not (tmp_path / "b/explained").exists()


def test_an_image_that_could_not_be_explained_has_a_reason_and_nothing_else(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    parts.write(0, ExplainedImage(ImageExplained("b", reason="it is torn")))
    with RunStore(tmp_path).writing_explanations() as explanations:
        assert explanations.append_part(parts.path(0, "b")).reason == "it is torn"
    assert RunStore(tmp_path).read_attributions() is None
    assert RunStore(tmp_path).read_sanity() is None


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nonsense", b"\0" * 100])
def test_a_damaged_image_is_named(tmp_path: Path, content: bytes) -> None:
    path = Parts(tmp_path).path(0, "b")
    path.parent.mkdir()
    path.write_bytes(content)
    with (
        pytest.raises(RunError, match=rf"{path.name} is damaged .* remove it and run the same command"),
        RunStore(tmp_path).writing_explanations() as explanations,
    ):
        explanations.append_part(path)


def test_what_is_noted_is_read_back_and_a_survey_that_is_damaged_is_begun_anew(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    assert parts.noted(ImageExplained, "x") is None
    parts.note("x", {"image_id": "\udc80", "words": 2, "seconds": {}, "reason": None})
    assert parts.noted(ImageExplained, "x") == ImageExplained("\udc80", 2)
    state = {
        "sum": np.random.default_rng(0).random((3, 2)),
        "names": np.frombuffer(json.dumps([1]).encode(), np.uint8),
    }
    assert parts.read_survey() == {}
    parts.write_survey(state)
    assert all(np.array_equal(parts.read_survey()[name], value) for name, value in state.items())
    path = tmp_path / "explained/survey.npz"
    path.write_bytes(path.read_bytes()[:-9])
    assert parts.read_survey() == {}
