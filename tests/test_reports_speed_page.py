"""The report's part on throughput: what was stored, in words and tables, or how to get it."""

import dataclasses
import json
import math
from pathlib import Path

import html5lib
import pytest
from markupsafe import Markup

from reports import figures, page
from reports.records import RunError, StageRow
from reports.speed import SpeedRecord, SpeedRow, clock
from reports.speed_page import MOST_ROWS, Throughput, kept_benchmarks, throughput
from reports.store import RunStore
from reports.tables import Grid
from reports.throughput import BenchmarkRow, Benchmarks, Device, Machine, merge_into

ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(1)> {{7*7}} \u202e\x00"
MACHINE = Machine(
    "AMD EPYC", ("avx2", "fma"), 2, 1, "2.15.0", "3.11.7", "Linux x86_64", 1.045e11, 2.62e10, None
)


def benchmark(name: str, group: str = "decoder", **fields: object) -> BenchmarkRow:
    empty: dict[str, object] = dict.fromkeys(field.name for field in dataclasses.fields(BenchmarkRow))
    known = {"params": {"device": "cpu"}, "seconds": 0.25, "rounds": 5, "device": "cpu", "dtype": "float32"}
    return BenchmarkRow(**empty | known | {"ratios": {}, "name": name, "group": group} | fields)  # type: ignore[arg-type]


DECODE = benchmark(
    "test_decode_by_tutorial_rules[cpu-16-5]",
    params={"device": "cpu", "batch": "16", "beam_size": "5"},
    images=16, words=176, images_per_second=64.0, words_per_second=704.0, ms_per_word=1.42, floor_fraction=0.8,
    ratios={"literal": 14.7, "plain": 2.0}, captions_checked=16, near_ties=0, peak_memory_bytes=1_270_000_000,
)  # fmt: skip
SLOW = benchmark("test_train_demo_model[cpu]", "training", floor_fraction=0.4, ratios={"literal": 1.5})
READ = benchmark("test_read_pictures", "reading", params={}, images_per_second=263.8)
ROWS = (DECODE, SLOW, READ)


def keep(run: Path, *rows: BenchmarkRow, machine: Machine = MACHINE) -> RunStore:
    merge_into(run, Benchmarks("2026-01-02T03:04:05+00:00", machine, rows))
    return RunStore(run)


def told(run: Path) -> Throughput:
    store = RunStore(run)
    return throughput(store, store.read_run())


def lines(grid: Grid | None) -> dict[str, dict[str, str]]:
    """Head of a row -> head of a column -> cell."""
    assert grid is not None
    heads = [column.value for column in grid.columns]
    return {
        row.head: {
            head: " | ".join((cell.value, *cell.lines)) for head, cell in zip(heads, row.cells, strict=True)
        }
        for rows in grid.groups.values()
        for row in rows
    }


def shown(found: Throughput) -> str:
    drawn = figures.multiples_of_floor(found.floors)
    context = {"throughput": found, "figures": {"floors": Markup(drawn)} if drawn else {}}
    return page.environment().get_template("throughput.html.j2").render(**context)


def test_the_stages_of_the_run_have_a_speed_and_a_time(example_run: Path) -> None:
    store = RunStore(example_run)
    stages = (
        StageRow("decode", 2.5, 500, "captions"),
        StageRow("speed", 4.0, 1, "probes"),
        StageRow("x", 0.0, 3, "y"),
    )
    store.write_run(dataclasses.replace(store.read_run(), stages=stages))
    found = told(example_run)
    assert found.machine == "Linux x86_64, cpu, 1 thread"
    assert lines(found.stages) == {
        "decode": {"Speed": "200.0 captions per second", "Time": "2.50 s", "Amount": "500 captions"},
        "speed": {"Speed": "0.25 probes per second", "Time": "4.00 s", "Amount": "1 probe"},
        "x": {"Speed": "–", "Time": "0.00 s", "Amount": "3 y"},
    }


def test_the_speed_record_is_told_as_ratios_with_intervals_and_exact_counts(example_run: Path) -> None:
    rounds = (1.0, 1.1, 1.2, 1.1)
    decode = SpeedRow("decode", {"images": 16, "beam_size": 5}, rounds, (2.0,), {"decoder_steps": 841}, None)
    rows = (decode, SpeedRow("encode", {"images": 16}, (), (1.0, 1.0), {"flops": 10**9}, None))
    RunStore(example_run).write_speed(SpeedRecord("AMD EPYC", "cpu", 1, "2.15.0", rows))
    found = told(example_run)
    assert found.speed_machine == "AMD EPYC, cpu, 1 thread, torch 2.15.0"
    middle, error = clock(rounds)
    ends = [middle * math.exp(side * 1.96 * error) for side in (-1, 1)]
    assert lines(found.speed) == {
        "decode": {
            "Ratio, processor time": f"1.10 | {ends[0]:.2f} to {ends[1]:.2f}",
            "Ratio, on the clock": "2.00 | one round: no interval",
            "Of": "16 images, beam size 5",
            "Rounds": "4",
            "Decoder steps": "841",
            "Flops": "–",
        },
        "encode": {
            "Ratio, processor time": "–",
            "Ratio, on the clock": "1.00 | 0.98 to 1.02",
            "Of": "16 images",
            "Rounds": "2",
            "Decoder steps": "–",
            "Flops": "1,000,000,000",
        },
    }


def test_what_was_merged_into_the_run_is_read_back_whole(example_run: Path) -> None:
    card = Device("H100", 80_000_000_000, "13.2", 5e13, 3e12)
    machine = dataclasses.replace(MACHINE, gpu=card)
    benchmarks = kept_benchmarks(keep(example_run, *ROWS, machine=machine))
    assert benchmarks == Benchmarks("2026-01-02T03:04:05+00:00", machine, ROWS)
    *_, last = told(example_run).suite_machine
    assert last == (
        "H100 with 80.0 GB, CUDA 13.2, reached 50,000.0 GFLOP/s in float32 matrix products and 3,000.0 GB/s in copies."
    )


def test_the_suite_is_told_with_machine_floor_and_speed_up(example_run: Path) -> None:
    keep(example_run, *ROWS)
    found = told(example_run)
    assert lines(found.suite)["decode by tutorial rules, batch 16, beam size 5"] == {
        "Time": "250.0 ms",
        "Images": "64.0",
        "Words": "704.0",
        "Each word": "1.420",
        "Floor’s share": "0.80",
        "Times as fast": "14.7",
        "Peak memory": "1.27 GB",
        "Captions checked": "16",
    }
    assert set(lines(found.suite)["read pictures"].values()) == {"250.0 ms", "263.8", "–"}
    assert found.suite_machine == (
        "Measured on 2026-01-02 03:04 with 1 of 2 cores of AMD EPYC (avx2, fma), Linux x86_64, torch 2.15.0, Python "
        "3.11.7.",
        "In the same run one thread reached 104.5 GFLOP/s in float32 matrix products and 26.2 GB/s in copies.",
    )
    assert found.suite_findings == (
        "2 benchmarks with a known floor: the lowest share is 0.40, the middle one 0.60, the fastest 0.80.",
        "Beside the literal loop it is 1.5 to 14.7 times as fast (most: decode by tutorial rules, batch 16, beam size "
        "5).",
        "16 captions were compared with the slow path’s: none differs.",
    )
    assert found.floors == {
        "Decoder": {"decode by tutorial rules, batch 16, beam size 5": pytest.approx(1.25)},
        "Training": {"train demo model": pytest.approx(2.5)},
    }


def test_devices_are_told_apart_where_there_are_two_and_near_ties_are_counted(example_run: Path) -> None:
    other = dataclasses.replace(DECODE, device="cuda", params={"device": "cuda"}, near_ties=2)
    keep(example_run, DECODE, other)
    found = told(example_run)
    assert list(lines(found.suite)) == [
        "decode by tutorial rules, cpu, batch 16, beam size 5",
        "decode by tutorial rules, cuda",
    ]
    assert lines(found.suite)["decode by tutorial rules, cuda"]["Captions checked"] == "16 | 2 near-ties"
    assert found.suite_findings[-1] == (
        "32 captions were compared with the slow path’s: 2 differ, where rounding decides between two captions."
    )


def test_benchmarks_without_a_floor_are_not_drawn(example_run: Path) -> None:
    keep(example_run, READ, dataclasses.replace(SLOW, floor_fraction=1e-9))
    found = told(example_run)
    assert found.floors == {}
    assert "<svg" not in shown(found)
    assert "known floor" in " ".join(found.suite_findings)


def test_a_run_that_measured_nothing_says_how_to_measure(example_run: Path) -> None:
    store = RunStore(example_run)
    store.write_run(dataclasses.replace(store.read_run(), stages=()))
    found = told(example_run)
    assert found._replace(machine="") == Throughput("", None, None, "", None, (), (), {})
    text = shown(found)
    assert "tox -e bench" in text
    assert "gazebench throughput FILE --run RUN" in text
    assert "--fresh" in text


def test_a_page_lists_a_bounded_number_of_benchmarks(example_run: Path) -> None:
    keep(example_run, *(dataclasses.replace(DECODE, name=f"test_{n}") for n in range(MOST_ROWS + 5)))
    assert len(lines(told(example_run).suite)) == MOST_ROWS


def changed(run: Path, **fields: object) -> None:
    """Writes what the suite never would."""
    keep(run, *ROWS)
    path = run / "throughput.json"
    content = json.loads(path.read_bytes())
    content["benchmarks"]["rows"][0] |= fields
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seconds": -1.0}, r"holds the number -1\.0 as a benchmark's"),
        ({"images": 10**400}, "images is 1000"),
        ({"ratios": {"literal": 1e30}}, r"holds the number 1e\+30"),
        ({"ratios": {"literal": 1e300}}, r"literal is 1e\+300; expected float"),
        ({"seconds": float("nan")}, "is not JSON"),
        ({"group": 7}, "group is 7; expected str"),
    ],
)
def test_numbers_that_no_suite_measures_are_refused(
    example_run: Path, fields: dict[str, object], message: str
) -> None:
    changed(example_run, **fields)
    with pytest.raises(RunError, match=message):
        kept_benchmarks(RunStore(example_run))


def test_a_file_that_leads_away_or_is_broken_is_refused(example_run: Path, tmp_path: Path) -> None:
    store, path = RunStore(example_run), example_run / "throughput.json"
    assert kept_benchmarks(store) is None
    path.write_text("[" * 100_000)
    with pytest.raises(RunError, match="is not JSON"):
        kept_benchmarks(store)
    path.write_text("[]")
    assert kept_benchmarks(store) is None
    with path.open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(RunError, match="at most 67,108,864 are read"):
        kept_benchmarks(store)
    path.unlink()
    (tmp_path / "outside.json").write_text("{}")
    path.symlink_to(tmp_path / "outside.json")
    with pytest.raises(RunError, match="is not a plain file inside the run directory"):
        kept_benchmarks(store)


def test_whatever_a_stranger_called_things_is_shown_as_text(example_run: Path) -> None:
    machine = dataclasses.replace(MACHINE, processor=ATTACK, torch=ATTACK, instructions=(ATTACK,))
    row = dataclasses.replace(DECODE, name=ATTACK, group=ATTACK, params={ATTACK: ATTACK, "device": ATTACK})
    store = keep(example_run, row, machine=machine)
    speed = SpeedRow(ATTACK, {ATTACK: 1}, (-1.0, 0.0), (1.0,), {ATTACK: 1}, None)
    store.write_speed(SpeedRecord(ATTACK, ATTACK, 1, ATTACK, (speed,)))
    store.write_run(dataclasses.replace(store.read_run(), stages=(StageRow(ATTACK, 1.0, 1, ATTACK),)))
    text = shown(told(example_run))
    elements = list(html5lib.parseFragment(text, namespaceHTMLElements=False).iter())
    assert not {"script", "img"} & {element.tag for element in elements}
    assert "49" not in "".join(element.text or "" for element in elements if element.tag in ("th", "td", "p"))
    assert not set("\u202e\x00") & set(text)
