"""A training loses nothing: killed at any moment, by any number of processes, it ends with the same weights."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from small_trainings import few_scenes, staged, trained_on

from bench.errors import ConfigError
from bench.run_directory import locked
from bench.training.state import AT_MOST_LOST, Keeper
from reports.training import TrainingStore

KILLS = int(os.environ.get("GAZEBENCH_KILLS", "3"))
"""More of them take longer: half a minute for ten."""
OPTIONS = [
    "--preset",
    "scenes",
    "--limit",
    "96",
    "--epochs",
    "3",
    "--batch-size",
    "64",
    "--self-critical",
    "1",
]


def command(out, cache, *, processes=1):
    own = ["-m", "bench", "train", *OPTIONS, "--out", str(out), "--cache", str(cache)]
    if processes == 1:
        return [sys.executable, *own]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, *torchrun, *own]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def start(out, cache, **how):
    return subprocess.Popen(
        command(out, cache, **how),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )


def finish(out, cache, **how):
    done = subprocess.run(
        command(out, cache, **how), capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def same(first, second):
    """Whether two trainings ended with the same weights, optimizer and tables, to the last bit."""
    for name in ("best.safetensors", "last.safetensors"):
        one, other = load_file(first / name), load_file(second / name)
        assert one.keys() == other.keys()
        different = [key for key in one if one[key].numpy().tobytes() != other[key].numpy().tobytes()]
        assert not different, (name, different)
    for name in ("steps.csv", "epochs.csv"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    assert TrainingStore(second).read_training().status == "finished"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, cache):
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    finish(out, cache)
    return out


def kill(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()


def grown(out):
    """Something that changes with every checkpoint."""
    path = Path(out) / "last.safetensors"
    return path.stat().st_mtime_ns if path.exists() else None


@pytest.mark.slow
def test_a_training_that_is_killed_again_and_again_ends_as_if_it_never_was(uninterrupted, cache, tmp_path):
    out, moments, kills = tmp_path / "run", random.Random(0), 0
    while kills < KILLS:
        process, before = start(out, cache), grown(out)
        # Each time it gets on by a checkpoint at least, and is killed some time later, in whatever it is doing then.
        while process.poll() is None and grown(out) == before:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 2))
        if process.poll() is None:
            kill(process)
            kills += 1
            continue
        # It was faster than that.
        process.stderr.close()
        same(uninterrupted, out)
        shutil.rmtree(out)
    # What a kill in the middle of writing leaves.
    (out / "last.safetensors.part").write_bytes((out / "last.safetensors").read_bytes()[:1000])
    with (out / "steps.csv").open("ab") as file:
        file.write(b"training,2,7,3.1")
    finish(out, cache)
    same(uninterrupted, out)


@pytest.mark.slow
def test_two_processes_train_the_same_weights_as_one_and_one_goes_on_where_one_of_two_was_killed(
    uninterrupted, cache, tmp_path
):
    finish(tmp_path / "two", cache, processes=2)
    same(uninterrupted, tmp_path / "two")
    out = tmp_path / "killed"
    process = start(out, cache, processes=2)
    while process.poll() is None and grown(out) is None:
        time.sleep(0.01)
    # One of the two that torchrun started, not torchrun: it ends the other.
    ranks = subprocess.run(
        ["pgrep", "-f", f"bench train.*{out}", "-P", str(process.pid)],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    if ranks:
        os.kill(int(ranks[-1]), signal.SIGKILL)
        assert process.wait() != 0
    process.stderr.close()
    finish(out, cache)
    same(uninterrupted, out)


def test_a_checkpoint_is_written_every_two_seconds_unless_writing_takes_a_tenth_of_the_time(tmp_path):
    keeper = Keeper(tmp_path)
    assert not keeper.is_due
    keeper._saved -= AT_MOST_LOST
    assert keeper.is_due
    keeper._cost = 1.0
    assert not keeper.is_due
    keeper._saved -= 10.0
    assert keeper.is_due


def test_a_second_training_into_the_same_folder_is_refused(tmp_path):
    with (
        locked(tmp_path / "run", kind="training"),
        pytest.raises(ConfigError, match=f"is being written to by process {os.getpid()}"),
    ):
        trained_on(few_scenes(), staged(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_full_disk_ends_a_training_with_a_reason_and_room_lets_it_go_on(tmp_path):
    out, cache = tmp_path / "small", tmp_path / "cache"
    out.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(out)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a small file system")
    try:
        with pytest.raises(OSError, match="No space left on device"):
            trained_on(few_scenes(), staged(), out, cache=cache)
        assert not list(out.glob("*.part"))
        subprocess.run(["mount", "-o", "remount,size=50m", str(out)], check=True)
        trained_on(few_scenes(), staged(), out, cache=cache)
        trained_on(few_scenes(), staged(), tmp_path / "uninterrupted", cache=cache)
        same(tmp_path / "uninterrupted", out)
    finally:
        subprocess.run(["umount", str(out)], check=True)
