"""Probabilistic bounds on the extreme eigenvalues, from the tridiagonal matrix alone.

Source: van Dorsselaer, Hochstenbach, van der Vorst, "Computing probabilistic bounds for extreme
eigenvalues of symmetric matrices with the Lanczos method", SIAM J. Matrix Anal. Appl. 22 (2000).

Let q_1 be uniform on the sphere of R^n and v a unit eigenvector for the eigenvalue λ. Then
|⟨v, q_1⟩| >= δ = ε·sqrt(π/(2n)) with probability at least 1 − ε. With the orthonormal Lanczos
polynomials p_j, ⟨v, q_{j+1}⟩ = p_j(λ)·⟨v, q_1⟩; and because the q_j are orthonormal,

    Σ_{j=0}^{k} p_j(λ)² · ⟨v, q_1⟩² = Σ_j ⟨v, q_{j+1}⟩² <= 1.

So on that event no eigenvalue lies where Σ_j p_j(x)² > 1/δ². (The paper uses |p_k| <= 1/δ
alone; the sum contains that term and is sharper.) Outside the Ritz values the sum grows
monotonically, so one root on either side is the bound. The event speaks of q_1 only, not of k:
looking at every step costs no confidence.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_GRID = 48


@dataclass(frozen=True)
class Estimate:
    """A value with a lower and an upper bound, and the residual norm behind it."""

    value: float
    lower: float
    upper: float
    residual: float = math.nan

    @property
    def half_width(self) -> float:
        """Half of the interval's width."""
        return 0.5 * (self.upper - self.lower)


def start_component(size: int, miss: float) -> float:
    """δ such that |⟨v, q_1⟩| >= δ with probability at least 1 − `miss`, q_1 uniform in R^n."""
    return miss * math.sqrt(math.pi / (2 * size))


def outer_bound(alphas: Sequence[float], betas: Sequence[float], *, delta: float) -> float:
    """The point left of θ_min beyond which no eigenvalue lies while |⟨v_min, q_1⟩| >= δ.

    Args:
        alphas: k diagonal entries of T.
        betas: β_2 … β_{k+1}, the last one the residual's norm.
        delta: the assumed least start component, in (0, 1].

    Returns:
        A lower bound on λ_min. Mirror (−α) for an upper bound on λ_max.
    """
    from scipy.linalg import eigvalsh_tridiagonal

    diagonal, couplings = np.asarray(alphas, float), np.asarray(betas, float)
    k = len(diagonal)
    lowest = (
        eigvalsh_tridiagonal(diagonal, couplings[: k - 1], select="i", select_range=(0, 0))[0]
        if k > 1
        else diagonal[0]
    )
    scale = max(np.abs(diagonal).max(), couplings.max())
    if scale == 0.0 or couplings[-1] == 0.0:  # an invariant subspace: θ_min is an eigenvalue
        return float(lowest)
    target = -2.0 * math.log(delta)
    # The distance below θ_min spans many magnitudes: bracket it on a geometric grid, then
    # refine the bracket; its outer edge is returned, so that the grid never flatters the bound.
    exponents = np.linspace(-17.0, 3.0 + target, 2 * _GRID)
    near, far = _bracket(scale * 10.0**exponents, lowest, diagonal, couplings, target)
    for _ in range(3):
        near, far = _bracket(
            np.linspace(near, far, _GRID + 1)[1:], lowest, diagonal, couplings, target, near
        )
    return float(lowest - far)


def _bracket(
    distances: np.ndarray,
    lowest: float,
    diagonal: np.ndarray,
    couplings: np.ndarray,
    target: float,
    near: float = 0.0,
) -> tuple[float, float]:
    """The neighbouring distances between which log Σ p_j² crosses `target`."""
    crossed = log_christoffel(lowest - distances, diagonal, couplings) >= target
    index = int(np.argmax(crossed)) if crossed.any() else len(distances) - 1
    return (float(distances[index - 1]) if index else near), float(distances[index])


def log_christoffel(
    points: np.ndarray,
    diagonal: Sequence[float] | np.ndarray,
    couplings: Sequence[float] | np.ndarray,
) -> np.ndarray:
    """Log Σ_{j=0}^{k} p_j(x)² at each x, by the three-term recurrence, scaled against overflow.

    β_{j+1}·p_j(x) = (x − α_j)·p_{j−1}(x) − β_j·p_{j−2}(x), with p_0 = 1.

    Args:
        points: shape (m,).
        diagonal: α_1 … α_k.
        couplings: β_2 … β_{k+1}.

    Returns:
        Shape (m,), float64.
    """
    points = np.asarray(points, float)
    before, current = np.zeros_like(points), np.ones_like(points)
    total, log_scale = np.ones_like(points), np.zeros_like(points)
    previous_coupling = 0.0
    for alpha, beta in zip(diagonal, couplings, strict=True):
        # Divide by β only where that is harmless: a breakdown's β is tiny and positive.
        following = ((points - alpha) * current - previous_coupling * before) / beta
        before, current, previous_coupling = current, following, beta
        size = np.maximum(np.abs(current), np.sqrt(total))
        before, current, total = before / size, current / size, total / size**2
        total = total + current**2
        log_scale += np.log(size)
    return np.log(total) + 2.0 * log_scale


def interval_low(
    alphas: Sequence[float], betas: Sequence[float], *, delta: float, noise: float
) -> tuple[float, float]:
    """[lower, upper] of λ_min, rounding included: outer bound − noise, θ_min + noise."""
    from scipy.linalg import eigvalsh_tridiagonal

    ritz = eigvalsh_tridiagonal(np.asarray(alphas), np.asarray(betas[: len(alphas) - 1]))[0]
    return outer_bound(alphas, betas, delta=delta) - noise, float(ritz) + noise


def interval_high(
    alphas: Sequence[float], betas: Sequence[float], *, delta: float, noise: float
) -> tuple[float, float]:
    """[lower, upper] of λ_max: the mirror image of `interval_low`."""
    lower, upper = interval_low([-a for a in alphas], betas, delta=delta, noise=noise)
    return -upper, -lower


def ratio(largest: Estimate, smallest: Estimate) -> Estimate:
    """λ_ratio = |λ_max/λ_min| with the interval that the two intervals imply.

    Where λ_min's interval touches 0 the ratio is not resolved: its value is NaN, its upper
    bound infinite, its lower bound still what the intervals support.
    """
    top = _magnitudes(largest)
    bottom = _magnitudes(smallest)
    lower = top[0] / bottom[1] if bottom[1] > 0 else math.nan
    if bottom[0] <= 0.0:
        return Estimate(math.nan, lower if math.isfinite(lower) else 0.0, math.inf)
    return Estimate(abs(largest.value / smallest.value), lower, top[1] / bottom[0])


def _magnitudes(estimate: Estimate) -> tuple[float, float]:
    """The range of |λ| over the interval."""
    ends = abs(estimate.lower), abs(estimate.upper)
    return (0.0 if estimate.lower <= 0.0 <= estimate.upper else min(ends)), max(ends)
