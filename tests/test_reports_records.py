"""run.json and the rows beside it as records."""

import json
from pathlib import Path

import pytest

from reports.records import Alternative, CaptionRow, RunError, RunRecord, from_json, to_json
from reports.store import RunStore

ROW = {
    "image_id": "1", "beam_size": 3, "caption": "a dog", "words": ["a", "dog"], "token_ids": [4, 5],
    "log_prob_nats": -1.5, "word_log_probs": [-1, -0.5], "references": ["a dog ."], "finished": True,
    "error": None,
}  # fmt: skip


def test_a_run_survives_json_and_back(example_run: Path) -> None:
    record = RunStore(example_run).read_run()
    assert from_json(RunRecord, json.loads(json.dumps(to_json(record))), "run.json") == record


def test_a_row_survives_json_and_back() -> None:
    row = from_json(CaptionRow, ROW, "row")
    assert row.word_log_probs == (-1.0, -0.5)
    assert from_json(CaptionRow, json.loads(json.dumps(to_json(row))), "row") == row


def test_rows_of_the_first_runs_lack_what_later_ones_say() -> None:
    row = from_json(CaptionRow, ROW, "row")
    assert (row.score, row.alternatives, row.attention_entropy, row.attention_movement) == (
        None,
        (),
        None,
        None,
    )


def test_alternatives_are_records_too() -> None:
    other = {
        "caption": "a cat", "words": ["a", "cat"], "token_ids": [4, 6], "log_prob_nats": -2, "score": -1.1,
        "finished": False,
    }  # fmt: skip
    later = {"score": -0.9, "alternatives": [other], "attention_entropy": 0.5, "attention_movement": None}
    row = from_json(CaptionRow, ROW | later, "row")
    assert row.alternatives == (Alternative("a cat", ("a", "cat"), (4, 6), -2.0, -1.1, False),)
    assert from_json(CaptionRow, json.loads(json.dumps(to_json(row))), "row") == row
    del other["score"]
    with pytest.raises(RunError, match=r"row: alternatives\[0\] lacks score; it is not a whole Alternative"):
        from_json(CaptionRow, ROW | later, "row")


def test_keys_of_a_later_program_are_passed_over() -> None:
    assert from_json(CaptionRow, ROW | {"novelty": 1}, "row").image_id == "1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beam_size": "3"}, "row: beam_size is '3'; expected int"),
        ({"beam_size": True}, "row: beam_size is True; expected int"),
        ({"finished": 1}, "row: finished is 1; expected bool"),
        ({"words": "a dog"}, "row: words is 'a dog'"),
        ({"words": ["a", None]}, r"row: words\[1\] is None; expected str"),
        ({"log_prob_nats": float("nan")}, "row: log_prob_nats is nan; expected float"),
        ({"log_prob_nats": 10**400}, "row: log_prob_nats is 1000"),
        ({"word_log_probs": [float("-inf")]}, r"row: word_log_probs\[0\] is -inf"),
    ],
)
def test_a_value_of_another_type_is_named(change: dict, message: str) -> None:
    with pytest.raises(RunError, match=message):
        from_json(CaptionRow, ROW | change, "row")


def test_a_missing_key_is_named() -> None:
    with pytest.raises(RunError, match=r"row lacks caption, error; it is not a whole CaptionRow"):
        from_json(CaptionRow, {k: v for k, v in ROW.items() if k not in ("caption", "error")}, "row")


@pytest.mark.parametrize("version", [2, "1", None])
def test_an_unknown_schema_version_is_refused_by_name(example_run: Path, version: object) -> None:
    value = to_json(RunStore(example_run).read_run()) | {"schema_version": version}
    with pytest.raises(RunError, match=f"has schema version {version!r}; this program reads version 1"):
        from_json(RunRecord, value, "run.json")


def test_an_unknown_status_is_refused(example_run: Path) -> None:
    value = json.loads((example_run / "run.json").read_text()) | {"status": "fine"}
    with pytest.raises(RunError, match="status is 'fine'"):
        from_json(RunRecord, value, "run.json")


def test_settings_nested_beyond_reason_are_refused(example_run: Path) -> None:
    value = json.loads((example_run / "run.json").read_text())
    value["config"]["deep"] = json.loads("[" * 60 + "]" * 60)
    with pytest.raises(RunError, match="config: deep is"):
        from_json(RunRecord, value, "run.json")
