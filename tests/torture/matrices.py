"""Intervals on structured matrices, and on networks whose loss is scaled by 1e-8 to 1e8."""

import random

import numpy as np
import torch
from torch import nn

from saddlescope.curvature import HessianOperator, extreme_eigenvalues
from saddlescope.curvature.reference import dense_reference
from tests.torture.inputs import Bench, FaultError

CONFIDENCE = 0.999


def spectrum(kind: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Eigenvalues of one of fifteen structures."""
    k = np.arange(n)
    return (
        rng.normal(size=n), k / n - 0.5, 0.9**k, -(0.5**k), np.zeros(n), np.ones(n) * 3.0,
        np.where(k == 0, -1e-6, 1.0), np.where(k == 0, 1e6, rng.normal(size=n)),
        np.where(k < 2, -1.0, 1e-3 * k), np.cos(np.pi * (k + 0.5) / n), rng.uniform(0, 1, n) ** 8,
        np.where(k < n // 2, -1.0, 1.0), np.select([k == 0, k == 1], [-1.0, -1.0 + 1e-9], 2.0),
        np.exp(-rng.uniform(0, 30, n)), rng.standard_cauchy(n),
    )[kind]  # fmt: skip


class Matrix:
    """A dense symmetric matrix as an operator."""

    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix, self.size = matrix, len(matrix)
        self.dtype, self.device = matrix.dtype, matrix.device

    def matvec(self, vector: torch.Tensor) -> torch.Tensor:
        return self.matrix @ vector


def one_interval(_: Bench, rng: random.Random) -> str:
    """Hold one row's intervals to the truth: "contained" or "missed"."""
    seed = rng.randrange(2**31)
    options = {"rtol": rng.choice((1e-1, 1e-2, 1e-3)), "certify": rng.random() < 0.5, "seed": seed}
    if rng.random() < 0.7:
        generator = np.random.default_rng(seed)
        n = rng.choice((2, 5, 30, 100, 200))
        values = np.sort(spectrum(rng.randrange(15), n, generator) * 10.0 ** rng.randrange(-8, 9))
        q, _ = np.linalg.qr(generator.normal(size=(n, n)))
        matrix = torch.from_numpy((q * values) @ q.T)
        matrix = 0.5 * (matrix + matrix.T)
        truth = np.linalg.eigvalsh(matrix.numpy())
        slack = 1e-12 * max(abs(truth[0]), abs(truth[-1]))
        ends = extreme_eigenvalues(Matrix(matrix), confidence=CONFIDENCE, **options)
        low, high = truth[0], truth[-1]
    else:
        scale = 10.0 ** rng.randrange(-8, 9)
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double().eval()
        inputs, targets = torch.randn(20, 4).double(), torch.randint(3, (20,))

        class Scaled(nn.Module):
            def forward(self, outputs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
                return scale * nn.functional.cross_entropy(outputs, wanted)

        ends = extreme_eigenvalues(
            HessianOperator(model, Scaled(), [(inputs, targets)]), confidence=CONFIDENCE, **options
        )
        dense = dense_reference(model, Scaled(), (inputs, targets))
        low, high = dense.lambda_min, dense.lambda_max
        slack = dense.error + 1e-12 * max(abs(low), abs(high))
    for estimate in (ends.lambda_min, ends.lambda_max):
        if not estimate.lower <= estimate.upper:
            raise FaultError(f"an interval [{estimate.lower}, {estimate.upper}]")
    inside = (
        ends.lambda_min.lower - slack <= low <= ends.lambda_min.upper + slack
        and ends.lambda_max.lower - slack <= high <= ends.lambda_max.upper + slack
    )
    return "contained" if inside else "missed"
