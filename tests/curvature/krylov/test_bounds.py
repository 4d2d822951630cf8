"""The bounds against the truth they claim to contain.

The oracle is a diagonal matrix: its eigenvalues are written down, and Lanczos does not care
that it is diagonal, because the start vector is uniform on the sphere.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from saddlescope.curvature.krylov.bounds import (
    Estimate,
    log_christoffel,
    outer_bound,
    outer_bound_after_restarts,
    ratio,
    start_component,
)
from saddlescope.curvature.krylov.extreme import extreme_eigenvalues
from saddlescope.curvature.krylov.lanczos import Lanczos, random_start
from saddlescope.curvature.krylov.outer import OuterBounds
from saddlescope.curvature.operators.symmetric import MatrixOperator

KINDS = ("uniform", "clustered", "indefinite", "pairs", "low-rank", "bulk", "geometric")


def random_spectrum(kind: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """Spectra that are hard in different ways, clustered and indefinite ones among them."""
    if kind == "uniform":
        return rng.uniform(-1, 1, size)
    if kind == "clustered":
        return np.concatenate(
            [-1 + 1e-3 * rng.random(size // 2), 1 + 1e-3 * rng.random(size - size // 2)]
        )
    if kind == "indefinite":
        return np.concatenate([[-0.05], rng.random(size - 1)])
    if kind == "pairs":
        half = rng.random(size // 2)
        return np.concatenate([half, -half, np.zeros(size % 2)])
    if kind == "low-rank":
        return np.concatenate([rng.standard_normal(4), np.zeros(size - 4)])
    if kind == "bulk":  # like a Hessian: a bulk at zero, a few large, one small negative
        return np.concatenate([rng.normal(0, 0.01, size - 6), [-0.5], 10 * rng.random(5)])
    return np.concatenate([2.0 ** -np.arange(size - 1), [-0.3]])


def diagonal_run(spectrum: np.ndarray, start: np.ndarray, steps: int) -> Lanczos:
    class Diagonal:
        size, dtype, device = len(spectrum), torch.float64, torch.device("cpu")
        values = torch.from_numpy(spectrum)

        def matvec(self, vector):
            return self.values * vector

    lanczos = Lanczos(Diagonal(), torch.from_numpy(start), capacity=steps)
    while not lanczos.exhausted and lanczos.steps < lanczos.capacity:
        lanczos.step()
    return lanczos


def test_christoffel_sum_equals_its_definition():
    rng = np.random.default_rng(0)
    spectrum, start = rng.normal(size=30), rng.normal(size=30)
    lanczos = diagonal_run(spectrum, start, 8)
    # p_j(λ_i)·⟨e_i, q_1⟩ = ⟨e_i, q_{j+1}⟩, so the sum is Σ_j q_{j+1}[i]² / q_1[i]².
    basis = lanczos._basis[:9].numpy()
    truth = np.log((basis**2).sum(0) / basis[0] ** 2)
    found = log_christoffel(spectrum, lanczos.alphas, lanczos.betas)
    np.testing.assert_allclose(found, truth, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("size", [2, 3, 5, 50, 2000])
@pytest.mark.parametrize("miss", [0.5, 0.1, 0.001])
def test_start_component_is_exceeded_as_often_as_promised(size, miss):
    # x = ⟨v, q_1⟩ has x² ~ Beta(1/2, (n−1)/2).
    from scipy.stats import beta

    delta = start_component(size, miss)
    assert beta.cdf(delta**2, 0.5, (size - 1) / 2) <= miss * (1 + 1e-12)


@given(st.integers(0, 10**6), st.sampled_from(KINDS), st.integers(1, 25))
def test_bound_never_misses_when_the_start_component_is_as_assumed(seed, kind, steps):
    """Deterministic half of the statement: given |⟨v, q_1⟩| = δ, there is no miss at all."""
    rng = np.random.default_rng(seed)
    spectrum = random_spectrum(kind, 60, rng)
    start = rng.normal(size=60)
    lowest = int(np.argmin(spectrum))
    start /= np.linalg.norm(start)
    delta = abs(start[lowest])
    lanczos = diagonal_run(spectrum, start, steps)
    bound = outer_bound(lanczos.alphas, lanczos.betas, delta=delta)
    assert bound <= spectrum[lowest] + 1e-9 * np.abs(spectrum).max()


def test_bound_tightens_with_every_step():
    rng = np.random.default_rng(1)
    spectrum, start = random_spectrum("bulk", 200, rng), rng.normal(size=200)
    bounds = []
    for steps in (2, 4, 8, 16, 32):
        lanczos = diagonal_run(spectrum, start, steps)
        bounds.append(outer_bound(lanczos.alphas, lanczos.betas, delta=1e-4))
    assert bounds == sorted(bounds)
    assert bounds[-1] == pytest.approx(spectrum.min(), rel=1e-4)


@pytest.mark.parametrize("confidence", [0.9, 0.99])
def test_intervals_miss_no_more_often_than_stated(confidence):
    """1,400 random problems a confidence; a miss is any of the three intervals missing."""
    misses = trials = 0
    for kind in KINDS:
        for seed in range(200):
            rng = np.random.default_rng(seed)
            spectrum = random_spectrum(kind, 40, rng)
            matrix = torch.from_numpy(np.diag(spectrum))
            ends = extreme_eigenvalues(
                MatrixOperator(matrix), confidence=confidence, seed=seed, max_matvecs=12
            )
            top, bottom = spectrum.max(), spectrum.min()
            true_ratio = abs(top / bottom) if bottom else math.inf
            misses += not (
                ends.lambda_max.lower <= top <= ends.lambda_max.upper
                and ends.lambda_min.lower <= bottom <= ends.lambda_min.upper
                and ends.lambda_ratio.lower <= true_ratio * (1 + 1e-9)
                and true_ratio <= ends.lambda_ratio.upper * (1 + 1e-9)
            )
            trials += 1
    verdict = binomtest(misses, trials, 1 - confidence, alternative="greater")
    assert verdict.pvalue > 1e-3, f"{misses} misses in {trials} at confidence {confidence}"


def test_float32_intervals_hold_the_float64_truth():
    """Without the measured noise, converged float32 intervals exclude the truth by rounding."""
    misses = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        basis, _ = np.linalg.qr(rng.normal(size=(80, 80)))
        spectrum = random_spectrum("bulk", 80, rng)
        exact = (basis * spectrum) @ basis.T
        exact = torch.from_numpy((exact + exact.T) / 2)
        ends = extreme_eigenvalues(
            MatrixOperator(exact.float(), exact=exact), certify=True, rtol=1e-6, seed=seed
        )
        misses += not ends.lambda_min.lower <= spectrum.min() <= ends.lambda_min.upper
        misses += not ends.lambda_max.lower <= spectrum.max() <= ends.lambda_max.upper
    assert misses == 0


class TestRatio:
    def test_both_signs(self):
        found = ratio(Estimate(10, 9, 11), Estimate(-2, -2.5, -1.5))
        assert found.value == 5
        assert (found.lower, found.upper) == pytest.approx((9 / 2.5, 11 / 1.5))

    def test_interval_touching_zero_is_unresolved(self):
        found = ratio(Estimate(10, 9, 11), Estimate(-0.1, -0.5, 0.1))
        assert math.isnan(found.value)
        assert (found.lower, found.upper) == (18.0, math.inf)

    def test_zero_operator(self):
        found = ratio(Estimate(0, 0, 0), Estimate(0, 0, 0))
        assert math.isnan(found.value)
        assert (found.lower, found.upper) == (0.0, math.inf)

    @given(*[st.floats(-10, 10) for _ in range(4)], st.floats(0, 1), st.floats(0, 1))
    def test_contains_every_ratio_of_members(self, a, b, c, d, s, t):
        high, low = Estimate(b, *sorted((a, b))), Estimate(d, *sorted((c, d)))
        top = high.lower + s * (high.upper - high.lower)
        bottom = low.lower + t * (low.upper - low.lower)
        found = ratio(high, low)
        if bottom != 0:
            value = abs(top / bottom)
            assert found.lower * (1 - 1e-9) <= value
            assert value <= found.upper * (1 + 1e-9)


def test_random_start_is_a_reproducible_unit_vector():
    assert torch.equal(random_start(100, seed=3), random_start(100, seed=3))
    assert random_start(100, seed=3).norm() == pytest.approx(1.0)
    assert not torch.equal(random_start(100, seed=3), random_start(100, seed=4))


def test_an_exhausted_space_claims_no_more_than_it_knows():
    """λ_min hides 3e-12 beside a cluster, with a component δ: the first β is rounding."""
    size, delta = 50, 1e-4
    spectrum, start = np.ones(size), np.ones(size)
    spectrum[0] -= 3e-12
    start[0] = delta * math.sqrt(size)
    lanczos = diagonal_run(spectrum, start, 5)
    assert lanczos.exhausted
    assert lanczos.eigh()[0][0] - spectrum[0] > 1e-12
    lanczos.betas[-1] *= 1e-3  # as rounding might have left it: not one digit of it is known
    outer = OuterBounds(delta * (1 - 1e-6), dimension=size)
    outer.update(lanczos)
    assert outer.low <= spectrum[0]
    assert outer.high >= spectrum.max()
    assert outer.high - outer.low < 1e-9


def test_rounding_of_the_couplings_widens_the_bound():
    rng = np.random.default_rng(3)
    lanczos = diagonal_run(rng.normal(size=60), rng.normal(size=60), 9)
    values, vectors = lanczos.eigh()
    coupled = lanczos.betas[-1] * np.abs(vectors[-1])

    def both(rounding):
        known = {"delta": 1e-3, "rounding": rounding}
        return (
            outer_bound(lanczos.alphas, lanczos.betas, **known),
            outer_bound_after_restarts(values, coupled, [], lanczos.betas, **known),
        )

    found = [both(rounding) for rounding in (0.0, 1e-3, 1e-1)]
    for wide, sharp in zip(found[1:], found, strict=False):
        assert wide[0] < sharp[0]
        assert wide[1] < sharp[1]


def test_rounding_of_a_single_coupling_enlarges_it():
    """k = 1: no eigenvalue where 1 + (x − α)²/(β + rounding)² > 1/δ²."""
    alpha, beta, delta, rounding = 0.7, 1e-3, 1e-2, 4e-3
    wanted = alpha - (beta + rounding) * math.sqrt(1 / delta**2 - 1)
    known = {"delta": delta, "rounding": rounding}
    assert outer_bound([alpha], [beta], **known) == pytest.approx(wanted, rel=1e-5)
    restarted = outer_bound_after_restarts([alpha], [beta], [], [beta], **known)
    assert restarted == pytest.approx(wanted, rel=1e-5)
