"""The share of a vector below a point, against its dense spectral measure."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saddlescope.curvature import MatrixOperator, spectral_energy
from saddlescope.errors import UsageError


def problem(size, seed):
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    values = torch.randn(size, generator=generator, dtype=torch.float64).exp()
    values *= torch.randn(size, generator=generator, dtype=torch.float64).sign()
    vector = torch.randn(size, generator=generator, dtype=torch.float64)
    return basis @ torch.diag(values) @ basis.T, values, vector, (basis.T @ vector) ** 2


@given(st.integers(2, 40), st.integers(0, 10**6), st.integers(1, 30), st.floats(-5, 5))
def test_the_bounds_hold_the_truth(size, seed, steps, point):
    matrix, values, vector, energies = problem(size, seed)
    truth = float(energies[values < point].sum() / energies.sum())
    found = spectral_energy(MatrixOperator(matrix), vector, steps=steps)
    value, lower, upper = found.below(point)
    assert lower - 1e-9 <= truth <= upper + 1e-9
    assert lower <= value <= upper
    assert found.weights.sum() == pytest.approx(1.0)


def test_with_all_steps_it_is_the_measure_itself():
    matrix, values, vector, energies = problem(12, 3)
    found = spectral_energy(MatrixOperator(matrix), vector, steps=12)
    for point in np.linspace(-4, 4, 41):
        truth = float(energies[values < point].sum() / energies.sum())
        assert found.below(point)[0] == pytest.approx(truth, abs=1e-8)


def test_an_eigenvector_is_known_after_one_step():
    found = spectral_energy(
        MatrixOperator(torch.diag(torch.tensor([-1.0, 2.0, 3.0]))), torch.tensor([1.0, 0.0, 0.0])
    )
    assert found.matvecs == 1
    assert found.below(-0.5) == (1.0, 1.0, 1.0)
    assert found.below(-1.5) == (0.0, 0.0, 0.0)


def test_a_zero_vector_has_no_measure():
    with pytest.raises(UsageError, match="norm 0"):
        spectral_energy(MatrixOperator(torch.eye(2)), torch.zeros(2))
