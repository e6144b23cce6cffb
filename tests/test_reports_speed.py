"""Times of two runs: what counts as slower, and that noise alone never does."""

import json
import math
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.records import from_json
from reports.speed import FLOOR, Clock, SpeedRecord, SpeedRow, clock, compare_clocks

TOL = 0.1
RATIOS = st.floats(0.01, 100)
ERRORS = st.floats(0, 0.1)


def measured(rng, *, slowdown=0.0, between=0.01, within=0.04, rounds=30):
    """What a process reads: a ratio with an error of its own, and noisy rounds."""
    middle = 1.3 * (1 + slowdown) * np.exp(rng.normal(0, between))
    return clock((middle * np.exp(rng.normal(0, within, rounds))).tolist())


def outcomes(seeds, *, slowdown=0.0, **noise):
    """How often two processes, of which the second is slower, compare in which way."""
    found = Counter()
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        baseline = measured(rng, **noise)
        found[compare_clocks(baseline, measured(rng, slowdown=slowdown, **noise), tol=TOL).outcome] += 1
    return found


def test_the_clock_is_the_median_round_and_a_round_that_stalled_only_makes_it_less_sure():
    steady, stalled = clock([1.0, 1.1, 1.2, 1.1, 1.0, 1.1]), clock([1.0, 1.1, 50.0, 1.1, 1.0, 1.1])
    assert steady.ratio == stalled.ratio == pytest.approx(1.1)
    assert stalled.error > steady.error


def test_the_error_falls_with_the_number_of_rounds_to_the_floor_of_what_differs_between_processes():
    few, many, most = ([1.0, 1.1, 1.2] * times for times in (2, 10, 10_000))
    assert clock(few).error > clock(many).error > clock(most).error
    assert clock(most).error == pytest.approx(FLOOR, rel=0.01)
    assert clock([1.0] * 5).error == FLOOR


def test_the_error_is_the_spread_of_the_medians_of_many_processes():
    rng = np.random.default_rng(0)
    clocks = [measured(rng, between=FLOOR, within=0.05) for _ in range(2_000)]
    spread = np.std(np.log([one.ratio for one in clocks]))
    assert np.median([one.error for one in clocks]) == pytest.approx(spread, rel=0.1)


def test_one_round_says_nothing_and_no_round_is_refused():
    alone = clock([1.2])
    assert alone == (pytest.approx(1.2), math.inf)
    assert compare_clocks(Clock(1.0, FLOOR), alone, tol=TOL).outcome == "inconclusive"
    with pytest.raises(ValueError, match="median"):
        clock([])


def test_the_same_rounds_are_the_same_time():
    now = clock([1.31, 1.29, 1.35, 1.3])
    pace = compare_clocks(now, now, tol=TOL)
    assert pace.slowdown == 0
    assert pace.low < 0 < pace.high
    assert pace.outcome == "same"


def test_a_slowdown_is_read_as_it_was_planted():
    pace = compare_clocks(Clock(1.3, 0.0), Clock(1.56, 0.0), tol=TOL)
    assert pace == (pytest.approx(0.2), pytest.approx(0.2), pytest.approx(0.2), "slower")
    assert compare_clocks(Clock(1.56, 0.0), Clock(1.3, 0.0), tol=TOL).slowdown == pytest.approx(-1 / 6)


@pytest.mark.parametrize("within", [0.01, 0.05, 0.2, 0.6])
@pytest.mark.parametrize("between", [0.0, FLOOR, 2 * FLOOR])
def test_noise_alone_is_never_slower(between, within):
    """Even where processes differ twice as much as the floor says."""
    assert outcomes(1_000, between=between, within=within)["slower"] == 0


def test_a_planted_slowdown_of_twice_the_tolerance_is_found():
    assert outcomes(400, slowdown=0.2)["slower"] >= 0.95 * 400


def test_a_slowdown_within_the_tolerance_is_hardly_ever_called_slower():
    assert outcomes(1_000, slowdown=TOL)["slower"] <= 0.05 * 1_000


def test_large_noise_is_inconclusive():
    for slowdown in (0.0, 0.2):
        assert outcomes(200, slowdown=slowdown, within=0.8, rounds=10)["inconclusive"] >= 150
    hidden = compare_clocks(Clock(1.0, 0.03), Clock(1.15, 0.03), tol=TOL)
    assert hidden.low < TOL < 2 * TOL < hidden.high
    assert hidden.outcome == "inconclusive"


def test_large_noise_does_not_hide_a_slowdown_that_is_larger_still():
    assert compare_clocks(Clock(1.0, 0.1), Clock(3.0, 0.1), tol=TOL).outcome == "slower"
    assert outcomes(100, slowdown=2.0, within=0.3)["slower"] == 100


@given(RATIOS, ERRORS, RATIOS, ERRORS, st.floats(0.01, 1))
def test_what_is_slower_one_way_is_faster_the_other_way(before, error_before, after, error_after, tol):
    first, second = Clock(before, error_before), Clock(after, error_after)
    there, back = compare_clocks(first, second, tol=tol), compare_clocks(second, first, tol=tol)
    assert (1 + there.slowdown) * (1 + back.slowdown) == pytest.approx(1)
    assert (1 + there.low) * (1 + back.high) == pytest.approx(1)
    if there.outcome == "slower" and there.low > 1.0001 * tol:
        assert back.outcome == "faster"
    if there.outcome == "faster" and back.low > 1.0001 * tol:
        assert back.outcome == "slower"


@given(RATIOS, st.floats(0, 1e6), RATIOS, st.floats(0, 1e6))
def test_more_noise_never_turns_doubt_into_a_slowdown(before, error_before, after, error_after):
    quiet = compare_clocks(Clock(before, 0.0), Clock(after, 0.0), tol=TOL)
    noisy = compare_clocks(Clock(before, error_before), Clock(after, error_after), tol=TOL)
    assert noisy.low <= quiet.slowdown <= noisy.high
    assert quiet.outcome == "slower" or noisy.outcome != "slower"
    assert all(map(math.isfinite, noisy[:3]))


def test_a_record_is_read_from_json_as_it_was_written():
    row = SpeedRow("decode", {"images": 16}, (1.2, 1.3), (1.25, 1.35), {"flops": 10**15}, "ab" * 32)
    record = SpeedRecord("A processor", "cpu", 1, "2.15.0", (row, SpeedRow("encode", {}, (), (), {}, None)))
    assert from_json(SpeedRecord, json.loads(json.dumps(asdict(record))), "speed") == record
