"""Reading what the throughput suite stored: whole, or refused in one sentence."""

import copy
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from reports.records import RunError
from reports.throughput import BenchmarkRow, merge_into, read_benchmarks, throughput_table

DECODING = {
    "group": "decoder",
    "name": "test_decode_by_tutorial_rules[cpu-16-5]",
    "fullname": "bench/throughput/test_decoder.py::test_decode_by_tutorial_rules[cpu-16-5]",
    "params": {"device": "cpu", "batch": 16, "beam_size": 5},
    "param": "cpu-16-5",
    "extra_info": {
        "device": "cpu",
        "dtype": "float32",
        "images": 16,
        "words": 176,
        "images_per_second": 32.0,
        "words_per_second": 352.0,
        "ms_per_word": 2.841,
        "flops": 29_873_143_808,
        "bytes": 1_096_202_240,
        "floor_seconds": 0.35,
        "floor_fraction": 0.7,
        "ratio_to_literal": 12.5,
        "captions_checked": 16,
        "near_ties": [3],
        "peak_memory_bytes": 1_000_000_000,
    },
    "options": {"disable_gc": False, "timer": "perf_counter"},
    "stats": {"min": 0.48, "median": 0.5, "rounds": 5, "iterations": 1, "data": [0.48, 0.5, 0.5, 0.5, 0.6]},
}
READING = {
    "group": "reading",
    "name": "test_read_pictures",
    "params": None,
    "extra_info": {
        "device": "cpu",
        "dtype": "float32",
        "images": 8,
        "words": None,
        "images_per_second": 100.0,
    },
    "stats": {"median": 0.08, "rounds": 9},
}
STORED = {
    "machine_info": {
        "system": "Linux",
        "throughput": {
            "processor": "AMD EPYC",
            "instructions": ["avx2", "avx512f"],
            "cores": 2,
            "threads": 1,
            "torch": "2.15.0",
            "python": "3.11.7",
            "system": "Linux x86_64",
            "matmul_flops_per_second": 1.02e11,
            "copy_bytes_per_second": 2.3e10,
            "gpu": None,
        },
    },
    "commit_info": {"id": "c0ffee"},
    "benchmarks": [DECODING, READING],
    "datetime": "2026-01-02T03:04:05+00:00",
    "version": "5.1.0",
}


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def changed(*keys_and_value):
    """`STORED` with one value put elsewhere: `changed("benchmarks", 0, "group", 7)`."""
    *keys, last, value = keys_and_value
    content = part = copy.deepcopy(STORED)
    for key in keys:
        part = part[key]
    part[last] = value
    return content


@pytest.fixture
def stored(tmp_path):
    return write(tmp_path / "throughput.json", STORED)


def test_what_the_suite_stored_is_read(stored):
    benchmarks = read_benchmarks(stored)
    decoding, reading = benchmarks.rows
    assert (decoding.name, decoding.group) == ("test_decode_by_tutorial_rules[cpu-16-5]", "decoder")
    assert decoding.params == {"device": "cpu", "batch": "16", "beam_size": "5"}
    assert (decoding.seconds, decoding.rounds) == (0.5, 5)
    assert (decoding.images, decoding.words, decoding.floor_fraction) == (16, 176, 0.7)
    assert decoding.ratios == {"literal": 12.5}
    assert decoding.ratio_to_literal == 12.5
    assert (decoding.captions_checked, decoding.near_ties) == (16, 1)
    assert reading.floor_fraction is reading.ratio_to_literal is reading.words is reading.near_ties is None
    assert benchmarks.machine.processor == "AMD EPYC"
    assert benchmarks.created == "2026-01-02T03:04:05+00:00"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ('{"benchmarks": NaN}', "was not written by this throughput suite"),
        ("[" * 100_000, "is not JSON"),
        ('{"a": ' + "9" * 5000 + "}", "is not JSON"),
        ("[]", "holds no benchmarks"),
        ({"benchmarks": []}, "was not written by this throughput suite"),
        (changed("machine_info", {"cpu": {}}), "was not written by this throughput suite"),
        (changed("benchmarks", {"a": 1}), "was not written by this throughput suite"),
        (changed("machine_info", "throughput", 3), "throughput.json: machine is 3; expected Machine"),
        (changed("machine_info", "throughput", "torch", None), "machine: torch is None; expected str"),
        (changed("machine_info", "throughput", "gpu", {"name": "x"}), "machine: gpu lacks memory_bytes"),
        (changed("benchmarks", [DECODING] * 10_001), "lists 10,001 benchmarks; at most 10,000"),
        (changed("benchmarks", 1, "x"), "benchmark 1 is not one of pytest-benchmark's"),
        (changed("benchmarks", 1, "stats", None), "benchmark 1 is not one of pytest-benchmark's"),
        (changed("benchmarks", 0, "params", [1]), "benchmark 0 is not one of pytest-benchmark's"),
        (changed("benchmarks", 0, "group", 7), r"rows\[0\]: group is 7; expected str"),
        (
            changed("benchmarks", 0, "stats", "median", "fast"),
            r"rows\[0\]: seconds is 'fast'; expected float",
        ),
        (
            changed("benchmarks", 0, "stats", "median", -1.0),
            "benchmark 0 holds the number -1.0; expected 0 to",
        ),
        (changed("benchmarks", 0, "stats", "rounds", True), r"rows\[0\]: rounds is True; expected int"),
        (changed("benchmarks", 0, "extra_info", {}), r"rows\[0\]: device is None; expected str"),
        (changed("benchmarks", 0, "extra_info", "flops", 10**40), "benchmark 0 holds the number 1000"),
        (changed("benchmarks", 0, "extra_info", "flops", float("nan")), "benchmark 0 holds the number nan"),
        (
            changed("benchmarks", 0, "extra_info", "floor_fraction", "x"),
            "floor_fraction is 'x'; expected float",
        ),
        (
            changed("benchmarks", 0, "extra_info", "ratio_to_plain", [2]),
            r"ratios: plain is \[2\]; expected float",
        ),
        (changed("benchmarks", 0, "extra_info", "ratio_to_plain", float("inf")), "holds the number inf"),
        (changed("datetime", 5), "throughput.json: created is 5; expected str"),
    ],
)
def test_another_file_is_refused_in_one_sentence(tmp_path, content, message):
    path = write(tmp_path / "throughput.json", content)
    with pytest.raises(RunError, match=message) as caught:
        read_benchmarks(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_file_that_is_missing_or_too_large_is_refused(tmp_path):
    with pytest.raises(RunError, match="is not a file"):
        read_benchmarks(tmp_path)
    with pytest.raises(RunError, match="is not a file"):
        read_benchmarks(tmp_path / "missing.json")
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(17 << 20)
    with pytest.raises(RunError, match=r"has 17,825,792 bytes; at most 16,777,216 are read"):
        read_benchmarks(tmp_path / "large.json")


def test_the_table_says_how_long_how_near_the_floor_and_how_much_faster(stored):
    table = throughput_table(read_benchmarks(stored))
    lines = table.splitlines()
    assert lines[0].startswith(
        "AMD EPYC, 1 of 2 cores, torch 2.15.0: matrix products at 102 GFLOP/s, copies at 23.0 GB/s"
    )
    decoding = next(line for line in lines if "beam size 5" in line)
    for part in (
        "decode by tutorial rules, cpu, batch 16",
        "500 ms",
        "31.2 ms",
        "32.0",
        "352",
        "70",
        "1.00 GB",
    ):
        assert part in decoding
    assert decoding.endswith("literal 12.50")
    reading = next(line for line in lines if "read pictures" in line)
    assert reading.split() == ["read", "pictures", "80.0", "ms", "10.0", "ms", "100"]
    assert lines[-1] == "captions compared with the slow path's: 16; near-ties that differ: 1"


def test_a_graphics_card_is_named(tmp_path):
    card = {"name": "H100", "memory_bytes": 80_000_000_000, "cuda": "13.2"}
    rates = {"matmul_flops_per_second": 5e13, "copy_bytes_per_second": 3e12}
    content = changed("machine_info", "throughput", "gpu", card | rates)
    table = throughput_table(read_benchmarks(write(tmp_path / "throughput.json", content)))
    assert "H100, CUDA 13.2: matrix products at 50.0 TFLOP/s, copies at 3.00 TB/s" in table


def test_text_from_strangers_cannot_steer_the_terminal(tmp_path):
    content = changed("benchmarks", 0, "name", "test_\x1b[2J" + "x" * 10_000)
    table = throughput_table(read_benchmarks(write(tmp_path / "throughput.json", content)))
    assert "\x1b" not in table
    assert max(map(len, table.splitlines())) < 400


def test_benchmarks_are_kept_with_a_run_beside_what_was_there(stored, example_run):
    before = {"schema_version": 1, "device": "cpu", "stages": [{"name": "decode", "seconds": 1.5}]}
    write(example_run / "throughput.json", before)
    benchmarks = read_benchmarks(stored)
    merge_into(example_run, benchmarks)
    merge_into(example_run, benchmarks)
    kept = json.loads((example_run / "throughput.json").read_bytes())
    assert {key: kept[key] for key in before} == before
    assert kept.keys() - before.keys() == {"benchmarks"}
    rows = [BenchmarkRow(**row) for row in kept["benchmarks"]["rows"]]
    assert rows == list(benchmarks.rows)
    assert kept["benchmarks"]["machine"]["processor"] == "AMD EPYC"
    assert not [path for path in example_run.iterdir() if path.name.startswith(".")]


def test_benchmarks_are_kept_with_a_run_that_has_no_throughput_yet(stored, example_run):
    assert not (example_run / "throughput.json").exists()
    merge_into(example_run, read_benchmarks(stored))
    kept = json.loads((example_run / "throughput.json").read_bytes())
    assert kept == {
        "schema_version": 1,
        "benchmarks": json.loads(json.dumps(asdict(read_benchmarks(stored)))),
    }


def test_nothing_is_written_where_there_is_no_run_or_a_broken_one(stored, tmp_path, example_run):
    benchmarks = read_benchmarks(stored)
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(RunError, match=r"holds no run\.json"):
        merge_into(folder, benchmarks)
    assert list(folder.iterdir()) == []
    write(example_run / "throughput.json", "{broken")
    with pytest.raises(RunError, match="is not JSON"):
        merge_into(example_run, benchmarks)
    assert (example_run / "throughput.json").read_text() == "{broken"
    outside = write(tmp_path / "outside.json", "{}")
    (example_run / "throughput.json").unlink()
    (example_run / "throughput.json").symlink_to(outside)
    with pytest.raises(RunError, match="leads out of the run directory"):
        merge_into(example_run, benchmarks)
    assert outside.read_text() == "{}"


def test_reading_needs_no_torch():
    program = "import sys, reports.throughput; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[1])
