"""A run over as many pictures as COCO's validation set has: memory and time per picture are those of a small one.

It takes half an hour and runs when it is asked for: `tox -e bench -- -k scale`. `GAZEBENCH_SCALE_IMAGES` sets another
number of pictures.
"""

import os
import sys
from dataclasses import asdict

import pytest

from bench.throughput.scale_run import measure

SMALL, LARGE = 2_000, int(os.environ.get("GAZEBENCH_SCALE_IMAGES", "40504"))
MORE = 1.1
"""How many times as much the large run may take: all its memory, and the processor's time for each picture."""
GROWING = ("decode", "score", "report")
"""Stages that look at every picture; what the others take does not depend on their number."""


@pytest.mark.benchmark(group="scale")
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_large_run_takes_no_more_memory_than_a_small_one_and_as_much_time_for_each_picture(
    benchmark, request, tmp_path
):
    if "scale" not in request.config.getoption("keyword"):
        pytest.skip("takes half an hour; ask for it with -k scale")
    small = measure(SMALL, tmp_path)
    large = benchmark.pedantic(lambda: measure(LARGE, tmp_path), rounds=1, iterations=1)
    benchmark.extra_info |= {"small": asdict(small), "large": asdict(large)}
    assert large.peak <= MORE * small.peak, (small.peaks, large.peaks)
    assert large.cpu_seconds / LARGE <= MORE * small.cpu_seconds / SMALL
    for stage in GROWING:
        assert large.cpu[stage] / LARGE <= MORE * small.cpu[stage] / SMALL, stage
    assert large.bytes["report.html"] <= 15e6
