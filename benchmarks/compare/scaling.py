"""How the instrument's cost grows, beside what the operation count says.

A product costs two gradients, so with the number of products held its seconds grow as samples and
as parameters do. Classes of one job share a trace. Orthogonalising step k against k vectors
twice takes 8·n·k operations, so the steps beside the products grow as the square of their number.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, multiprocessing, nn

from benchmarks.clock import seconds_now
from benchmarks.compare.cases import Cases
from benchmarks.compare.ends import gradient_seconds
from benchmarks.compare.problems import Problem
from benchmarks.compare.record import Record, Unit
from saddlescope.curvature import HessianOperator, Programs, Ranks, SharedBatches, random_start
from saddlescope.curvature.krylov import Lanczos
from saddlescope.models import build_model

PRODUCTS = 8

SERIES: dict[str, tuple[tuple[int, ...], float | None]] = {
    "samples": ((16, 32, 64, 128, 256), 1.0),
    "parameters": ((256, 512, 1024, 2048), 1.0),
    "classes": ((1, 2, 4, 8), 1.0),
    "basis": ((50, 100, 200, 400), 2.0),
    "threads": ((1, 2), None),
    "ranks": ((1, 2), None),
}
"""Values of each series, and the power of them that the operation count gives."""


def scaling_units(cases: Cases) -> Iterator[Unit]:
    """One unit for each point of each series."""
    measures: dict[str, Callable[[int, torch.device], dict[str, Any]]] = {
        "samples": _samples,
        "parameters": _parameters,
        "classes": _classes,
        "basis": _basis,
        "threads": _threads,
        "ranks": _ranks,
    }
    for name, (values, _) in SERIES.items():
        if name in ("threads", "ranks") and cases.device.type != "cpu":
            continue
        for value in values:

            def measure(_: Record, name: str = name, value: int = value) -> dict[str, Any]:
                return {"value": value} | measures[name](value, cases.device)

            yield Unit(f"scaling/{name}/{value}", measure)


def slope(values: list[float], seconds: list[float]) -> float:
    """The power of `values` that `seconds` grow as: the slope of their logarithms."""
    return float(np.polyfit(np.log(values), np.log(seconds), 1)[0])


def _images(samples: int, device: torch.device, network: str = "resnet32") -> Problem:
    generator = torch.Generator().manual_seed(samples)
    model = build_model(network, num_classes=100, in_channels=3, seed=0).to(device).eval()
    inputs = torch.randn(samples, 3, 32, 32, generator=generator).to(device)
    targets = torch.randint(100, (samples,), generator=generator).to(device)
    return Problem("scaling", model, nn.CrossEntropyLoss(), inputs, targets, "random images")


def _product_seconds(
    problem: Problem, programs: Programs, clock: Callable[[torch.device], float] = seconds_now
) -> list[float]:
    """Seconds of `PRODUCTS` products in a row, each from the last one's result."""
    operator = HessianOperator(
        problem.model, problem.criterion, problem.batches(), programs=programs
    )
    vector, found = random_start(operator.size, seed=0).to(problem.device, problem.dtype), []
    for _ in range(PRODUCTS + 1):
        began = clock(problem.device)
        vector = operator.matvec(vector)
        vector = vector / torch.linalg.vector_norm(vector)
        found.append(clock(problem.device) - began)
    return found[1:]  # the first one allocates


def _products(problem: Problem, programs: Programs) -> dict[str, Any]:
    before = gradient_seconds(problem)
    seconds = float(np.median(_product_seconds(problem, programs)))
    gradient = float(np.median([*before, *gradient_seconds(problem)]))
    return {"seconds": seconds, "gradients": seconds / gradient, "gradient_seconds": gradient}


def _samples(samples: int, device: torch.device) -> dict[str, Any]:
    return _products(_images(samples, device), Programs("traced"))


def _parameters(width: int, device: torch.device) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width),
                              nn.Tanh(), nn.Linear(width, 10)).to(device).eval()  # fmt: skip
    inputs = torch.randn(256, width, generator=generator).to(device)
    targets = torch.randint(10, (256,), generator=generator).to(device)
    problem = Problem("scaling", model, nn.CrossEntropyLoss(), inputs, targets, "random points")
    return {"parameters": problem.size} | _products(problem, Programs("double-backward"))


def _classes(classes: int, device: torch.device) -> dict[str, Any]:
    problem, programs = _images(24, device), Programs("traced")
    began = seconds_now(device)
    _product_seconds(problem.take(2), programs)
    traced = seconds_now(device) - began
    began = seconds_now(device)
    for _ in range(classes):
        _product_seconds(problem, programs)
    return {"seconds": seconds_now(device) - began, "trace_seconds": traced}


def _basis(steps: int, device: torch.device) -> dict[str, Any]:
    """Lanczos alone, on a diagonal matrix whose products cost next to nothing."""
    size = 500_000
    spectrum = torch.linspace(-1.0, 10.0, size, device=device)
    operator = _Diagonal(spectrum)
    start = random_start(size, seed=0)
    lanczos = Lanczos(operator, start, capacity=steps + 1)
    began = seconds_now(device)
    for _ in range(steps):
        lanczos.step()
    return {"seconds": seconds_now(device) - began}


class _Diagonal:
    def __init__(self, spectrum: Tensor) -> None:
        self._spectrum = spectrum
        self.size, self.dtype, self.device = len(spectrum), spectrum.dtype, spectrum.device

    def matvec(self, vector: Tensor) -> Tensor:
        return self._spectrum * vector


def _threads(threads: int, device: torch.device) -> dict[str, Any]:
    """By the wall: what several threads do together is no single one's work."""
    before, found = torch.get_num_threads(), {}
    try:
        torch.set_num_threads(threads)
        for samples in (12, 128):
            problem, programs = _images(samples, device), Programs("traced")
            seconds = _product_seconds(problem, programs, lambda _: time.perf_counter())
            found[f"seconds_{samples}"] = float(np.median(seconds))
    finally:
        torch.set_num_threads(before)
    return found


def _ranks(ranks: int, _: torch.device, samples: int = 128) -> dict[str, Any]:
    """A product of some images shared by processes of one thread each."""
    with TemporaryDirectory() as folder:
        results = Path(folder) / "seconds"
        multiprocessing.spawn(
            _one_rank, (ranks, samples, str(Path(folder) / "meet"), str(results)), nprocs=ranks
        )
        return {"seconds": float(results.read_text())}


def _one_rank(rank: int, ranks: int, samples: int, meeting: str, results: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks
    )
    problem = _images(samples, torch.device("cpu"))
    mine = slice(rank * samples // ranks, (rank + 1) * samples // ranks)
    shared = SharedBatches(
        [(problem.inputs[mine], problem.targets[mine])], Ranks(distributed.group.WORLD)
    )
    operator = HessianOperator(
        problem.model, problem.criterion, shared, programs=Programs("traced")
    )
    vector, found = random_start(operator.size, seed=0).to(problem.device, problem.dtype), []
    for _ in range(PRODUCTS + 1):
        began = time.perf_counter()
        vector = operator.matvec(vector)
        vector = vector / torch.linalg.vector_norm(vector)
        found.append(time.perf_counter() - began)
    if rank == 0:
        Path(results).write_text(str(float(np.median(found[1:]))))
    distributed.barrier()  # gloo aborts a process that leaves while another still talks to it
    distributed.destroy_process_group()
