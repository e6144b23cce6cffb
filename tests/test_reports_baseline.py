"""Blessing: what is written is what a gate needs, keeps what a reviewer set, and a stranger's file can do no harm."""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reports.baseline import read_baseline
from reports.bless import bless
from reports.gate import gate
from reports.records import (
    SCHEMA_VERSION,
    CaptionRow,
    DataInfo,
    ImageCounts,
    MetricRow,
    ModelInfo,
    Provenance,
    RunRecord,
)
from reports.speed import SpeedRecord, SpeedRow
from reports.stats import BLEU_STATISTICS, METEOR_STATISTICS, metric_intervals
from reports.store import RunStore
from reports.terms import BaselineError

HOSTILE = [
    ']]>',
    "::error::owned",
    "##[error]owned",
    "a|b`c`",
    "<script>alert(1)</script>",
    "two\nlines\r\nmore",
    "\u2028::warning::x",
    "\x1b[31mred\x1b[0m",
    "\udc80 lone",
    'a "quoted\\" name',
    "@everyone #12",
    "\u202eoverride",
    "\ufffe\x00",
    "=cmd|' /C calc'!A0",
]  # fmt: skip


def score_rows(n: int, *, seed: int = 0, quality: float = 0.7, beams: tuple[int, ...] = (3,)) -> pd.DataFrame:
    """Made-up scores whose statistics fit each other: of 8 words each, some match."""
    rng = np.random.default_rng(seed)
    frames = []
    for size in beams:
        matched = rng.binomial(8, quality, n)
        frame = pd.DataFrame({"image_id": [f"image-{i:04d}" for i in range(n)], "beam_size": size})
        for order in range(1, 5):
            frame[f"BLEU-{order}"] = np.clip(matched - order + 1, 0, None) / 8
        frame["METEOR"] = matched / 16
        frame["ROUGE-L"] = np.clip(matched / 8 + rng.normal(0, 0.03, n), 0, 1)
        frame["CIDEr"] = np.clip(1.5 * matched / 8 + rng.normal(0, 0.3, n), 0, 10)
        zeros = np.zeros((n, len(METEOR_STATISTICS)))
        meteor = pd.DataFrame(zeros, columns=list(METEOR_STATISTICS))
        for column in ("meteor_hypothesis_length", "meteor_reference_length"):
            meteor[column] = 8.0
        for side in ("hypothesis", "reference"):
            meteor[f"meteor_exact_{side}_content"] = meteor[f"meteor_{side}_matches"] = matched
        meteor["meteor_chunks"] = np.minimum(matched, 2)
        bleu = pd.DataFrame(
            {
                "bleu_hypothesis_length": 8.0,
                "bleu_reference_length": 8.0,
                **{f"bleu_matches_{k}": np.clip(matched - k + 1, 0, None) for k in range(1, 5)},
                **{f"bleu_totals_{k}": np.full(n, 9.0 - k) for k in range(1, 5)},
            }
        )[list(BLEU_STATISTICS)]
        frame["Exact match"] = (matched == 8).astype(float)
        frames.append(pd.concat([frame, bleu, meteor], axis=1))
    return pd.concat(frames, ignore_index=True)


def metric_rows(scores: pd.DataFrame) -> tuple[MetricRow, ...]:
    """The rows of run.json that follow from the scores."""
    return tuple(
        MetricRow(
            name, int(size), found.value, "share" if name == "Exact match" else "0 to 1", True, found.low,
            found.high, found.n, None, f"{name}|beam:{size}",
        )
        for size, frame in scores.groupby("beam_size")
        for name, found in metric_intervals(frame.set_index("image_id"), resamples=200).items()
        if found is not None
    )  # fmt: skip


def write_run(
    path: Path,
    scores: pd.DataFrame,
    *,
    said: Callable[[str, int], str] = lambda image_id, size: f"a dog on {image_id} of beam {size}",
    checkpoint: str = "ab" * 32,
    speed: SpeedRecord | None = None,
) -> RunStore:
    """A finished run with these scores."""
    shutil.rmtree(path, ignore_errors=True)
    store, n = RunStore(path), scores["image_id"].nunique()
    store.append_captions(
        CaptionRow(
            image_id, int(size), said(image_id, size), tuple(said(image_id, size).split()), (4, 5), -4.0,
            (-2.0, -2.0), (f"a cat on {image_id}", "a dog"), True, None, score=-1.0,
        )
        for image_id, size in zip(scores["image_id"], scores["beam_size"], strict=True)
    )  # fmt: skip
    store.write_scores(scores)
    record = RunRecord(
        SCHEMA_VERSION, "made up", "finished", "gazebench eval", "2026-01-02T03:04:05Z",
        {"device": "cpu", "encoder_dtype": "float32"},
        Provenance(
            {}, None, "cpu", 1, "Linux", None,
            {"checkpoint": checkpoint, "vocabulary": "cd" * 32, "data": "ef" * 32, "references": "01" * 32},
        ),
        ModelInfo("m", "scenes", (14, 14), 112, 1, 30, {}, None, "<unk>"),
        DataInfo("made up", "test", n, (2, 2), "given", (), (), False),
        ImageCounts(n, n, 0), (), "pycocoevalcap:1.2", metric_rows(scores), None, (),
    )  # fmt: skip
    store.write_run(record)
    if speed is not None:
        store.write_speed(speed)
    return store


def make_speed(
    *,
    slowdown: float = 1.0,
    noise: float = 0.005,
    seed: int = 0,
    processor: str = "AMD EPYC",
    exact: dict[str, int] | None = None,
    captions_sha256: str | None = "aa" * 32,
    name: str = "decode[beam=3]",
) -> SpeedRecord:
    """One benchmark, timed in 20 rounds."""
    rng = np.random.default_rng(seed)
    cpu, wall = (tuple((slowdown * 3.5 * np.exp(rng.normal(0, noise, 20))).tolist()) for _ in range(2))
    counts = {"decoder_steps": 18432, "flops": 51_000_000_000, "peak_bytes": 10_000_000} | (exact or {})
    row = SpeedRow(name, {"batch": 16, "beam": 3}, cpu, wall, counts, captions_sha256)
    return SpeedRecord(processor, "cpu", 1, "2.15.0", (row,))


def blessed(folder: Path, n: int = 12, beams: tuple[int, ...] = (1, 3), **run: object) -> tuple[Path, Path]:
    """A run and the baseline made of it."""
    write_run(folder / "run", score_rows(n, beams=beams), **run)  # type: ignore[arg-type]
    bless(folder / "run", folder / "base.toml")
    return folder / "run", folder / "base.toml"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run and its baseline, only to be read."""
    folder = tmp_path_factory.mktemp("shared")
    blessed(folder, speed=make_speed())
    return folder


@pytest.fixture
def folder(shared: Path, tmp_path: Path) -> Path:
    """The test's own copy of a run and its baseline."""
    return Path(shutil.copytree(shared, tmp_path / "own"))


def edit(path: Path, old: str, new: str, *, count: int = 1) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))


def test_a_baseline_says_of_every_image_what_paired_tests_need(folder: Path) -> None:
    baseline = read_baseline(folder / "base.toml")
    scores = RunStore(folder / "run").read_scores()
    assert scores is not None
    for size, frame in baseline.frames.items():
        expected = scores[scores["beam_size"] == size].set_index("image_id")[frame.columns]
        pd.testing.assert_frame_equal(frame, expected, atol=5e-7, rtol=0)
        assert {"CIDEr", "ROUGE-L", *BLEU_STATISTICS, *METEOR_STATISTICS} <= set(frame.columns)


def test_the_captions_are_sorted_lines_of_json_that_show_the_caption_first(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "base.captions.jsonl").read_bytes().splitlines()]
    keys = [(row["image_id"], row["beam_size"]) for row in rows]
    assert keys == sorted(keys)
    assert len(keys) == 24
    assert list(rows[0])[:4] == ["image_id", "beam_size", "caption", "token_ids"]
    assert rows[0]["bleu"] == [int(value) for value in rows[0]["bleu"]]


def test_the_file_holds_values_with_tolerances_of_one_and_five_per_cent(tmp_path: Path) -> None:
    _, path = blessed(tmp_path, n=3000, beams=(3,))
    table = tomllib.loads(path.read_text())
    rows = {row["name"]: row for row in table["metric"]}
    assert list(rows) == ["BLEU-4", "METEOR", "ROUGE-L", "CIDEr", "Exact match"]
    for name in ("BLEU-4", "METEOR", "ROUGE-L", "CIDEr"):
        assert rows[name]["tol"] == pytest.approx(0.01 * rows[name]["value"], rel=0.01)
        assert rows[name]["hard_tol"] == pytest.approx(0.05 * rows[name]["value"], rel=0.2)
        assert rows[name]["value"] == round(rows[name]["value"], 6)
    assert "tol" not in rows["Exact match"]
    assert rows["Exact match"]["hard_tol"] == pytest.approx(0.05)
    assert path.stat().st_size < 3000


def test_the_fewer_the_images_the_farther_the_hard_floor(tmp_path: Path) -> None:
    floors = []
    for n in (20, 200, 3000):
        _, path = blessed(tmp_path, n=n, beams=(3,))
        floors.append({row.name: row.hard_tol for row in read_baseline(path).terms.metric}["CIDEr"])
        path.unlink()
    assert floors[0] > 2 * floors[1] > 2 * floors[2]


def test_blessing_again_writes_the_same_bytes(folder: Path) -> None:
    files = [folder / "base.toml", folder / "base.captions.jsonl"]
    before = [file.read_bytes() for file in files]
    bless(folder / "run", folder / "base.toml")
    assert [file.read_bytes() for file in files] == before
    assert {path.name for path in folder.iterdir()} == {"run", "base.toml", "base.captions.jsonl"}


def test_blessing_another_run_keeps_what_a_reviewer_set(folder: Path) -> None:
    path = folder / "base.toml"
    text = path.read_text()
    text = re.sub(
        r'("CIDEr", beam_size = 3, .*?) tol = [\d.]+, hard_tol = [\d.]+',
        r"\1 tol = 0.33, hard_tol = 0.44",
        text,
    )
    text = text.replace("alpha = 0.01", "alpha = 0.05").replace(
        "max_changed_share = 0.0", "max_changed_share = 0.25"
    )
    text = re.sub(r'("mean_length", beam_size = 1), .*?}', r"\1, at_most = 99}", text)
    text = text.replace("tol = 0.1\n", "tol = 0.3\n")
    path.write_text(text)
    write_run(folder / "run", score_rows(12, seed=5, beams=(1, 3)), speed=make_speed(slowdown=2))
    terms = bless(folder / "run", path).terms
    cider = next(held for held in terms.metric if (held.name, held.beam_size) == ("CIDEr", 3))
    assert (cider.tol, cider.hard_tol) == (0.33, 0.44)
    scores = RunStore(folder / "run").read_scores()
    assert scores is not None
    assert cider.value == pytest.approx(scores.loc[scores["beam_size"] == 3, "CIDEr"].mean(), abs=1e-6)
    assert (terms.alpha, terms.captions.max_changed_share) == (0.05, 0.25)
    limit = next(each for each in terms.limit if (each.name, each.beam_size) == ("mean_length", 1))
    assert (limit.at_least, limit.at_most) == (None, 99)
    assert terms.speed["decode[beam=3]"].tol == 0.3
    assert terms.speed["decode[beam=3]"].cpu_ratio == pytest.approx(7, rel=0.05)


def change(run: Path, **changes: object) -> None:
    store = RunStore(run)
    store.write_run(dataclasses.replace(store.read_run(), **changes))  # type: ignore[arg-type]


def _interrupted(run: Path) -> None:
    change(run, status="interrupted")


def _failed(run: Path) -> None:
    change(run, images=ImageCounts(12, 11, 1))


def _unscored(run: Path) -> None:
    (run / "scores.parquet").unlink()


def _half_scored(run: Path) -> None:
    scores = RunStore(run).read_scores()
    assert scores is not None
    RunStore(run).write_scores(scores[:-1])


def _infinite(run: Path) -> None:
    scores = RunStore(run).read_scores()
    assert scores is not None
    scores.loc[0, "CIDEr"] = np.inf
    RunStore(run).write_scores(scores)


def _without_statistics(run: Path) -> None:
    scores = RunStore(run).read_scores()
    assert scores is not None
    RunStore(run).write_scores(scores.drop(columns="bleu_matches_2"))


def _contradicting(run: Path) -> None:
    rows = RunStore(run).read_run().metrics
    change(run, metrics=tuple(dataclasses.replace(row, value=(row.value or 0) + 0.01) for row in rows))


def _nothing_computed(run: Path) -> None:
    scores = RunStore(run).read_scores()
    assert scores is not None
    for name in ("CIDEr", "BLEU-4", "METEOR", "ROUGE-L"):
        scores[name] = np.nan
    RunStore(run).write_scores(scores)
    rows = RunStore(run).read_run().metrics
    change(run, metrics=tuple(dataclasses.replace(row, value=None, reason="no Java") for row in rows))


def _empty_folder(run: Path) -> None:
    shutil.rmtree(run)
    run.mkdir()


def _said_twice(run: Path) -> None:
    path = run / "captions.jsonl"
    path.write_bytes(path.read_bytes() + path.read_bytes())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_interrupted, "is interrupted, not finished"),
        (_failed, r"lacks captions of 1 of 12 images"),
        (_unscored, "has no scores"),
        (_half_scored, "name different captions"),
        (_said_twice, "name different captions"),
        (_infinite, "infinite or missing"),
        (_without_statistics, "has no bleu_matches_2 in scores.parquet"),
        (_contradicting, "says .* its scores.parquet"),
        (_nothing_computed, "has none of CIDEr, BLEU-4, METEOR, ROUGE-L, SPICE: no Java"),
        (_empty_folder, "holds no run.json"),
    ],
)
def test_what_is_no_whole_run_is_not_blessed(
    folder: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(folder / "run")
    with pytest.raises(BaselineError, match=message):
        bless(folder / "run", folder / "new.toml")
    assert not (folder / "new.toml").exists()


def test_a_metric_that_the_baseline_holds_does_not_get_lost(folder: Path) -> None:
    store, before = RunStore(folder / "run"), (folder / "base.toml").read_bytes()
    rows = store.read_run().metrics
    change(folder / "run", metrics=tuple(
        dataclasses.replace(row, value=None, reason="METEOR was stopped") if row.name == "METEOR" else row
        for row in rows
    ))  # fmt: skip
    with pytest.raises(BaselineError, match=r"holds METEOR at beam size 1.*\(METEOR was stopped\)"):
        bless(folder / "run", folder / "base.toml")
    assert (folder / "base.toml").read_bytes() == before
    assert all(held.name != "METEOR" for held in bless(folder / "run", folder / "new.toml").terms.metric)


def test_a_benchmark_that_the_baseline_holds_does_not_get_lost(folder: Path) -> None:
    (folder / "run" / "throughput.json").unlink()
    with pytest.raises(BaselineError, match=r"holds the benchmark decode\[beam=3\], which this run lacks"):
        bless(folder / "run", folder / "base.toml")


@pytest.mark.parametrize("ratios", [(), (3.5,), (3.5, 0.0), (3.5, -1.0)])
def test_a_benchmark_without_an_error_is_not_held(folder: Path, ratios: tuple[float, ...]) -> None:
    speed = make_speed()
    row = dataclasses.replace(speed.rows[0], cpu_ratios=ratios)
    RunStore(folder / "run").write_speed(dataclasses.replace(speed, rows=(row,)))
    with pytest.raises(BaselineError, match="fewer than 2 rounds"):
        bless(folder / "run", folder / "base.toml")


def test_a_gpu_is_held_by_the_wall_clock_alone(folder: Path) -> None:
    speed = make_speed()
    rows = tuple(dataclasses.replace(row, cpu_ratios=()) for row in speed.rows)
    RunStore(folder / "run").write_speed(dataclasses.replace(speed, device="cuda (a card)", rows=rows))
    (folder / "base.toml").unlink()
    held = bless(folder / "run", folder / "base.toml").terms.speed
    assert all(terms.cpu_ratio is None and terms.wall_ratio > 0 for terms in held.values())
    checks = {
        check.name for check in gate(folder / "run", folder / "base.toml").checks if check.layer == "speed"
    }
    assert any("wall time" in name for name in checks)
    assert not any("CPU time" in name for name in checks)


def test_a_run_outside_the_limits_is_not_blessed_into_them(folder: Path) -> None:
    write_run(
        folder / "run",
        score_rows(12, beams=(1, 3)),
        said=lambda *_: "a a a a a a a a a a",
        speed=make_speed(),
    )
    with pytest.raises(BaselineError, match=r"mean length in words is 10 at beam size 1, outside the limits"):
        bless(folder / "run", folder / "base.toml")


def test_a_file_whose_tolerances_can_not_be_kept_is_not_overwritten(folder: Path) -> None:
    edit(folder / "base.toml", "\nalpha", "\n<<<<<<< ours\nalpha")
    before = (folder / "base.toml").read_bytes()
    with pytest.raises(BaselineError, match=r"merge markers.*tolerances would be lost"):
        bless(folder / "run", folder / "base.toml")
    assert (folder / "base.toml").read_bytes() == before


def test_a_folder_is_no_file_to_bless_into(folder: Path) -> None:
    with pytest.raises(BaselineError, match="is a directory; name a file"):
        bless(folder / "run", folder)


def test_captions_that_lost_their_file_are_blessed_anew(folder: Path) -> None:
    (folder / "base.captions.jsonl").write_text("<<<<<<< ours\n")
    bless(folder / "run", folder / "base.toml")
    read_baseline(folder / "base.toml")


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_strangers_are_held_and_found_again(folder: Path, name: str) -> None:
    store = RunStore(folder / "run")
    record = store.read_run()
    row = MetricRow(name, 3, 0.5, "share", True, None, None, 12, None, name)
    change(
        folder / "run",
        name=name,
        metrics=(*record.metrics, row),
        data=dataclasses.replace(record.data, name=name),
        metric_signature=name,
    )
    store.write_speed(make_speed(name=name))
    bless(folder / "run", folder / "strange.toml")
    assert (folder / "strange.toml").read_text(encoding="utf-8").isprintable() is False  # line ends
    assert all(line.isprintable() for line in (folder / "strange.toml").read_text().split("\n"))


def test_captions_of_strangers_are_held_to_the_last_character(tmp_path: Path) -> None:
    texts = dict(zip(sorted(score_rows(len(HOSTILE))["image_id"]), HOSTILE, strict=True))
    _, path = blessed(tmp_path, n=len(HOSTILE), beams=(3,), said=lambda image_id, _: texts[image_id])
    found = read_baseline(path).captions
    assert {image_id: row.caption for (image_id, _), row in found.items()} == texts
    lines = (tmp_path / "base.captions.jsonl").read_bytes().decode().split("\n")
    assert all(line.isprintable() for line in lines), "a review shows every character that acts"


def _in_toml(old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "base.toml", old, new)


def _no_captions(folder: Path) -> None:
    (folder / "base.captions.jsonl").unlink()


def _other_captions(folder: Path) -> None:
    edit(folder / "base.captions.jsonl", "a dog", "a cat")


def _merged_captions(folder: Path) -> None:
    edit(folder / "base.captions.jsonl", "{", "<<<<<<< HEAD\n{")


def _converted_line_ends(folder: Path) -> None:
    path = folder / "base.captions.jsonl"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def _link_outside(folder: Path) -> None:
    outside = folder.parent / "outside.jsonl"
    (folder / "base.captions.jsonl").rename(outside)
    (folder / "base.captions.jsonl").symlink_to(outside)


def _huge(folder: Path) -> None:
    os.truncate(folder / "base.toml", 3 << 20)


def _huge_captions(folder: Path) -> None:
    os.truncate(folder / "base.captions.jsonl", 1 << 30)


def _pipe(folder: Path) -> None:
    (folder / "base.toml").unlink()
    os.mkfifo(folder / "base.toml")


def _rewritten(line: bytes) -> Callable[[Path], None]:
    """Another file of captions, with the hash that fits."""

    def write(folder: Path) -> None:
        path = folder / "base.captions.jsonl"
        content = path.read_bytes()
        path.write_bytes(content + line)
        old, new = (hashlib.sha256(text).hexdigest() for text in (content, content + line))
        edit(folder / "base.toml", old, new)

    return write


REFUSED = [
    (
        _in_toml("alpha = 0.01", "<<<<<<< HEAD\nalpha = 0.01\n=======\nalpha = 0.1\n>>>>>>> x"),
        "merge markers",
    ),
    (_in_toml("schema = 1", "schema = 2"), "has schema 2; this program reads schema 1"),
    (_in_toml("schema = 1", "schema = true"), "has schema True"),
    (_in_toml("schema = 1\n", ""), "has schema None"),
    (_in_toml("\nalpha", "\nalhpa"), "lacks alpha"),
    (_in_toml("\nalpha", "\ncolour = 1\nalpha"), "holds 'colour', which this program does not know"),
    (_in_toml('{name = "CIDEr"', '{strict = true, name = "CIDEr"'), "metric.*holds 'strict'"),
    (_in_toml("alpha = 0.01", "alpha = 0.9"), "alpha is 0.9; expected 0.001 to 0.5"),
    (_in_toml("alpha = 0.01", "alpha = nan"), "alpha is nan; expected float"),
    (_in_toml("alpha = 0.01", 'alpha = "0.01"'), "alpha is '0.01'; expected float"),
    (_in_toml("alpha = 0.01", "alpha = true"), "alpha is True; expected float"),
    (_in_toml("max_changed_share = 0.0", "max_changed_share = 2"), "expected a share"),
    (_in_toml("hard_tol = ", "hard_tol = -"), "a tolerance of BLEU-4 is negative"),
    (_in_toml('name = "Exact match", ', 'name = "Exact match", tol = 1, '), "Exact match has a tol"),
    (_in_toml('name = "mean_length"', 'name = "mood"'), "there is no limit 'mood'"),
    (
        _in_toml('"empty_share", beam_size = 1', '"empty_share", beam_size = 3'),
        "limit empty_share 3 is there twice",
    ),
    (_in_toml("[machine]", "[machines]"), "holds 'machines'"),
    (_in_toml('"base.captions.jsonl"', '"../base.captions.jsonl"'), "in the same folder"),
    (_in_toml('"base.captions.jsonl"', '"/etc/passwd"'), "in the same folder"),
    (_in_toml('"base.captions.jsonl"', '"..\\\\base.captions.jsonl"'), "in the same folder"),
    (_in_toml('"base.captions.jsonl"', '"other.captions.jsonl"'), "other.captions.jsonl is not there"),
    (_in_toml("tol = 0.1\n", "tol = -0.1\n"), "speed of decode"),
    (_in_toml("[captions]", "[captions"), "is not TOML"),
    (_in_toml("schema = 1", "schema = 1\nx = " + "[" * 5000), "is not TOML"),
    (_in_toml("schema = 1", "schema = 1\nx" + ".x" * 5000 + " = 1"), "x"),
    (_in_toml("value = 0.", "value = 1."), "its captions 0."),
    (_huge, "3,145,728 bytes; at most 2,097,152 are read"),
    (_huge_captions, "at most 536,870,912 are read"),
    (_pipe, "is not there, or no file"),
    (_no_captions, "base.captions.jsonl is not there"),
    (_other_captions, "not from the same blessing"),
    (_converted_line_ends, "line ends were converted"),
    (_merged_captions, "base.captions.jsonl holds merge markers"),
    (_link_outside, "lies outside the folder"),
    (_rewritten(b"{"), "line 25 is not JSON"),
    (_rewritten(b"[" * 100_000), "line 25 is not JSON"),
    (_rewritten(b'{"image_id": NaN}'), "NaN is not JSON"),
    (_rewritten(b"{}"), "line 25 lacks image_id"),
    (_in_toml("images = 12", "images = 13"), "is about 13 images, its captions are not"),
    (_rewritten(b"1"), "line 25 is 1; expected BlessedCaption"),
]


@pytest.mark.parametrize(("damage", "message"), REFUSED)
def test_a_baseline_that_can_not_be_trusted_is_refused_by_name(
    folder: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(folder)
    with pytest.raises(BaselineError, match=message):
        read_baseline(folder / "base.toml")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_to_the_file_ends_in_anything_but_a_sentence(
    shared: Path, tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray((shared / "base.toml").read_bytes())
    shutil.copy(shared / "base.captions.jsonl", tmp_path / "base.captions.jsonl")
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(content), len(content) // 2]))
    (tmp_path / "base.toml").write_bytes(content[:cut])
    with contextlib.suppress(BaselineError):
        assert read_baseline(tmp_path / "base.toml").terms.schema == 1


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_change_of_the_captions_goes_unnoticed(shared: Path, tmp_path: Path, data: st.DataObject) -> None:
    original = (shared / "base.captions.jsonl").read_bytes()
    content = bytearray(original)
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    shutil.copy(shared / "base.toml", tmp_path / "base.toml")
    (tmp_path / "base.captions.jsonl").write_bytes(content)
    with pytest.raises(BaselineError, match=r"not from the same blessing|merge markers"):
        read_baseline(tmp_path / "base.toml")
