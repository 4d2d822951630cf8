"""Thick restarts: the same ends and sound bounds from a smaller basis."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from test_bounds import KINDS, random_spectrum

from saddlescope.curvature import MatrixOperator, extreme_eigenvalues
from saddlescope.curvature.bounds import outer_bound_from_roots
from saddlescope.curvature.lanczos import Lanczos, random_start
from saddlescope.errors import UsageError


class Diagonal:
    """A diagonal matrix; Lanczos does not care, and its eigenvalues are written down."""

    dtype, device = torch.float64, torch.device("cpu")

    def __init__(self, spectrum):
        self.size, self.values = len(spectrum), torch.from_numpy(np.asarray(spectrum))

    def matvec(self, vector):
        return self.values * vector


def basis_memory(size, columns):
    return (columns + 1) * size * 8


def test_decomposition_identity_holds_after_restarts():
    spectrum = random_spectrum("bulk", 300, np.random.default_rng(0))
    operator = Diagonal(spectrum)
    lanczos = Lanczos(operator, random_start(300, seed=0), capacity=16)
    for _ in range(45):
        if lanczos.full:
            lanczos.restart(keep=6)
        lanczos.step()
    k = lanczos.columns
    basis, projected = lanczos._basis[: k + 1], torch.from_numpy(lanczos.projected)
    right = basis[:k].T @ projected
    right[:, -1] += lanczos.betas[-1] * basis[k]
    left = operator.values[:, None] * basis[:k].T
    assert (left - right).norm() < 1e-12 * np.abs(spectrum).max()
    assert (basis @ basis.T - torch.eye(k + 1, dtype=torch.float64)).norm() < 1e-12
    assert lanczos.asymmetry < 1e-12 * np.abs(spectrum).max()
    assert len(lanczos.dropped) + k == lanczos.steps


def test_polynomial_of_all_roots_gives_the_residual_vector():
    """|⟨v, q_{k+1}⟩| = |p(λ)|·|⟨v, q_1⟩| with p from current and dropped Ritz values."""
    spectrum = random_spectrum("uniform", 60, np.random.default_rng(1))
    start = random_start(60, seed=1)
    lanczos = Lanczos(Diagonal(spectrum), start, capacity=10)
    for _ in range(22):
        if lanczos.full:
            lanczos.restart(keep=3)
        lanczos.step()
    roots = np.append(lanczos.eigh()[0], lanczos.dropped)
    logs = np.log(np.abs(spectrum[:, None] - roots)).sum(1) - np.log(lanczos.betas).sum()
    found = np.log(np.abs((lanczos._basis[lanczos.columns] / start).numpy()))
    np.testing.assert_allclose(found, logs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("certify", [False, True])
@pytest.mark.parametrize("columns", [12, 20, 60])
def test_same_ends_from_a_smaller_basis(certify, columns):
    spectrum = random_spectrum("bulk", 2000, np.random.default_rng(2))
    ends = extreme_eigenvalues(
        Diagonal(spectrum), certify=certify, basis_memory=basis_memory(2000, columns)
    )
    assert ends.converged
    assert ends.lambda_max.value == pytest.approx(spectrum.max(), rel=1e-3)
    assert ends.lambda_min.value == pytest.approx(spectrum.min(), rel=1e-2)


@given(st.integers(0, 10**6), st.sampled_from(KINDS), st.integers(8, 14), st.integers(15, 40))
def test_bound_never_misses_when_the_start_component_is_as_assumed(seed, kind, columns, steps):
    rng = np.random.default_rng(seed)
    spectrum = random_spectrum(kind, 80, rng)
    start = rng.normal(size=80)
    start /= np.linalg.norm(start)
    lanczos = Lanczos(Diagonal(spectrum), torch.from_numpy(start), capacity=columns)
    while lanczos.steps < steps and not lanczos.exhausted:
        if lanczos.full:
            lanczos.restart(keep=int(0.4 * columns))
        lanczos.step()
    if lanczos.dropped and not lanczos.exhausted:
        roots = np.append(lanczos.eigh()[0], lanczos.dropped)
        lowest = int(np.argmin(spectrum))
        bound = outer_bound_from_roots(roots, lanczos.betas, delta=abs(start[lowest]))
        assert bound <= spectrum[lowest] + 1e-9 * np.abs(spectrum).max()


def test_intervals_miss_no_more_often_than_stated_with_restarts():
    misses = trials = 0
    for kind in KINDS:
        for seed in range(100):
            spectrum = random_spectrum(kind, 60, np.random.default_rng(seed))
            ends = extreme_eigenvalues(
                Diagonal(spectrum), confidence=0.9, seed=seed, max_matvecs=30,
                basis_memory=basis_memory(60, 10), certify=True,
            )  # fmt: skip
            misses += not (
                ends.lambda_max.lower <= spectrum.max() <= ends.lambda_max.upper
                and ends.lambda_min.lower <= spectrum.min() <= ends.lambda_min.upper
            )
            trials += 1
    verdict = binomtest(misses, trials, 0.1, alternative="greater")
    assert verdict.pvalue > 1e-3, f"{misses} misses in {trials}"


def test_too_little_memory_says_what_would_do():
    with pytest.raises(UsageError, match=r"at least 9 vectors of .* MiB are free"):
        extreme_eigenvalues(
            MatrixOperator(torch.eye(100).double()), basis_memory=basis_memory(100, 5)
        )


@pytest.mark.parametrize("keep", [0, 5, 9])
def test_keep_out_of_range(keep):
    lanczos = Lanczos(Diagonal(np.arange(30.0)), random_start(30, seed=0), capacity=10)
    for _ in range(10):
        lanczos.step()
    with pytest.raises(UsageError, match="keep = "):
        lanczos.restart(keep=keep)
