"""What training writes while it goes on: equal after a kill and an uninterrupted run, byte for byte."""

import csv
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from bench.training.logs import TrainingLogs
from reports.training import EPOCH_COLUMNS, EPOCHS, STEPS, TENSORBOARD, EpochRow, StepRow, TrainingStore

STAGES = {"decoder, alone": 3, 'the "whole"': 2}
STEPS_PER_EPOCH = 7


def rows() -> list[StepRow | EpochRow]:
    """What a training of two stages logs, in order; steps begin anew with each stage."""
    rng, found = np.random.default_rng(0), []
    for stage, epochs in STAGES.items():
        for step in range(1, epochs * STEPS_PER_EPOCH + 1):
            epoch = -(-step // STEPS_PER_EPOCH)
            reward = float(rng.normal()) if "whole" in stage else None
            found.append(
                StepRow(
                    stage,
                    epoch,
                    step,
                    float(rng.normal(3)),
                    0.1 + 0.2,
                    reward,
                    4e-4,
                    float(rng.normal()),
                    640,
                )
            )
            if step % STEPS_PER_EPOCH == 0:
                reason = None if epoch > 1 else "one image,\nno CIDEr"
                cider = float(rng.normal()) if epoch > 1 else None
                found.append(
                    EpochRow(
                        stage, epoch, step, 3.0, 0.1 + 0.2, reward, 2.5, cider, 0.25, 0.2, 9, 4e-4, 5e3,
                        epoch == 2, reason,
                    )
                )  # fmt: skip
    return found


ROWS = rows()


def write(logs: TrainingLogs, some: list[StepRow | EpochRow]) -> None:
    for row in some:
        if isinstance(row, StepRow):
            logs.step(row)
        else:
            logs.epoch(row)


def tables(folder: Path) -> tuple[bytes, bytes]:
    return (folder / STEPS).read_bytes(), (folder / EPOCHS).read_bytes()


def events(path: Path) -> list[Event]:
    """A record parser of its own: length, its checksum, content, its checksum; a torn record ends the file."""
    content, found = path.read_bytes(), []
    while len(content) >= 12:
        (size,) = struct.unpack("<Q", content[:8])
        if len(content) < size + 16:
            break
        assert struct.unpack("<I", content[8:12])[0] == masked_crc32c(content[:8])
        data, check = content[12 : 12 + size], content[12 + size : 16 + size]
        assert struct.unpack("<I", check)[0] == masked_crc32c(data)
        found.append(Event.FromString(data))
        content = content[16 + size :]
    return found


def shown(folder: Path) -> dict[str, dict[int, float]]:
    """The curves that TensorBoard shows: files by name; a restart drops what earlier files say from its step on."""
    found: dict[str, dict[int, float]] = {}
    for path in sorted((folder / TENSORBOARD).iterdir()):
        for event in events(path):
            if event.session_log.status == SessionLog.START:
                found = {
                    tag: {s: v for s, v in line.items() if s < event.step} for tag, line in found.items()
                }
            for value in event.summary.value:
                line = found.setdefault(value.tag, {})
                # An epoch may be told again at the step that the checkpoint is of.
                assert line.get(event.step, value.simple_value) == value.simple_value
                line[event.step] = value.simple_value
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that nothing interrupted: only to be read."""
    folder = tmp_path_factory.mktemp("whole")
    with TrainingLogs(folder) as logs:
        logs.begin()
        write(logs, ROWS)
    return folder


def test_a_table_holds_what_was_logged_in_full(whole: Path) -> None:
    assert list(TrainingStore(whole).read_steps()) == [row for row in ROWS if isinstance(row, StepRow)]
    with (whole / EPOCHS).open(newline="") as file:
        head, *lines = csv.reader(file)
    assert tuple(head) == EPOCH_COLUMNS
    assert "words_per_second" not in head, "nothing depends on time"
    assert [line[2] for line in lines] == ["7", "14", "21", "7", "14"]
    assert lines[0][4] == repr(0.1 + 0.2)
    assert lines[0][head.index("val_cider")] == ""
    assert lines[0][head.index("reason")] == "one image, no CIDEr"
    assert (whole / EPOCHS).read_bytes().count(b"\r\n") == len(lines) + 1


@pytest.mark.parametrize("checkpoint", [0, 4, 7, 8, 15, 24, 31, len(ROWS)])
@pytest.mark.parametrize("torn", [0, 1, 30])
def test_a_training_that_was_killed_and_went_on_has_the_same_tables_and_curves(
    whole: Path, tmp_path: Path, checkpoint: int, torn: int
) -> None:
    logs = TrainingLogs(tmp_path)
    logs.begin()
    write(logs, ROWS[:checkpoint])
    logs.flush()
    write(logs, ROWS[checkpoint : checkpoint + 10])  # after the checkpoint, lost in part
    logs.close()
    for path in (tmp_path / STEPS, tmp_path / EPOCHS, *(tmp_path / TENSORBOARD).iterdir()):
        content = path.read_bytes()
        kept = max(len(content) - torn, _flushed(path, checkpoint))
        path.write_bytes(content[:kept])
    done = [row for row in ROWS[:checkpoint] if isinstance(row, StepRow)]
    stage, step = (done[-1].stage, done[-1].step) if done else (next(iter(STAGES)), 0)
    with TrainingLogs(tmp_path) as logs:
        logs.resume(stage, step, epochs=checkpoint - len(done))
        write(logs, ROWS[checkpoint:])
    assert tables(tmp_path) == tables(whole)
    assert shown(tmp_path) == shown(whole)


def _flushed(path: Path, checkpoint: int) -> int:
    """Bytes of the file that a flush has put on the disk, which no kill takes back."""
    scratch = path.parent / "scratch"
    with TrainingLogs(scratch) as logs:
        logs.begin()
        write(logs, ROWS[:checkpoint])
    twin = scratch / path.name if path.suffix == ".csv" else scratch / TENSORBOARD / path.name
    size = twin.stat().st_size
    shutil.rmtree(scratch)
    return size


def test_a_stage_that_has_not_begun_keeps_all_rows_before_it(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    second = list(STAGES)[1]
    with TrainingLogs(tmp_path) as logs:
        logs.resume(second, 0, epochs=3)
    assert [row.stage for row in TrainingStore(tmp_path).read_steps()] == [next(iter(STAGES))] * 21
    with TrainingLogs(tmp_path) as logs:
        logs.resume(second, 0, epochs=3)
        write(logs, [row for row in ROWS if row.stage == second])
    assert tables(tmp_path) == tables(whole)


def test_steps_that_never_begin_anew_are_cut_as_well(tmp_path: Path) -> None:
    steps = [StepRow("one" if n <= 5 else "two", 1, n, 1.0, 0.0, None, 1.0, None, 1) for n in range(1, 10)]
    with TrainingLogs(tmp_path) as logs:
        logs.begin()
        write(logs, steps)
    with TrainingLogs(tmp_path) as logs:
        logs.resume("two", 7, epochs=0)
    assert [row.step for row in TrainingStore(tmp_path).read_steps()] == [1, 2, 3, 4, 5, 6, 7]


def test_a_fresh_training_removes_the_logs_before_it_and_nothing_else(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    (tmp_path / TENSORBOARD / "events.out.tfevents.123.host").write_text("not ours")
    with TrainingLogs(tmp_path) as logs:
        logs.begin()
        write(logs, ROWS[:3])
    assert [row.step for row in TrainingStore(tmp_path).read_steps()] == [1, 2, 3]
    names = sorted(path.name for path in (tmp_path / TENSORBOARD).iterdir())
    assert names == ["events.out.tfevents.0000000001.gazebench", "events.out.tfevents.123.host"]


def test_logs_that_end_before_the_checkpoint_are_told_of(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    (tmp_path / STEPS).unlink()
    with TrainingLogs(tmp_path) as logs:
        logs.resume(next(iter(STAGES)), 14, epochs=2)
        write(logs, ROWS[16:20])
    assert "ends before the checkpoint" in capsys.readouterr().err
    assert [row.step for row in TrainingStore(tmp_path).read_steps()] == [15, 16, 17, 18]


def test_an_event_file_names_what_tensorboard_shows(whole: Path) -> None:
    curves = shown(whole)
    steps = [row for row in ROWS if isinstance(row, StepRow)]
    assert set(curves) == {
        "loss/train", "loss/validation", "CIDEr/validation", "BLEU-4/validation",
        "BLEU-4 (teacher-forced)/validation", "learning rate", "gradient norm", "reward",
    }  # fmt: skip
    assert curves["loss/train"] == {n: np.float32(row.loss) for n, row in enumerate(steps, start=1)}
    assert list(curves["BLEU-4/validation"]) == [7, 14, 21, 28, 35]
    assert list(curves["CIDEr/validation"]) == [14, 21, 35], "what was not computed is not there"
    assert list(curves["reward"]) == list(range(22, 36))
    (path,) = (whole / TENSORBOARD).iterdir()
    assert events(path)[0].file_version == "brain.Event:2"


def test_what_is_flushed_is_on_the_disk(tmp_path: Path) -> None:
    logs = TrainingLogs(tmp_path)
    logs.begin()
    write(logs, ROWS[:9])
    logs.flush()
    assert len(list(TrainingStore(tmp_path).read_steps())) == 8
    assert len(shown(tmp_path)["loss/train"]) == 8
    logs.close()
    logs.close()
