"""Thick restarts: the same ends and sound bounds from a smaller basis."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from saddlescope.curvature import MatrixOperator, extreme_eigenvalues
from saddlescope.curvature.krylov.bounds import outer_bound, outer_bound_after_restarts
from saddlescope.curvature.krylov.lanczos import Lanczos, farthest_from, random_start
from saddlescope.errors import UsageError
from tests.curvature.krylov.test_bounds import KINDS, random_spectrum


class Diagonal:
    """A diagonal matrix; Lanczos does not care, and its eigenvalues are written down."""

    dtype, device = torch.float64, torch.device("cpu")

    def __init__(self, spectrum):
        self.size, self.values = len(spectrum), torch.from_numpy(np.asarray(spectrum))

    def matvec(self, vector):
        return self.values * vector


def basis_memory(size, columns):
    return (columns + 1) * size * 8


def bound_of(lanczos, *, delta):
    values, vectors = lanczos.eigh()
    couplings = lanczos.betas[-1] * np.abs(vectors[-1])
    return outer_bound_after_restarts(
        values, couplings, lanczos.dropped, lanczos.betas, delta=delta
    )


def test_decomposition_identity_holds_after_restarts():
    spectrum = random_spectrum("bulk", 300, np.random.default_rng(0))
    operator = Diagonal(spectrum)
    lanczos = Lanczos(operator, random_start(300, seed=0), capacity=16)
    for _ in range(45):
        if lanczos.full:
            lanczos.restart()
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
            lanczos.restart()
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
            lanczos.restart()
        lanczos.step()
    if lanczos.dropped and not lanczos.exhausted:
        lowest = int(np.argmin(spectrum))
        bound = bound_of(lanczos, delta=abs(start[lowest]))
        assert bound <= spectrum[lowest] + 1e-9 * np.abs(spectrum).max()


def test_intervals_miss_no_more_often_than_stated_with_restarts():
    misses = trials = 0
    for kind in KINDS:
        for seed in range(50):
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


def test_bound_is_that_of_the_recurrence_where_nothing_was_dropped():
    spectrum = random_spectrum("bulk", 300, np.random.default_rng(3))
    lanczos = Lanczos(Diagonal(spectrum), random_start(300, seed=3), capacity=30)
    for steps in range(2, 31):
        while lanczos.steps < steps:
            lanczos.step()
        expected = outer_bound(lanczos.alphas, lanczos.betas, delta=1e-5)
        assert bound_of(lanczos, delta=1e-5) == pytest.approx(expected, rel=1e-5)


def test_components_of_an_eigenvector_in_the_current_basis_are_those_the_bound_sums():
    """Σ_i ⟨v, y_i⟩² + ⟨v, q_{k+1}⟩² = ⟨v, q_1⟩²·p(λ)²·(1 + Σ_i (β·s_i/(λ − θ_i))²)."""
    spectrum = random_spectrum("uniform", 60, np.random.default_rng(1))
    start = random_start(60, seed=1)
    lanczos = Lanczos(Diagonal(spectrum), start, capacity=10)
    for _ in range(22):
        if lanczos.full:
            lanczos.restart()
        lanczos.step()
    values, vectors = lanczos.eigh()
    roots = np.append(values, lanczos.dropped)
    squares = np.exp(
        2 * (np.log(np.abs(spectrum[:, None] - roots)).sum(1) - np.log(lanczos.betas).sum())
    )
    couplings = lanczos.betas[-1] * vectors[-1]
    squares *= 1 + ((couplings / (spectrum[:, None] - values)) ** 2).sum(1)
    found = (lanczos._basis[: lanczos.columns + 1] ** 2).sum(0) / start**2
    np.testing.assert_allclose(found.numpy(), squares, rtol=1e-6)


def test_outer_bounds_never_widen_and_are_the_sharpest_of_all_steps():
    spectrum = np.r_[random_spectrum("bulk", 400, np.random.default_rng(4)), -0.48, -0.45, -0.4]
    widths = [
        extreme_eigenvalues(
            Diagonal(spectrum), certify=True, rtol=1e-9, max_matvecs=steps,
            basis_memory=basis_memory(403, 9),
        )
        for steps in range(2, 60)
    ]  # fmt: skip
    lowest = [ends.lambda_min.lower for ends in widths]
    assert (np.diff(lowest) >= -1e-9).all()
    assert lowest[-1] <= spectrum.min()


def hessian_like(rng, *, size=2000, like=4.7e5):
    """(eigenvalues, start) as of a trained ResNet-32: outliers on both sides of a narrow bulk.

    The outliers' components are those that they have in a space of `like` dimensions.
    """
    high = np.r_[350.0, rng.uniform(30, 200, 12), rng.uniform(5, 30, 40)]
    low = -np.r_[22.0, 20.0, 18.0, 16.5, rng.uniform(5, 15, 25)]
    outliers = np.r_[high, low]
    spectrum = np.r_[outliers, rng.laplace(0, 1, size - len(outliers)).clip(-4.9, 4.9)]
    start = rng.normal(size=size)
    start[: len(outliers)] *= np.sqrt(size / like)
    return spectrum, torch.from_numpy(start / np.linalg.norm(start))


def products(spectrum, start, capacity, *, delta=9e-7, limit=150):
    """Products until both outer bounds are within 2 % of the Ritz values; no bound may miss."""
    lanczos, best = Lanczos(Diagonal(spectrum), start, capacity=capacity), [-np.inf, np.inf]
    while lanczos.steps < limit:
        if lanczos.full:
            lanczos.restart()
        lanczos.step()
        values, vectors = lanczos.eigh()
        couplings = lanczos.betas[-1] * np.abs(vectors[-1])
        for end, sign in enumerate((1.0, -1.0)):
            bound = sign * outer_bound_after_restarts(
                sign * values, couplings, sign * np.asarray(lanczos.dropped), lanczos.betas,
                delta=delta,
            )  # fmt: skip
            best[end] = max(best[0], bound) if end == 0 else min(best[1], bound)
        assert best[0] <= spectrum.min() * (1 - 1e-12)
        assert best[1] >= spectrum.max() * (1 - 1e-12)
        gaps = np.abs(values[[0, -1]] - best) / np.abs(values[[0, -1]])
        if (gaps <= 0.02).all():
            break
    return lanczos.steps


def test_half_and_a_third_of_the_basis_cost_few_more_products():
    """1.2 and 1.4 times the products when written; the middle of the spectrum: 1.35 and 1.9."""
    ratios = []
    for seed in range(3):
        problem = hessian_like(np.random.default_rng(seed))
        full = products(*problem, 150)
        ratios.append([products(*problem, full // share) / full for share in (2, 3)])
    half, third = np.mean(ratios, axis=0)
    assert half <= 1.35
    assert third <= 1.6


def test_what_is_dropped_is_far_from_what_was_dropped():
    values = np.arange(12.0)
    assert farthest_from([], values, 1, low=1, high=1) == [5]
    # The widest gap that {2, 5} leave between the protected ends.
    assert farthest_from([2.0, 5.0], values, 1, low=3, high=3) == [8]
    # In units of the local spacing: 10 from a root in steps of 10 is nearer than 4 in steps of 1.
    values = np.r_[0.0, 1, 2, 3, 4, 5, 20, 30, 40, 50]
    assert farthest_from([0.0, 20.0], values, 1, low=1, high=1)[0] in (3, 4)
    # Coinciding values do not divide by zero.
    assert set(farthest_from([0.0], np.r_[-1.0, 0, 0, 0, 1], 1, low=1, high=1)) <= {1, 2, 3}


def test_protected_ends_are_kept():
    lanczos = Lanczos(Diagonal(np.arange(30.0)), random_start(30, seed=0), capacity=10)
    for _ in range(10):
        lanczos.step()
    before = lanczos.eigh()[0]
    lanczos.restart(low=1, high=7)
    assert set(before[[0, 1, 3, 4, 5, 6, 7, 8, 9]]) == set(np.diag(lanczos.projected))
    assert lanczos.dropped == [before[2]]


def test_nothing_to_drop_is_an_error():
    lanczos = Lanczos(Diagonal(np.arange(30.0)), random_start(30, seed=0), capacity=10)
    for _ in range(10):
        lanczos.step()
    with pytest.raises(UsageError, match="8 at the high one"):
        lanczos.restart(low=1, high=8)
