"""What is computed once: never stale, never damaged without a word, never lost by more than a block."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bench.errors import DataError
from bench.training import cache as module
from bench.training.cache import BLOCK, BlockCache, Produced

KEY = {"kind": "squares"}

COUNT = 2 * BLOCK + BLOCK // 3
"""Rows: two whole blocks, and a part of one."""


def squares(rows):
    """Row i holds i², in every place."""
    return Produced(np.stack([np.full((2, 3), row**2) for row in rows]), {})


def counting(calls):
    def produce(rows):
        calls.append(list(rows))
        return squares(rows)

    return produce


def opened(folder, count=COUNT, **changes):
    given = {"key": KEY, "count": count, "row_shape": (2, 3), "dtype": "float32"} | changes
    return BlockCache(folder, given["key"], given["count"], given["row_shape"], given["dtype"])


def filled(folder, **changes):
    cache = opened(folder, **changes)
    cache.fill(squares, label="squaring")
    return cache


def test_rows_are_those_that_were_computed_in_any_order(tmp_path):
    cache = filled(tmp_path)
    order = [COUNT - 1, 0, BLOCK, BLOCK - 1, BLOCK, 2 * BLOCK - 1, 2 * BLOCK]
    assert np.array_equal(cache.rows(order), squares(order).rows.astype(np.float32))
    assert cache.rows([]).shape == (0, 2, 3)


def test_nothing_is_computed_twice(tmp_path):
    filled(tmp_path)
    calls = []
    assert opened(tmp_path).fill(counting(calls), label="again") == 0
    assert calls == []


def test_whole_blocks_are_asked_for_and_the_last_may_be_shorter(tmp_path):
    calls = []
    assert opened(tmp_path).fill(counting(calls), label="first") == COUNT
    assert calls == [list(range(BLOCK)), list(range(BLOCK, 2 * BLOCK)), list(range(2 * BLOCK, COUNT))]


@pytest.mark.parametrize("size", [2, 3, 5])
def test_processes_fill_disjoint_blocks_and_together_all(tmp_path, size):
    alone, shared = filled(tmp_path / "alone", count=300), tmp_path / "shared"
    calls = []
    for rank in range(size):
        opened(shared, count=300).fill(counting(calls), rank=rank, size=size, label=str(rank))
    assert sorted(row for rows in calls for row in rows) == list(range(300))
    everything = range(300)
    assert np.array_equal(opened(shared, count=300).rows(everything), alone.rows(everything))


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.write_bytes(b"\x01" + file.read_bytes()[1:]),
        lambda file: file.unlink(),
    ],
)
def test_a_damaged_block_is_computed_again_and_said(tmp_path, capsys, damage):
    cache = filled(tmp_path)
    damage(cache.folder / "block-000001.bin")
    calls = []
    cache = opened(tmp_path)
    assert cache.fill(counting(calls), label="again") == BLOCK
    assert calls == [list(range(BLOCK, 2 * BLOCK))]
    assert "block-000001.bin is damaged; its rows are computed again" in capsys.readouterr().err
    assert np.array_equal(cache.rows(range(COUNT)), squares(range(COUNT)).rows)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"sha256": 3, "failed": {}}', b"\xff"])
def test_a_block_whose_hash_is_damaged_is_computed_again(tmp_path, content):
    cache = filled(tmp_path)
    (cache.folder / "block-000000.json").write_bytes(content)
    assert opened(tmp_path).fill(squares, label="again") == BLOCK


@pytest.mark.parametrize(
    "change",
    [{"key": KEY | {"weights": "other"}}, {"count": 151}, {"row_shape": (3, 2)}, {"dtype": "uint8"}],
)
def test_another_key_is_another_folder(tmp_path, change):
    first = filled(tmp_path)
    other = opened(tmp_path, **change)
    assert other.folder != first.folder
    assert other.folder.name.startswith("squares-")


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    cache = filled(tmp_path)
    (cache.folder / "key.json").write_text("{}")
    with pytest.raises(DataError, match=r"holds another cache, or a damaged key\.json; delete it"):
        opened(tmp_path)


def test_rows_that_could_not_be_computed_are_remembered(tmp_path):
    def produce(rows):
        return Produced(
            squares(rows).rows, {row: f"row {row} is bad" for row in rows if row in (3, COUNT - 2)}
        )

    opened(tmp_path).fill(produce, label="reading")
    assert opened(tmp_path).failed() == {3: "row 3 is bad", COUNT - 2: f"row {COUNT - 2} is bad"}


def test_too_little_room_is_said_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(
        DataError, match=r"needs 0.0 GB more, .* make room, or name a folder elsewhere with --cache"
    ):
        opened(tmp_path).fill(squares, label="squaring")
    assert not list(tmp_path.rglob("*.bin"))


def test_a_disk_that_fills_up_is_one_sentence_and_leaves_no_half_block(tmp_path, monkeypatch):
    def full(path, content):
        if path.name.endswith(".part"):
            path.touch()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cache = opened(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(DataError, match="found the disk full; make room"):
            cache.fill(squares, label="squaring")
    assert [path.name for path in cache.folder.iterdir()] == ["key.json"]
    assert cache.fill(squares, label="squaring") == COUNT


CHILD = """
import sys, time, numpy as np
from pathlib import Path
from bench.training.cache import BlockCache, Produced
def slowly(rows):
    time.sleep(0.05)
    return Produced(np.stack([np.full((2, 3), row**2) for row in rows]), {})
cache = BlockCache(Path(sys.argv[1]), {"kind": "squares"}, 1280, (2, 3), "float32")
cache.fill(slowly, label="squaring")
"""


@pytest.mark.parametrize("blocks", [1, 6])
def test_killed_in_the_middle_at_most_a_block_is_lost(tmp_path, blocks):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[1],
    )
    while child.poll() is None and len(list(tmp_path.rglob("block-*.json"))) < blocks:
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL  # it was not finished
    computed = len(list(tmp_path.rglob("block-*.json")))
    assert blocks <= computed < 1280 // BLOCK
    cache = opened(tmp_path, count=1280)
    assert cache.fill(squares, label="going on") == 1280 - computed * BLOCK
    assert np.array_equal(cache.rows(range(1280)), squares(range(1280)).rows)
