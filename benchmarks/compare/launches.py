"""What a product spends on launching kernels, and what replaying a recording saves (CUDA only).

The share is that of the wall clock in which the device computes nothing.
"""

import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.compare.cases import Cases
from benchmarks.compare.problems import Problem
from benchmarks.compare.record import Record, Unit
from saddlescope.curvature import HessianOperator, Programs, random_start

_PRODUCTS = 20

WAYS = ("double-backward", "traced", "replayed")


def launch_units(cases: Cases, names: list[str]) -> Iterator[Unit]:
    """Every way to a product, on every case."""
    for name in names:
        for way in WAYS:

            def measure(_: Record, name: str = name, way: str = way) -> dict[str, Any]:
                return measure_launches(cases.problem(name), way)

            yield Unit(f"launches/{name}/{way}", measure)


def measure_launches(problem: Problem, way: str) -> dict[str, Any]:
    """Seconds of a product, of its kernels, and their number.

    Args:
        problem: on CUDA.
        way: one of `WAYS`.
    """
    strategy: Any = "double-backward" if way == "double-backward" else "traced"
    programs = Programs(strategy, replay=way == "replayed")
    operator = HessianOperator(
        problem.model, problem.criterion, problem.batches(), programs=programs
    )
    vector = random_start(problem.size, seed=0).to(problem.device, problem.dtype)
    found = []
    for _ in range(_PRODUCTS + 3):
        torch.cuda.synchronize()
        began = time.perf_counter()
        operator.matvec(vector)
        torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    seconds = statistics.median(found[3:])
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        operator.matvec(vector)
        torch.cuda.synchronize()
    kernels = [
        event for event in profiler.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    ]  # fmt: skip
    busy = sum(event.device_time for event in kernels) * 1e-6
    return {
        "seconds": seconds,
        "kernels": len(kernels),
        "kernel_seconds": busy,
        "waiting_share": max(0.0, 1.0 - busy / seconds),
    }
