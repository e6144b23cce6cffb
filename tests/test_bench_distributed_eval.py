"""One evaluation by several processes, as torchrun starts them: any number of them makes the same run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_runs import PICTURES, SIZES, digests, lines, start_together, whole_run

from reports.store import RunStore

ROOT = Path(__file__).parents[1]
MERGED = ("captions.", "failures.")


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    return whole_run(tmp_path_factory.getbasetemp())[0]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process."""
    return whole_run(tmp_path_factory.getbasetemp())[1]


def torchrun(processes, arguments):
    """Starts several processes; the one that is returned is their parent."""
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "bench"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *start, *arguments], cwd=ROOT, env=environment, stderr=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def process_of(parent: int, rank: int) -> int | None:
    """The id of the process of a rank, if it has started."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    for child in map(int, children):
        if f"\0RANK={rank}\0" in Path(f"/proc/{child}/environ").read_text():
            return child
    return None


@pytest.mark.java
@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")
def test_a_run_of_which_one_process_was_killed_is_finished_by_another_number_and_is_the_same(
    command, alone, tmp_path
):
    out = tmp_path / "run"
    parent = torchrun(2, [*command, "--out", str(out)])
    while sum(map(len, (file.read_bytes() for file in out.glob("captions.1.1.jsonl")))) == 0:
        assert parent.poll() is None
        time.sleep(0.005)
    second = process_of(parent.pid, 1)
    assert second is not None
    os.kill(second, signal.SIGKILL)
    parent.communicate()
    assert parent.returncode != 0
    kept = len(lines(out))
    assert 0 < kept < len(SIZES) * PICTURES, "it was killed too late"

    processes = start_together(3, [*command, "--out", str(out)], stderr=tmp_path / "told")
    for process in processes:
        process.join()
    told = (tmp_path / "told").read_text()
    assert [process.exitcode for process in processes] == [0, 0, 0], told
    assert digests(out) == digests(alone)
    record = RunStore(out).read_run()
    assert record.status == "finished"
    assert next(each.items for each in record.stages if each.name == "decode") == len(SIZES) * PICTURES - kept
    assert told.count("decoding: ") == 1
    assert not [path.name for path in out.glob("*.*.*") if path.name.startswith(MERGED)]


@pytest.mark.java
@pytest.mark.slow
@pytest.mark.skipif("GAZEBENCH_WORLDS" not in os.environ, reason="GAZEBENCH_WORLDS is not set, such as 2,3")
def test_torchrun_makes_the_same_run_of_any_number_of_processes(command, alone, tmp_path):
    for processes in map(int, os.environ["GAZEBENCH_WORLDS"].split(",")):
        parent = torchrun(processes, [*command, "--out", str(tmp_path / str(processes))])
        output, errors = parent.communicate()
        assert parent.returncode == 0, errors
        assert digests(tmp_path / str(processes)) == digests(alone)
        assert output.count("report: ") == 1


def test_an_error_that_all_processes_meet_is_told_once_and_leaves_nothing(command, tmp_path):
    lost = [command[0], "nowhere.safetensors", *command[2:], "--out", str(tmp_path / "run")]
    processes = start_together(3, lost, stderr=tmp_path / "told")
    for process in processes:
        process.join()
    told = (tmp_path / "told").read_text()
    assert [process.exitcode for process in processes] == [2, 2, 2]
    assert told.count("gazebench: error: ") == told.count("nowhere.safetensors") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.java
def test_more_processes_than_images_share_what_there_is(command, alone, tmp_path):
    out = tmp_path / "run"
    few = [*command, "--limit", "2", "--explain", "0", "--out", str(out)]
    first, *others = start_together(4, few, stderr=tmp_path / "told")
    for process in others:
        process.join()
        assert process.exitcode == 0
    first.kill()  # the rest is its alone
    first.join()
    expected = (alone / "captions.jsonl").read_bytes().splitlines(keepends=True)[: 2 * len(SIZES)]
    assert (out / "captions.jsonl").read_bytes() == b"".join(expected)
