"""The gate: what is worse is red, what is chance is not, and what can't be compared is never green."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_reports_baseline import (
    blessed,
    change,
    edit,
    make_speed,
    metric_rows,
    score_rows,
    write_run,
)

from reports.bless import bless
from reports.gate import Check, GateResult, gate
from reports.gate_output import gate_table, write_outputs
from reports.records import CaptionRow, ImageCounts
from reports.store import RunStore

OTHER_CHECKPOINT = "99" * 32


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run over 12 images and its baseline, only to be read."""
    folder = tmp_path_factory.mktemp("shared")
    blessed(folder, speed=make_speed())
    return folder


@pytest.fixture
def folder(shared: Path, tmp_path: Path) -> Path:
    """The test's own copy of a run and its baseline."""
    return Path(shutil.copytree(shared, tmp_path / "own"))


def gated(folder: Path, **options: bool) -> GateResult:
    """Gates, and makes sure that every output can be written."""
    result = gate(folder / "run", folder / "base.toml", **options)
    write_outputs(result, folder / "out")
    assert gate_table(result).startswith(result.verdict)
    assert json.loads((folder / "out" / "gate.json").read_text())["exit_code"] == result.exit_code
    return result


def check(result: GateResult, name: str) -> Check:
    found = [each for each in result.checks if each.name == name]
    assert len(found) == 1, [each.name for each in result.checks]
    return found[0]


def rewrite_captions(run: Path, changed: Callable[[CaptionRow], CaptionRow]) -> None:
    store = RunStore(run)
    rows = [changed(row) for row in store.read_captions()]
    (run / "captions.jsonl").unlink()
    store.append_captions(rows)


def rewrite_scores(run: Path, scores: pd.DataFrame) -> None:
    """Other scores with the metrics that follow from them."""
    RunStore(run).write_scores(scores)
    change(run, metrics=metric_rows(scores))


def stored_scores(run: Path) -> pd.DataFrame:
    scores = RunStore(run).read_scores()
    assert scores is not None
    return scores


# ---- identity


def test_the_same_run_passes_whatever_the_seed(folder: Path) -> None:
    for seed in range(50):
        result = gate(folder / "run", folder / "base.toml", seed=seed, strict=True)
        assert (result.exit_code, result.failures) == (0, ())
    assert check(result, "captions").text == "all 24 are the same"
    assert {each.outcome for each in result.checks} == {"pass"}


def test_a_changed_caption_of_the_same_model_is_red_and_shown(folder: Path) -> None:
    rewrite_captions(
        folder / "run",
        lambda row: dataclasses.replace(row, caption="a horse", score=-0.99) if row.beam_size == 3 else row,
    )
    result = gated(folder)
    found = check(result, "captions")
    assert (result.exit_code, found.outcome, found.difference) == (1, "regression", 0.5)
    assert found.text.startswith(
        "12 of 24 changed, though model and kind of device are the same; if intended, bless"
    )
    assert len(found.details) == 10
    assert found.details[0] == "image-0000, beam size 3: “a dog on image-0000 of beam 3” became “a horse”"


def test_a_near_tie_is_counted_apart_and_passes(folder: Path) -> None:
    rewrite_captions(
        folder / "run",
        lambda row: (
            dataclasses.replace(row, caption="a horse", token_ids=(4, 9), score=-1.0009)
            if row.image_id == "image-0003"
            else row
        ),
    )
    found = check(gated(folder), "captions")
    assert (found.outcome, found.text) == ("pass", "0 of 24 changed, and 2 near-ties that rounding decides")
    assert found.difference == 0


@pytest.mark.parametrize(
    "changes",
    [{"score": None, "token_ids": (4, 9)}, {"score": -1.0}, {"score": -1.0011, "token_ids": (4, 9)}],
)
def test_no_near_tie_is_what_has_no_score_the_same_tokens_or_another_score(
    folder: Path, changes: dict[str, object]
) -> None:
    rewrite_captions(
        folder / "run",
        lambda row: (
            dataclasses.replace(row, caption="a horse", **changes)  # type: ignore[arg-type]
            if row.image_id == "image-0003"
            else row
        ),
    )
    assert check(gated(folder), "captions").outcome == "regression"


def test_as_many_captions_may_change_as_the_baseline_allows(folder: Path) -> None:
    edit(folder / "base.toml", "max_changed_share = 0.0", "max_changed_share = 0.5")
    rewrite_captions(
        folder / "run",
        lambda row: dataclasses.replace(row, caption="a horse", score=0.0) if row.beam_size == 3 else row,
    )
    assert check(gated(folder), "captions").outcome == "pass"


@pytest.mark.parametrize(
    "config",
    [{"device": "cuda:1", "encoder_dtype": "float32"}, {"device": "cpu", "encoder_dtype": "bfloat16"}, {}],
)
def test_captions_may_change_on_another_kind_of_device(folder: Path, config: dict[str, object]) -> None:
    rewrite_captions(folder / "run", lambda row: dataclasses.replace(row, caption="a horse", score=0.0))
    change(folder / "run", config=config)
    assert check(gated(folder), "captions").outcome == "pass"


def test_another_card_of_the_same_kind_must_say_the_same(tmp_path: Path) -> None:
    write_run(tmp_path / "run", score_rows(4))
    change(tmp_path / "run", config={"device": "cuda:0", "encoder_dtype": "float32"})
    bless(tmp_path / "run", tmp_path / "base.toml")
    change(tmp_path / "run", config={"device": "cuda:1", "encoder_dtype": "float32"})
    rewrite_captions(tmp_path / "run", lambda row: dataclasses.replace(row, caption="a horse", score=0.0))
    assert check(gated(tmp_path), "captions").outcome == "regression"


@pytest.mark.parametrize("checkpoint", ["ab" * 32, OTHER_CHECKPOINT])
def test_the_same_captions_with_other_scores_are_a_change_of_scoring(folder: Path, checkpoint: str) -> None:
    scores = score_rows(12, beams=(1, 3))
    scores["CIDEr"] += 2e-6
    write_run(folder / "run", scores, checkpoint=checkpoint, speed=make_speed())
    result = gated(folder)
    found = check(result, "scoring")
    assert (result.exit_code, found.outcome) == (1, "regression")
    assert "scoring changed" in found.text
    assert found.details == ("CIDEr, beam size 1: 12 images", "CIDEr, beam size 3: 12 images")


# ---- paired tests


def two_models(
    n: int, *, seed: int, loss: float = 0.0, changed: float = 1.0
) -> tuple[pd.DataFrame, pd.DataFrame, set[str]]:
    """Scores of two models over the same images, the second's CIDEr lower by `loss` of its mean.

    On changed captions the CIDEr of two models, about 1, differs with a standard deviation of .55.
    """
    rng = np.random.default_rng(seed)
    first = score_rows(n, seed=1000 + seed)
    second = first.copy()
    other = rng.permutation(n)[: round(changed * n)]
    moved = rng.normal(0, 0.55, len(other))
    if loss:
        moved += -loss * first["CIDEr"].sum() / len(other) - moved.mean()
    second.loc[other, "CIDEr"] += moved
    return first, second, set(second.loc[other, "image_id"])


def gate_models(folder: Path, first: pd.DataFrame, second: pd.DataFrame, other: set[str]) -> GateResult:
    write_run(folder / "run", first)
    (folder / "base.toml").unlink(missing_ok=True)
    bless(folder / "run", folder / "base.toml")
    write_run(
        folder / "run",
        second,
        checkpoint=OTHER_CHECKPOINT,
        said=lambda image_id, size: f"a dog {'at' if image_id in other else 'on'} {image_id} of beam {size}",
    )
    return gated(folder)


@pytest.mark.slow
def test_a_loss_of_three_per_cent_of_cider_is_caught(tmp_path: Path) -> None:
    caught = 0
    for seed in range(20):
        result = gate_models(tmp_path, *two_models(2000, seed=seed, loss=0.03, changed=0.3))
        found = check(result, "CIDEr, beam size 3")
        assert found.difference == pytest.approx(-0.03 * (found.before or 0), abs=1e-5)
        caught += (result.exit_code, found.outcome) == (1, "regression")
    assert caught >= 19


@pytest.mark.slow
def test_two_models_that_are_equally_good_are_red_no_more_often_than_alpha_says(tmp_path: Path) -> None:
    results = [gate_models(tmp_path, *two_models(300, seed=seed)) for seed in range(50)]
    assert (
        sum(result.exit_code != 0 for result in results) <= 2
    )  # .01 of 50: three or more in 1.4 % of such tests


def test_worse_than_the_tolerance_without_significance_is_unclear_and_says_what_would_help(
    tmp_path: Path,
) -> None:
    first, second, other = two_models(40, seed=0, loss=0.03)
    result = gate_models(tmp_path, first, second, other)
    found = check(result, "CIDEr, beam size 3")
    assert (result.exit_code, found.outcome) == (0, "inconclusive")
    assert found.p is not None
    assert found.p > 0.01
    needed = int(found.text.split("about ")[1].split(" images")[0].replace(",", ""))
    spread = 0.55 * (2.326 + 0.842) / (0.03 * first["CIDEr"].mean())
    assert needed == pytest.approx(spread**2, rel=0.5)
    assert gated(tmp_path, strict=True).exit_code == 5


def test_significant_but_within_the_tolerance_is_no_regression(tmp_path: Path) -> None:
    result = gate_models(tmp_path, *two_models(2000, seed=0, loss=0.008, changed=0.02))
    found = check(result, "CIDEr, beam size 3")
    assert (result.exit_code, found.outcome) == (0, "pass")
    assert found.p is not None
    assert found.p < 0.01


def test_better_is_said_and_fails_only_if_strict(tmp_path: Path) -> None:
    result = gate_models(tmp_path, *two_models(500, seed=0, loss=-0.04))
    assert (result.exit_code, check(result, "CIDEr, beam size 3").outcome) == (0, "better")
    assert "1 better than the baseline" in result.verdict
    assert gated(tmp_path, strict=True).exit_code == 1


def test_the_hard_floor_needs_no_significance(tmp_path: Path) -> None:
    first, second, other = two_models(8, seed=0, loss=0.5)
    gate_models(tmp_path, first, second, other)
    path = tmp_path / "base.toml"
    path.write_text(re.sub(r'("CIDEr".*hard_tol = )[\d.]+', r"\g<1>0.1", path.read_text()))
    found = check(gated(tmp_path), "CIDEr, beam size 3")
    assert found.outcome == "regression"
    assert "hard floor" in found.text
    assert found.p is not None
    assert found.p > 0.01


def test_however_small_alpha_is_and_large_the_family_p_can_get_below(tmp_path: Path) -> None:
    """With 10,000 permutations no p of 12 tests could get below .001 after Holm."""
    write_run(tmp_path / "run", score_rows(30, beams=(1, 2, 3), quality=0.9))
    bless(tmp_path / "run", tmp_path / "base.toml")
    path = tmp_path / "base.toml"
    path.write_text(
        path.read_text().replace("hard_tol = 0.", "hard_tol = 9.").replace("alpha = 0.01", "alpha = 0.001")
    )
    write_run(
        tmp_path / "run",
        score_rows(30, beams=(1, 2, 3), quality=0.2),
        checkpoint=OTHER_CHECKPOINT,
        said=lambda *_: "a dog at it now and so on",
    )
    found = check(gated(tmp_path), "CIDEr, beam size 3")
    assert found.outcome == "regression"
    assert found.p is not None
    assert found.p < 0.001


def test_shares_have_a_floor_and_no_test(tmp_path: Path) -> None:
    first = score_rows(400, quality=0.9)
    second = first.copy()
    second["Exact match"] = 0.0
    result = gate_models(tmp_path, first, second, set())
    found = check(result, "Exact match, beam size 3")
    assert (found.outcome, found.p) == ("regression", None)
    assert check(result, "CIDEr, beam size 3").outcome == "pass"


def test_what_should_be_low_is_red_when_it_rises(tmp_path: Path) -> None:
    write_run(tmp_path / "run", score_rows(400))
    record = RunStore(tmp_path / "run").read_run()
    row = dataclasses.replace(
        record.metrics[-1], name="Hallucinated objects", higher_is_better=False, value=0.1
    )
    change(tmp_path / "run", metrics=(*record.metrics, row))
    bless(tmp_path / "run", tmp_path / "base.toml")
    for value, outcome in ((0.3, "regression"), (0.0, "better"), (0.12, "pass")):
        change(tmp_path / "run", metrics=(*record.metrics, dataclasses.replace(row, value=value)))
        assert check(gated(tmp_path), "Hallucinated objects, beam size 3").outcome == outcome


# ---- sanity limits


@pytest.mark.parametrize(
    ("said", "limit"),
    [
        (lambda image_id, _: f"a <unk> on {image_id} of beam", "share of words that are the unknown word"),
        (lambda image_id, _: f"a dog on {image_id} of beam number 3" * (image_id > "image-0000"),
         "share of captions without a word"),
        (lambda image_id, _: f"a dog {image_id}", "mean length in words"),
        (lambda *_: "a dog on it of beam 3", "share of captions that are distinct"),
    ],
)  # fmt: skip
def test_no_sane_captioner_leaves_the_limits(
    folder: Path, said: Callable[[str, int], str], limit: str
) -> None:
    write_run(
        folder / "run",
        score_rows(12, beams=(1, 3)),
        said=said,
        checkpoint=OTHER_CHECKPOINT,
        speed=make_speed(),
    )
    result = gated(folder)
    assert result.exit_code == 1
    assert [each.name for each in result.failures] == [f"{limit}, beam size 1", f"{limit}, beam size 3"]


def test_a_limit_that_can_not_be_judged_is_no_pass(folder: Path) -> None:
    model = RunStore(folder / "run").read_run().model
    assert model is not None
    change(folder / "run", model=dataclasses.replace(model, unknown_word=None))
    result = gated(folder)
    assert result.exit_code == 4
    assert "does not name its unknown word" in result.failures[0].text


# ---- comparability


def _other_hash(name: str, value: str | None) -> Callable[[Path], None]:
    def alter(run: Path) -> None:
        provenance = RunStore(run).read_run().provenance
        sha256 = {key: old for key, old in provenance.sha256.items() if key != name} | (
            {name: value} if value else {}
        )
        change(run, provenance=dataclasses.replace(provenance, sha256=sha256))

    return alter


def _other_references(run: Path) -> None:
    rewrite_captions(run, lambda row: dataclasses.replace(row, references=("a bird", "a dog")))


def _other_signature(run: Path) -> None:
    rows = RunStore(run).read_run().metrics
    change(run, metrics=tuple(dataclasses.replace(row, signature=f"{row.signature}|lp:0.9") for row in rows))


def _other_images(run: Path) -> None:
    scores = score_rows(12, beams=(1, 3))
    scores["image_id"] = scores["image_id"].str.replace("0003", "9003")
    write_run(run, scores, speed=make_speed())


def _fewer_images(run: Path) -> None:
    write_run(run, score_rows(11, beams=(1, 3)), speed=make_speed())


def _other_beam(run: Path) -> None:
    write_run(run, score_rows(12, beams=(1, 5)), speed=make_speed())


def _fewer_beams(run: Path) -> None:
    write_run(run, score_rows(12, beams=(3,)), speed=make_speed())


def _newer_schema(run: Path) -> None:
    edit(run / "run.json", '"schema_version": 1', '"schema_version": 2')


@pytest.mark.parametrize(
    ("alter", "name", "text"),
    [
        (_other_hash("data", "77" * 32), "pictures", "nothing is compared: only in the baseline: efef"),
        (_other_hash("data", None), "pictures", "only in the run: (not stated)"),
        (_other_hash("references", "77" * 32), "references", "only in the baseline: 0101"),
        (_other_hash("vocabulary", "77" * 32), "vocabulary", "only in the baseline: cdcd"),
        (_other_hash("frequencies", "77" * 32), "document frequencies", "only in the baseline: (not stated)"),
        (_other_references, "references of the captions", "only in the run"),
        (_other_signature, "metric signatures", "CIDEr, beam size 1: CIDEr|beam:1|lp:0.9"),
        (_other_images, "image ids", "only in the baseline: image-0003; only in the run: image-9003"),
        (_fewer_images, "image ids", "only in the baseline: image-0011"),
        (_other_beam, "beam sizes", "only in the baseline: 3; only in the run: 5"),
        (_fewer_beams, "beam sizes", "only in the baseline: 1"),
        (_newer_schema, "run", "schema version 2"),
    ],
)  # fmt: skip
def test_what_can_not_be_compared_is_refused_by_name(
    folder: Path, alter: Callable[[Path], None], name: str, text: str
) -> None:
    alter(folder / "run")
    result = gated(folder)
    assert result.exit_code == 3
    assert text in check(result, name).text
    assert check(result, name).outcome == "incomparable"
    assert not any(each.layer in ("quality", "speed") for each in result.checks), "no number is compared"


def test_hashes_that_neither_states_are_not_compared(tmp_path: Path) -> None:
    write_run(tmp_path / "run", score_rows(4))
    for name in ("data", "references", "vocabulary"):
        _other_hash(name, None)(tmp_path / "run")
    bless(tmp_path / "run", tmp_path / "base.toml")
    result = gated(tmp_path)
    assert result.exit_code == 0
    assert [each.name for each in result.checks if each.layer == "comparability"] == [
        "beam sizes", "image ids", "references of the captions", "metric signatures"
    ]  # fmt: skip


def test_runs_without_signatures_of_their_metrics_agree_on_the_common_one(tmp_path: Path) -> None:
    write_run(tmp_path / "run", score_rows(4))
    rows = tuple(
        dataclasses.replace(row, signature=None) for row in RunStore(tmp_path / "run").read_run().metrics
    )
    change(tmp_path / "run", metrics=rows)
    bless(tmp_path / "run", tmp_path / "base.toml")
    assert gated(tmp_path).exit_code == 0
    change(tmp_path / "run", metric_signature="pycocoevalcap:9")
    assert check(gated(tmp_path), "metric signatures").outcome == "incomparable"


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda path: path.unlink(), "is not there"),
        (lambda path: edit(path, "schema", "<<<<<<< HEAD\nschema"), "merge markers"),
        (lambda path: edit(path, "\nschema = 1", "\nschema = 9"), "has schema 9"),
        (lambda path: (path.parent / "base.captions.jsonl").unlink(), "base.captions.jsonl is not there"),
        (lambda path: edit(path.parent / "base.captions.jsonl", "dog", "cat"), "not from the same blessing"),
    ],
)
def test_a_baseline_that_can_not_be_used_is_named(
    folder: Path, damage: Callable[[Path], None], text: str
) -> None:
    damage(folder / "base.toml")
    result = gated(folder)
    assert (result.exit_code, len(result.checks)) == (3, 1)
    assert text in result.checks[0].text


def test_a_run_that_is_not_there_is_a_mistake_in_the_command(folder: Path) -> None:
    for path in (folder / "nowhere", folder / "base.toml"):
        result = gate(path, folder / "base.toml")
        assert result.exit_code == 2
        assert f"{path.name} is no directory" in result.checks[0].text


# ---- incomplete runs


def _without_metric(run: Path) -> None:
    rows = RunStore(run).read_run().metrics
    change(run, metrics=tuple(row for row in rows if row.name != "METEOR"))


def _metric_not_computed(run: Path) -> None:
    rows = RunStore(run).read_run().metrics
    change(run, metrics=tuple(
        dataclasses.replace(row, value=None, reason="Java was stopped") if row.name == "METEOR" else row for row in rows
    ))  # fmt: skip


def _metric_lacks_an_image(run: Path) -> None:
    scores = stored_scores(run)
    scores.loc[3, "METEOR"] = np.nan
    RunStore(run).write_scores(scores)


def _shares_gone(run: Path) -> None:
    rows = RunStore(run).read_run().metrics
    change(run, metrics=tuple(row for row in rows if row.name != "Exact match"))


def _failed_image(run: Path) -> None:
    change(run, images=ImageCounts(12, 11, 1))


def _failed_caption(run: Path) -> None:
    rewrite_captions(
        run, lambda row: dataclasses.replace(row, caption=None, error="x") if row.beam_size == 1 else row
    )


def _unfinished(run: Path) -> None:
    change(run, status="running")


def _lost_caption(run: Path) -> None:
    path = run / "captions.jsonl"
    path.write_bytes(path.read_bytes()[:-20])


def _no_speed(run: Path) -> None:
    (run / "throughput.json").unlink()


def _no_benchmark(run: Path) -> None:
    RunStore(run).write_speed(dataclasses.replace(make_speed(), rows=()))


def _uncounted(run: Path) -> None:
    speed = make_speed()
    row = dataclasses.replace(speed.rows[0], exact={"flops": 51_000_000_000, "peak_bytes": 10_000_000})
    RunStore(run).write_speed(dataclasses.replace(speed, rows=(row,)))


def _untimed(run: Path) -> None:
    speed = make_speed()
    row = dataclasses.replace(speed.rows[0], wall_ratios=())
    RunStore(run).write_speed(dataclasses.replace(speed, rows=(row,)))


def _overwrite(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda run: (run / name).write_bytes(content) and None


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (_without_metric, "not computed: not among the run's metrics"),
        (_metric_not_computed, "not computed: Java was stopped"),
        (_metric_lacks_an_image, "not computed: some images have no value"),
        (_shares_gone, "not computed: not among the run's metrics"),
        (_failed_image, "lacks captions of 1 of 12 images"),
        (_failed_caption, "lacks captions of 12 of 12 images"),
        (_unfinished, "is running, not finished"),
        (_lost_caption, "name different captions"),
        (_no_speed, "not measured in the run"),
        (_no_benchmark, "not measured in the run"),
        (_uncounted, "not counted in the run"),
        (_untimed, "not timed in the run"),
        (_overwrite("run.json", b"{"), "is not JSON"),
        (_overwrite("run.json", b"[]"), "expected RunRecord"),
        (_overwrite("captions.jsonl", b"{}\n"), "lacks image_id"),
        (_overwrite("scores.parquet", b"PAR1"), "not a readable parquet file"),
        (_overwrite("throughput.json", b'{"speed": NaN}'), "NaN is not JSON"),
        (_overwrite("throughput.json", b'{"speed": 1}'), "expected SpeedRecord"),
        (lambda run: (run / "scores.parquet").unlink(), "has no scores"),
        (lambda run: (run / "run.json").unlink(), "holds no run.json"),
    ],
)
def test_what_the_run_lacks_is_a_failure_with_its_reason(
    folder: Path, damage: Callable[[Path], None], text: str
) -> None:
    damage(folder / "run")
    result = gated(folder)
    assert result.exit_code == 4
    assert any(text in each.text for each in result.failures), [each.text for each in result.failures]


def test_what_is_missing_hides_no_regression_but_comes_first(folder: Path) -> None:
    _no_speed(folder / "run")
    rewrite_captions(folder / "run", lambda row: dataclasses.replace(row, caption="a horse", score=0.0))
    result = gated(folder)
    assert result.exit_code == 4
    assert check(result, "captions").outcome == "regression"


def test_a_metric_that_the_baseline_does_not_hold_is_said_and_passes(folder: Path) -> None:
    lines = (folder / "base.toml").read_text().splitlines(keepends=True)
    (folder / "base.toml").write_text("".join(line for line in lines if '"METEOR"' not in line))
    result = gated(folder)
    assert (result.exit_code, check(result, "METEOR, beam size 3").outcome) == (0, "skipped")


def test_a_null_reason_or_not_a_number_never_passes(folder: Path) -> None:
    scores = stored_scores(folder / "run")
    scores.loc[scores["beam_size"] == 3, "CIDEr"] = np.nan
    RunStore(folder / "run").write_scores(scores)
    assert gated(folder).exit_code == 4


# ---- speed


def speed_gate(folder: Path, **speed: object) -> GateResult:
    RunStore(folder / "run").write_speed(make_speed(**{"seed": 1} | speed))  # type: ignore[arg-type]
    return gated(folder)


def test_twenty_per_cent_slower_is_red(folder: Path) -> None:
    result = speed_gate(folder, slowdown=1.2)
    assert result.exit_code == 1
    assert [each.name for each in result.failures] == [
        "decode[beam=3]: CPU time",
        "decode[beam=3]: wall time",
    ]
    assert result.failures[0].difference == pytest.approx(0.2, abs=0.02)


def test_either_clock_can_be_the_one_that_shows_it(folder: Path) -> None:
    slow, fast = make_speed(slowdown=1.2, seed=1).rows[0], make_speed(seed=1).rows[0]
    row = dataclasses.replace(fast, wall_ratios=slow.wall_ratios)
    RunStore(folder / "run").write_speed(dataclasses.replace(make_speed(), rows=(row,)))
    result = gated(folder)
    assert [each.name for each in result.failures] == ["decode[beam=3]: wall time"]


def test_on_a_gpu_only_the_wall_clock_counts(folder: Path) -> None:
    store = RunStore(folder / "run")
    (folder / "base.toml").unlink()
    store.write_speed(dataclasses.replace(make_speed(), device="cuda"))
    bless(folder / "run", folder / "base.toml")
    slow = make_speed(slowdown=2, seed=1).rows[0]
    row = dataclasses.replace(make_speed().rows[0], cpu_ratios=slow.cpu_ratios)
    store.write_speed(dataclasses.replace(make_speed(), device="cuda", rows=(row,)))
    assert gated(folder).exit_code == 0


def test_much_faster_is_said_and_fails_only_if_strict(folder: Path) -> None:
    result = speed_gate(folder, slowdown=0.5)
    assert (result.exit_code, check(result, "decode[beam=3]: CPU time").outcome) == (0, "better")
    assert gated(folder, strict=True).exit_code == 1


def test_a_noisy_machine_is_unclear_and_never_red(folder: Path) -> None:
    result = speed_gate(folder, slowdown=1.2, noise=1.0)
    assert result.exit_code == 0
    assert check(result, "decode[beam=3]: CPU time").outcome == "inconclusive"
    assert gated(folder, strict=True).exit_code == 5


@pytest.mark.parametrize(
    ("alter", "text"),
    [
        ({"processor": "Intel Xeon"}, "another processor"),
        ({"threads": 2}, "another number of threads"),
        ({"device": "cpu:0", "threads": 2}, "another device and number of threads"),
    ],
)
def test_times_of_another_machine_are_not_judged_but_counts_are(
    folder: Path, alter: dict[str, object], text: str
) -> None:
    speed = make_speed(slowdown=3, exact={"flops": 51_000_000_001})
    RunStore(folder / "run").write_speed(dataclasses.replace(speed, **alter))  # type: ignore[arg-type]
    result = gated(folder)
    assert text in check(result, "decode[beam=3]: wall time").text
    assert [each.name for each in result.failures] == ["decode[beam=3]: flops"]


@pytest.mark.parametrize(
    ("exact", "outcome", "code"),
    [
        ({"decoder_steps": 18433}, "regression", 1),
        ({"decoder_steps": 18431}, "better", 0),
        ({"peak_bytes": 10_100_001}, "regression", 1),
        ({"peak_bytes": 10_099_999}, "pass", 0),
        ({"peak_bytes": 9_899_999}, "better", 0),
    ],
)
def test_counts_of_work_are_equal_for_equal_captions(
    folder: Path, exact: dict[str, int], outcome: str, code: int
) -> None:
    result = speed_gate(folder, exact=exact)
    found = check(result, f"decode[beam=3]: {next(iter(exact)).replace('_', ' ')}")
    assert (result.exit_code, found.outcome) == (code, outcome)


def test_counts_of_work_are_not_compared_for_other_captions(folder: Path) -> None:
    result = speed_gate(folder, exact={"flops": 1}, captions_sha256="bb" * 32)
    found = check(result, "decode[beam=3]: flops")
    assert (result.exit_code, found.outcome) == (0, "skipped")
    assert found.text == "not compared: the captions changed"


def test_a_benchmark_of_another_size_is_another_benchmark(folder: Path) -> None:
    edit(folder / "base.toml", "batch = 16", "batch = 32")
    result = gated(folder)
    assert result.exit_code == 3
    assert "batch 32, beam 3 in the baseline, batch 16, beam 3 in the run" in result.failures[0].text


def test_a_new_benchmark_is_said_and_passes(folder: Path) -> None:
    speed = make_speed()
    RunStore(folder / "run").write_speed(
        dataclasses.replace(speed, rows=(*speed.rows, dataclasses.replace(speed.rows[0], name="encode")))
    )
    result = gated(folder)
    assert (result.exit_code, check(result, "encode").outcome) == (0, "skipped")


# ---- damage


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_run_passes_only_if_it_says_the_same(
    shared: Path, tmp_path: Path, data: st.DataObject
) -> None:
    run = tmp_path / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(shared / "run", run)
    path = run / data.draw(
        st.sampled_from(["run.json", "captions.jsonl", "scores.parquet", "throughput.json"])
    )
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(
        content[: data.draw(st.sampled_from([len(content), len(content) - 1, len(content) // 2]))]
    )
    result = gate(run, shared / "base.toml")
    gate_table(result)
    assert result.exit_code in (0, 1, 3, 4)
    if result.exit_code == 0:
        before, after = (
            {
                (row.image_id, row.beam_size): (row.caption, row.references)
                for row in RunStore(each).read_captions()
            }
            for each in (shared / "run", run)
        )
        assert after == before
        frames = [stored_scores(each).set_index(["image_id", "beam_size"]) for each in (shared / "run", run)]
        names = ["CIDEr", "ROUGE-L", "METEOR", "BLEU-4"]
        pd.testing.assert_frame_equal(frames[1][names], frames[0][names], atol=1.1e-6, rtol=0)
