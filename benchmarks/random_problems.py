"""Random problems with a known spectrum, for `benchmarks.coverage`: matrices and small networks."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from saddlescope.curvature import HessianOperator, MatrixOperator
from saddlescope.curvature.reference import dense_hessian

FAMILIES = (
    "uniform", "semicircle", "geometric", "clustered-ends", "tight-clusters", "pairs", "low-rank",
    "zero", "outlier", "hessian-like",
)  # fmt: skip
WARM_STARTS = ("cold", "perturbed", "wrong", "orthogonal")


@dataclass(frozen=True)
class Case:
    """One problem, its true ends, and the options it is measured with.

    Attributes:
        operator: what is measured.
        lowest, highest: its extreme eigenvalues.
        options: of `extreme_eigenvalues`, confidence aside.
        labels: what the result is counted under: family, dtype, stop, memory, start.
    """

    operator: Any
    lowest: float
    highest: float
    options: dict[str, Any]
    labels: dict[str, str]


def spectrum(family: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """Eigenvalues in no particular order, shape (size,), of magnitude about 1."""
    if family == "uniform":
        return rng.uniform(-1, 1, size)
    if family == "semicircle":
        return 2 * rng.beta(1.5, 1.5, size) - 1
    if family == "geometric":
        return rng.choice([-1.0, 1.0], size) * rng.uniform(0.3, 0.97) ** np.arange(size)
    if family == "clustered-ends":
        width = 10.0 ** rng.uniform(-6, -1)
        side = np.sign(rng.uniform(-1, 1, size))
        return side * (1 - width * rng.random(size))
    if family == "tight-clusters":  # the Krylov space is all but exhausted after a few steps
        centres = rng.uniform(-1, 1, rng.integers(1, 4))
        return rng.choice(centres, size) + 10.0 ** rng.uniform(-16, -3) * rng.normal(size=size)
    if family == "pairs":
        half = rng.random(size // 2)
        return np.concatenate([half, -half, np.zeros(size % 2)])
    if family == "low-rank":
        rank = int(rng.integers(1, 7))
        return np.concatenate([rng.normal(size=rank), np.zeros(size - rank)])
    if family == "zero":
        return np.zeros(size)
    if family == "outlier":
        return np.concatenate([[-(10.0 ** rng.uniform(-4, 0))], rng.random(size - 1)])
    bulk = rng.normal(0, 10.0 ** rng.uniform(-3, -1), size - 6)
    return np.concatenate([bulk, [-(10.0 ** rng.uniform(-1.5, 0))], rng.exponential(size=5)])


@dataclass(frozen=True)
class Basis:
    """Eigenvectors: the unit vectors, turned by three Householder reflections, or left alone."""

    reflectors: tuple[np.ndarray, ...] = ()

    def turn(self, columns: np.ndarray) -> np.ndarray:
        """Q·X for X of shape (n, …)."""
        for unit in reversed(self.reflectors):
            columns = columns - 2.0 * np.multiply.outer(unit, unit @ columns)
        return columns

    def matrix(self, values: np.ndarray) -> Tensor:
        """Q·diag(values)·Qᵀ, symmetric to the last bit, float64."""
        dense = self.turn(self.turn(np.diag(values)).T)
        return torch.from_numpy((dense + dense.T) / 2)


def random_options(rng: np.random.Generator, size: int, itemsize: int) -> dict[str, Any]:
    """A stop rule, a number of products and a size of the basis."""
    options = {
        "certify": bool(rng.random() < 0.3),
        "rtol": float(10.0 ** rng.uniform(-4, -1)),
        "max_matvecs": int(rng.choice([4, 8, 16, 32, 64])),
        "seed": int(rng.integers(2**62)),
    }
    if rng.random() < 0.35:
        options["basis_memory"] = (int(rng.integers(8, 15)) + 1) * size * itemsize
    return options


def warm_start(kind: str, values: np.ndarray, basis: Basis, rng: np.random.Generator) -> np.ndarray:
    """A guess at v_max + v_min: nearly right, another eigenvector, or blind to both ends."""
    order, weights = np.argsort(values), np.zeros(len(values))
    if kind == "perturbed":
        weights[order[[0, -1]]] = 1.0
        weights += 10.0 ** rng.uniform(-3, 0) * rng.normal(size=len(values)) / len(values) ** 0.5
    elif kind == "wrong":
        weights[order[rng.integers(1, len(values) - 1)]] = 1.0
    else:
        weights[order[1:-1]] = rng.normal(size=len(values) - 2)
    return basis.turn(weights)


def matrix_case(rng: np.random.Generator, *, largest: int = 400) -> Case:
    """A random matrix problem."""
    family = FAMILIES[rng.integers(len(FAMILIES))]
    size = int(np.exp(rng.uniform(math.log(20), math.log(largest + 1))))
    values = spectrum(family, size, rng) * 10.0 ** rng.integers(-6, 7)
    dtype = torch.float32 if rng.random() < 0.5 else torch.float64
    if dtype == torch.float32 or rng.random() < 0.5:
        units = rng.normal(size=(3, size))
        basis = Basis(tuple(unit / np.linalg.norm(unit) for unit in units))
    else:
        basis = Basis()
    exact = basis.matrix(values)
    options = random_options(rng, size, dtype.itemsize)
    start = WARM_STARTS[rng.choice(4, p=[0.4, 0.2, 0.2, 0.2])]
    if start != "cold":
        options["warm_start"] = torch.from_numpy(warm_start(start, values, basis, rng))
    return Case(
        MatrixOperator(exact.to(dtype), exact=exact),
        float(values.min()),
        float(values.max()),
        options,
        labels(family, dtype, options, start),
    )


def labels(family: str, dtype: torch.dtype, options: dict[str, Any], start: str) -> dict[str, str]:
    """The words a case is counted under."""
    return {
        "family": family,
        "dtype": str(dtype).removeprefix("torch."),
        "stop": "interval" if options["certify"] else "residual",
        "memory": "small basis" if "basis_memory" in options else "whole basis",
        "start": start,
    }


class Network(nn.Module):
    """A small classifier of 6x6 images: "mlp", "convolution" (BatchNorm) or "layernorm"."""

    def __init__(self, kind: str, width: int, classes: int) -> None:
        super().__init__()
        if kind == "convolution":
            parts = [
                nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(3),
                nn.Flatten(), nn.Linear(12, classes),
            ]  # fmt: skip
        else:
            middle = [nn.LayerNorm(width), nn.GELU()] if kind == "layernorm" else [nn.Tanh()]
            parts = [
                nn.AvgPool2d(2), nn.Flatten(), nn.Linear(9, width), *middle,
                nn.Linear(width, classes),
            ]  # fmt: skip
        self.parts = nn.Sequential(*parts)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape (n, classes)."""
        return self.parts(images)


@dataclass(frozen=True)
class NetworkProblem:
    """A network, its samples and the eigenvalues of its dense float64 Hessian, ascending."""

    model: nn.Module
    batch: tuple[Tensor, Tensor]
    kind: str
    values: np.ndarray

    def case(self, rng: np.random.Generator) -> Case:
        """The problem with options drawn anew."""
        operator = HessianOperator(self.model, nn.CrossEntropyLoss(), [self.batch])
        options = random_options(rng, operator.size, operator.dtype.itemsize)
        words = labels(self.kind, operator.dtype, options, "cold")
        return Case(operator, float(self.values[0]), float(self.values[-1]), options, words)


def network_problem(rng: np.random.Generator) -> NetworkProblem:
    """A random small network on random images, at its initial weights or a few steps on."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**31)))
        kind = ("mlp", "convolution", "layernorm")[rng.integers(3)]
        classes, width = int(rng.integers(2, 6)), int(rng.integers(3, 9))
        model = Network(kind, width, classes)
        images = torch.randn(int(rng.integers(4, 41)), 1, 6, 6)
        targets = torch.randint(0, classes, (len(images),))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(int(rng.choice([0, 0, 5, 30]))):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), targets).backward()
            optimizer.step()
    if rng.random() < 0.5:
        model, images = model.double(), images.double()
    model.zero_grad()
    model.eval()
    hessian = dense_hessian(model, nn.CrossEntropyLoss(), (images, targets))
    values = torch.linalg.eigvalsh(hessian).numpy()
    return NetworkProblem(model, (images, targets), kind, values)


def cases(
    confidence: float, matrices: int, networks: list[NetworkProblem], *, largest: int = 400
) -> Iterator[tuple[int, Case]]:
    """(index, case) of one confidence; the same for the same arguments."""
    stream = round(1e6 * (1 - confidence))
    for index in range(matrices):
        yield index, matrix_case(np.random.default_rng([stream, index]), largest=largest)
    for number, problem in enumerate(networks, start=matrices):
        yield number, problem.case(np.random.default_rng([stream, number]))
