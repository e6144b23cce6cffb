"""What the benchmarks share: devices, captioners, and the machine's facts in the stored results."""

import os
import platform
from dataclasses import astuple

import pytest
import torch
from torch.nn import functional

from bench.config import DEMO_CHECKPOINT
from bench.throughput.floor import Rates, Yardstick
from bench.throughput.full_size import full_size_captioner
from bench.throughput.measuring import Measure
from models.formats import load_checkpoint

# Which matrix instructions there are decides what float32 and bfloat16 cost.
_INSTRUCTIONS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")


@pytest.fixture(scope="session", autouse=True)
def _like_for_like():
    """One thread, and float32 that is float32: on CUDA, convolutions would round to 10 bits by default."""
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    return torch.device(request.param)


@pytest.fixture(scope="session")
def measure(device):
    return Measure(device)


@pytest.fixture(scope="session")
def measure_on_cpu():
    """For what never runs anywhere else: reading files, Java."""
    return Measure(torch.device("cpu"))


@pytest.fixture(scope="session")
def demo(device):
    return load_checkpoint(DEMO_CHECKPOINT).captioner.to(device)


@pytest.fixture(scope="session")
def full_size(device):
    return full_size_captioner().to(device)


@pytest.fixture(scope="session")
def plain_encoder(full_size):
    """The full-size encoder as the tutorial calls it: torchvision's network, then pooling."""
    return lambda images: functional.adaptive_avg_pool2d(full_size.encoder.trunk(images), full_size.grid)


def pytest_benchmark_update_machine_info(machine_info):
    """Adds what decides speed; leaves out the machine's name, which is nobody's business."""
    machine_info.pop("node", None)
    cpu = machine_info.get("cpu", {})
    rates = _best_rates("cpu")
    machine_info["throughput"] = {
        "processor": cpu.get("brand_raw") or platform.processor() or platform.machine(),
        "instructions": [flag for flag in cpu.get("flags", []) if flag in _INSTRUCTIONS],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "matmul_flops_per_second": rates.flops_per_second,
        "copy_bytes_per_second": rates.bytes_per_second,
        "gpu": _gpu() if torch.cuda.is_available() else None,
    }


def _best_rates(device):
    yardstick = Yardstick(torch.device(device))
    readings = [yardstick.read() for _ in range(10)]
    return Rates(*(max(kind) for kind in zip(*map(astuple, readings), strict=True)))


def _gpu():
    rates = _best_rates("cuda")
    return {
        "name": torch.cuda.get_device_name(0),
        "memory_bytes": torch.cuda.get_device_properties(0).total_memory,
        "cuda": torch.version.cuda,
        "matmul_flops_per_second": rates.flops_per_second,
        "copy_bytes_per_second": rates.bytes_per_second,
    }
