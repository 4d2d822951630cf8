"""Lanczos against the identity that defines it, and against dense eigenvalues in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saddlescope.curvature.krylov.lanczos import Lanczos, random_start
from saddlescope.curvature.operators.symmetric import MatrixOperator
from saddlescope.errors import OperatorError, UsageError


def symmetric(size: int, seed: int, *, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return scale * (matrix + matrix.T) / 2


def run(matrix: torch.Tensor, steps: int, *, seed: int = 0) -> Lanczos:
    start = random_start(len(matrix), seed=seed)
    lanczos = Lanczos(MatrixOperator(matrix), start, capacity=steps)
    while lanczos.steps < lanczos.capacity and not lanczos.exhausted:
        lanczos.step()
    return lanczos


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-13), (torch.float32, 2e-5)])
def test_decomposition_identity_and_orthonormality(dtype, tol):
    matrix = symmetric(60, 0).to(dtype)
    lanczos = run(matrix, 25)
    basis = lanczos._basis.double()  # (26, 60)
    k = lanczos.steps
    tridiagonal = torch.diag(torch.tensor(lanczos.alphas, dtype=torch.float64))
    couplings = torch.tensor(lanczos.betas[:-1], dtype=torch.float64)
    tridiagonal += torch.diag(couplings, 1) + torch.diag(couplings, -1)
    right = basis[:k].T @ tridiagonal
    right[:, -1] += lanczos.betas[-1] * basis[k]
    size = matrix.double().norm()
    assert (matrix.double() @ basis[:k].T - right).norm() <= tol * size
    assert (basis @ basis.T - torch.eye(k + 1)).norm() <= 10 * tol


def test_no_ghost_copies_of_a_dominant_eigenvalue():
    spectrum = torch.cat([torch.tensor([1e4, -3e3]), torch.linspace(-1, 1, 98)]).double()
    lanczos = run(torch.diag(spectrum), 60)
    ritz = np.linalg.eigvalsh(
        np.diag(lanczos.alphas) + np.diag(lanczos.betas[:-1], 1) + np.diag(lanczos.betas[:-1], -1)
    )
    assert (ritz > 10).sum() == 1
    assert (ritz < -10).sum() == 1


@given(st.integers(1, 12), st.integers(0, 10**6))
def test_full_run_finds_the_whole_spectrum(size, seed):
    matrix = symmetric(size, seed)
    lanczos = run(matrix, size)
    ritz = np.linalg.eigvalsh(
        np.diag(lanczos.alphas)
        + np.diag(lanczos.betas[: lanczos.steps - 1], 1)
        + np.diag(lanczos.betas[: lanczos.steps - 1], -1)
    )
    truth = torch.linalg.eigvalsh(matrix).numpy()
    if lanczos.steps == size:
        np.testing.assert_allclose(ritz, truth, atol=1e-9 * max(1, np.abs(truth).max()))


def test_breakdown_is_relative_to_the_scale():
    """A rank-2 matrix is exhausted after 3 steps whatever its scale."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(50, 2, generator=generator, dtype=torch.float64)
    matrix = vectors @ torch.diag(torch.tensor([1.0, -0.5]).double()) @ vectors.T
    for scale in (1e-8, 1.0, 1e8):
        lanczos = run(matrix * scale, 20)
        assert lanczos.exhausted
        assert lanczos.steps == 3


def test_zero_matrix():
    lanczos = run(torch.zeros(5, 5, dtype=torch.float64), 5)
    assert lanczos.exhausted
    assert lanczos.steps == 1
    assert lanczos.scale == 0.0


def test_asymmetric_matrix_is_refused():
    matrix = symmetric(30, 0)
    matrix[0, 1] += 20
    with pytest.raises(OperatorError, match="not those of one symmetric matrix"):
        run(matrix, 20)


def test_a_matrix_that_changes_between_products_is_refused():
    class Changing(MatrixOperator):
        def matvec(self, vector):
            self.matrix = symmetric(30, int(1000 * vector[0].abs()))
            return super().matvec(vector)

    lanczos = Lanczos(Changing(symmetric(30, 0)), random_start(30, seed=0), capacity=10)
    lanczos.step()
    with pytest.raises(OperatorError, match="augmentation"):
        lanczos.step()


def test_asymmetry_of_a_symmetric_matrix_is_rounding():
    assert run(symmetric(60, 1), 30).asymmetry < 1e-13


def test_nan_product_says_which():
    class Broken(MatrixOperator):
        calls = 0

        def matvec(self, vector):
            self.calls += 1
            return super().matvec(vector) * (float("nan") if self.calls == 3 else 1)

    lanczos = Lanczos(Broken(symmetric(10, 0)), random_start(10, seed=0), capacity=10)
    lanczos.step()
    lanczos.step()
    with pytest.raises(OperatorError, match="product 3 is NaN"):
        lanczos.step()


@pytest.mark.parametrize("start", [torch.zeros(5), torch.full((5,), torch.nan), torch.ones(4)])
def test_bad_start_is_refused(start):
    with pytest.raises(UsageError, match="start vector"):
        Lanczos(MatrixOperator(symmetric(5, 0)), start.double(), capacity=3)


@pytest.mark.parametrize("steps", [1, 2, 7, 30])
def test_image_is_the_product_without_a_product(steps):
    matrix = symmetric(30, 0)
    lanczos = run(matrix, steps)
    weights = np.random.default_rng(0).normal(size=lanczos.steps)
    expected = matrix @ lanczos.combine(weights)
    torch.testing.assert_close(lanczos.image(weights), expected, rtol=1e-10, atol=1e-10)
