"""Kato-Temple bounds against the eigenvalues a matrix was built from, and against a naive gap."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from saddlescope.curvature import (
    HessianOperator,
    MatrixOperator,
    Programs,
    extreme_eigenvalues,
    temple_bounds,
)
from saddlescope.errors import UsageError
from tests.curvature.krylov.test_bounds import KINDS, random_spectrum


def turned(spectrum, seed, dtype=torch.float64):
    """A dense matrix with this spectrum and random eigenvectors."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(len(spectrum), len(spectrum))))
    matrix = torch.from_numpy((basis * spectrum) @ basis.T)
    matrix = 0.5 * (matrix + matrix.T)
    return MatrixOperator(matrix.to(dtype), exact=matrix)


def measured(operator, *, seed=0, **options):
    return extreme_eigenvalues(operator, eigenvectors=True, seed=seed, **options)


@given(
    kind=st.sampled_from(KINDS),
    size=st.integers(8, 80),
    seed=st.integers(0, 2**30),
    steps=st.integers(2, 40),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    small_basis=st.booleans(),
)
def test_both_ends_hold_the_truth(kind, size, seed, steps, dtype, small_basis):
    spectrum = random_spectrum(kind, size, np.random.default_rng(seed))
    operator = turned(spectrum, seed, dtype)
    memory = 9 * size * dtype.itemsize if small_basis else None
    ends = measured(operator, seed=seed, max_matvecs=steps, confidence=1 - 1e-6)
    found = temple_bounds(operator, ends, max_matvecs=steps, seed=seed, basis_memory=memory)
    low, high = found.lambda_min, found.lambda_max
    truth, scale = np.linalg.eigvalsh(operator.reference().matrix.numpy()), 1e-12
    assert low.lower - scale <= truth[0] <= low.upper + scale
    assert high.lower - scale <= truth[-1] <= high.upper + scale
    # A gap, where there is one, claims that no other eigenvalue is nearer.
    assert low.gap == 0 or low.value + low.gap <= truth[1] + scale
    assert high.gap == 0 or high.value - high.gap >= truth[-2] - scale
    assert (math.isfinite(low.lower), math.isfinite(high.upper)) == (low.gap > 0, high.gap > 0)


def test_the_error_is_of_second_order_in_the_residual():
    spectrum = np.concatenate([[-2.0], np.linspace(-1, 1, 60), [3.0]])
    operator = turned(spectrum, 1)
    found = temple_bounds(operator, measured(operator, rtol=1e-3), rtol=1e-9)
    for end, gap in ((found.lambda_min, 1.0), (found.lambda_max, 2.0)):
        assert 0.85 * gap <= end.gap <= gap + 1e-9
        width = end.upper - end.lower
        assert width == pytest.approx(end.residual**2 / end.gap, rel=1e-6, abs=1e-11)
        assert width < 2e-2 * end.residual


def test_a_hidden_neighbour_fools_the_ritz_gap_and_not_this_one():
    """λ_min has next to no part in the start vector: the first run takes λ_2 for the end."""
    spectrum = np.concatenate([[-1.01, -1.0], np.linspace(-0.4, 1, 98)])
    operator = MatrixOperator(torch.from_numpy(np.diag(spectrum)))
    ends = measured(operator, rtol=1e-3)
    blind = torch.zeros(2, 100, dtype=torch.float64)
    blind[0, 99], blind[1, 1] = 1.0, 1.0  # v_max and the second smallest
    blind[1, 5] = 1e-2
    blind[1] /= blind[1].norm()
    fooled = dataclasses.replace(ends, eigenvectors=blind)
    rho = float(blind[1] @ operator.matvec(blind[1]))
    residual = float((operator.matvec(blind[1]) - rho * blind[1]).norm())
    assert rho - residual**2 / (-0.4 - rho) > -1.01  # the naive bound excludes λ_min
    found = temple_bounds(operator, fooled).lambda_min
    assert found.gap == 0.0
    assert found.lower == -math.inf
    assert found.upper >= -1.01


def test_misses_are_as_rare_as_stated():
    """At confidence 0.5 the gap must fail somewhere, and not more often than that."""
    misses, trials = 0, 400
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        spectrum = random_spectrum("clustered" if seed % 2 else "bulk", 40, rng)
        operator = turned(spectrum, seed)
        ends = measured(operator, seed=seed, max_matvecs=6, confidence=0.5)
        found = temple_bounds(operator, ends, max_matvecs=4, seed=seed)
        ordered = np.sort(spectrum)
        low, high = found.lambda_min, found.lambda_max
        misses += bool(
            (low.gap > 0 and low.value + low.gap > ordered[1] + 1e-12)
            or (high.gap > 0 and high.value - high.gap < ordered[-2] - 1e-12)
        )
    assert misses > 0
    assert binomtest(misses, trials, 0.5, alternative="greater").pvalue > 1e-3


@pytest.mark.parametrize(
    "spectrum", [[2.0], [2.0, -1.0], [3.0, 3.0, 3.0], [0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
)
def test_tiny_and_degenerate_matrices(spectrum):
    operator = turned(np.asarray(spectrum), 3)
    found = temple_bounds(operator, measured(operator))
    for end, truth in ((found.lambda_min, min(spectrum)), (found.lambda_max, max(spectrum))):
        assert end.lower - 1e-12 <= truth <= end.upper + 1e-12
        assert end.gap >= 0


def test_it_is_the_same_for_a_network_as_for_its_dense_hessian():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    model.double()
    inputs = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    targets = torch.randint(3, (40,), generator=generator)
    operator = HessianOperator(
        model, torch.nn.CrossEntropyLoss(), [(inputs, targets)], programs=Programs("traced")
    )
    exact = operator.reference()
    dense = torch.stack([exact.matvec(row) for row in torch.eye(exact.size).double()])
    truth = np.linalg.eigvalsh(dense.numpy())
    ends = measured(operator)
    found = temple_bounds(operator, ends, rtol=1e-4)
    assert found.lambda_min.lower <= truth[0] <= found.lambda_min.upper
    assert found.lambda_max.lower <= truth[-1] <= found.lambda_max.upper
    for sharp, wide in ((found.lambda_max, ends.lambda_max), (found.lambda_min, ends.lambda_min)):
        assert sharp.upper - sharp.lower < 0.1 * (wide.upper - wide.lower)
    again = temple_bounds(operator, ends, rtol=1e-4)
    assert again == found


def test_eigenvectors_are_needed():
    operator = turned(np.arange(5.0), 0)
    with pytest.raises(UsageError, match="eigenvectors=True"):
        temple_bounds(operator, extreme_eigenvalues(operator))
