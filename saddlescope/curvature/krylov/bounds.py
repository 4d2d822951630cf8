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

After a restart the recurrence no longer holds, but the residual's vector is still a polynomial in
A applied to q_1, q_{k+1} = p(A)·q_1: its roots z are the current Ritz values and every one dropped
so far, and its leading coefficient is 1/Πβ over all steps, so log|p(λ)| = Σ log|λ − z| − Σ log β.
The current Ritz vectors y_i are orthonormal to it and to one another, and from
A·y_i = θ_i·y_i + β·s_i·q_{k+1} (s_i the last coordinate of y_i) follows
(λ − θ_i)·⟨v, y_i⟩ = β·s_i·⟨v, q_{k+1}⟩. Hence

    p(λ)² · (1 + Σ_i (β·s_i/(λ − θ_i))²) · ⟨v, q_1⟩² = ⟨v, q_{k+1}⟩² + Σ_i ⟨v, y_i⟩² <= 1,

which is the sum above where nothing was dropped. It may be less sharp than before a restart; but
every step's bound holds on the same event, so the sharpest one so far is kept.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import eigvalsh_tridiagonal
from scipy.special import logsumexp

from saddlescope.results import Number, text_of

_GRID = 48

_SLACK = 1e-6
"""Share of δ given up after a restart, for the rounding of what is summed."""


@dataclass(frozen=True, eq=False, repr=False)
class Estimate(Number):
    """Hold a value with a lower and an upper bound, and the residual norm behind it."""

    value: float
    lower: float
    upper: float
    residual: float = math.nan

    def __str__(self) -> str:
        return text_of(self.value, self.lower, self.upper)

    @property
    def half_width(self) -> float:
        """Return half of the interval's width."""
        return 0.5 * (self.upper - self.lower)


def start_component(size: int, miss: float) -> float:
    """Return δ such that |⟨v, q_1⟩| >= δ with probability ≥ 1 − `miss`, q_1 uniform in R^n."""
    return miss * math.sqrt(math.pi / (2 * size))


def outer_bound(
    alphas: ArrayLike, betas: Sequence[float], *, delta: float, rounding: float = 0.0
) -> float:
    """Return the point left of θ_min beyond which no eigenvalue lies while |⟨v_min, q_1⟩| >= δ.

    Args:
        alphas: k diagonal entries of T.
        betas: β_2 … β_{k+1}, the last one the residual's norm.
        delta: the assumed least start component, in (0, 1].
        rounding: absolute error of every β. Where one is no larger, as at a breakdown, it is not
            known, and the polynomials beyond it are smaller than they seem.

    Returns:
        A lower bound on λ_min. Mirror (−α) for an upper bound on λ_max.
    """
    diagonal, couplings = np.asarray(alphas, float), np.asarray(betas, float)
    scale = float(max(np.abs(diagonal).max(), couplings.max(), rounding))
    if scale == 0.0:
        return 0.0
    # In units of T, so that no square of an entry underflows or overflows.
    diagonal, couplings, rounding = diagonal / scale, couplings / scale, rounding / scale
    lowest = float(eigvalsh_tridiagonal(diagonal, couplings[:-1])[0])
    if couplings[-1] + rounding == 0.0:  # an invariant subspace: θ_min is an eigenvalue
        return scale * lowest
    return scale * _first_crossing(
        lambda points: log_christoffel(points, diagonal, couplings, rounding=rounding),
        lowest,
        delta,
    )


def outer_bound_after_restarts(
    values: ArrayLike,
    couplings: ArrayLike,
    dropped: ArrayLike,
    betas: Sequence[float],
    *,
    delta: float,
    rounding: float = 0.0,
) -> float:
    """Return what `outer_bound` does, after restarts; the same number where nothing was dropped.

    Args:
        values: current Ritz values θ_i, shape (k,).
        couplings: β·|s_i| of each: the norm of its residual, shape (k,).
        dropped: Ritz values given up at restarts.
        betas: β of every step, the last one the residual's norm.
        delta: the assumed least start component, in (0, 1].
        rounding: absolute error of every β.
    """
    ritz, coupled = np.asarray(values, float), np.asarray(couplings, float)
    zeros, steps = np.append(ritz, dropped), np.asarray(betas, float)
    if steps[-1] + rounding == 0.0:
        return float(ritz.min())
    scale = float(max(np.abs(zeros).max(), steps.max(), rounding))
    ritz, zeros, steps = ritz / scale, zeros / scale, steps / scale
    coupled, rounding = coupled / scale, rounding / scale
    # A larger β makes every p_j smaller, so that the bound holds for whatever the true β was.
    if steps[-1] > 0.0:  # what couples the Ritz vectors does not depend on the last β's error
        coupled = coupled * (1.0 + rounding / steps[-1])
    steps = steps + rounding
    with np.errstate(divide="ignore"):  # a Ritz vector that is exact has no coupling
        norm, log_coupled = np.log(steps).sum(), np.log(coupled)

    def log_square(points: np.ndarray) -> np.ndarray:
        # A point that is a root to rounding has no logarithm; the root's own term makes up for it.
        logs = np.log(np.maximum(np.abs(points[:, None] - zeros), np.finfo(float).tiny))
        last = logs.sum(1) - norm
        others = last[:, None] + log_coupled - logs[:, : len(ritz)]
        return np.asarray(logsumexp(2.0 * np.column_stack((last, others)), axis=1))

    # The last coordinate of a converged Ritz vector is known to some digits only.
    safe = delta * (1.0 - _SLACK)
    return scale * _first_crossing(log_square, float(zeros.min()), safe)


def _first_crossing(
    log_square: Callable[[np.ndarray], np.ndarray], lowest: float, delta: float
) -> float:
    """The point left of `lowest` where a function that grows leftwards reaches log 1/δ².

    All is in units of the matrix's norm.
    Its distance spans many magnitudes: bracket it on a geometric grid, then refine the bracket.
    The outer edge is returned, so that the grid never flatters the bound.
    """
    target = -2.0 * math.log(delta)
    # From below the rounding of θ_min to where even the polynomial of one step, which grows like
    # x/β, has reached 1/δ: at 10^(log 1/δ²) it has by far.
    exponents = np.linspace(-17.0, 3.0 + target, 2 * _GRID)
    grid, near, far = 10.0**exponents, 0.0, math.inf
    for _ in range(4):
        crossed = log_square(lowest - grid) >= target
        index = int(np.argmax(crossed)) if crossed.any() else len(grid) - 1
        near, far = (float(grid[index - 1]) if index else near), float(grid[index])
        grid = np.linspace(near, far, _GRID + 1)[1:]
    return lowest - far


def log_christoffel(
    points: np.ndarray,
    diagonal: Sequence[float] | np.ndarray,
    couplings: Sequence[float] | np.ndarray,
    *,
    rounding: float = 0.0,
) -> np.ndarray:
    """Return log Σ_{j=0}^{k} p_j(x)² at each x by the three-term recurrence, without overflow.

    β_{j+1}·p_j(x) = (x − α_j)·p_{j−1}(x) − β_j·p_{j−2}(x), with p_0 = 1.

    Args:
        points: shape (m,).
        diagonal: α_1 … α_k.
        couplings: β_2 … β_{k+1}.
        rounding: absolute error of every β; each p_j is divided by all that the β up to it may
            be too small by, Π(1 + rounding/β).

    Returns:
        Shape (m,), float64.
    """
    points = np.asarray(points, float)
    before, current = np.zeros_like(points), np.ones_like(points)
    total, log_scale = np.ones_like(points), np.zeros_like(points)
    previous_coupling = 0.0
    for alpha, beta in zip(diagonal, couplings, strict=True):
        # A β that is rounding itself would make p_j as large as one likes, and the bound as sharp.
        divisor = beta + rounding
        following = ((points - alpha) * current - previous_coupling * before) / divisor
        before, current, previous_coupling = current, following, beta * (beta / divisor)
        size = np.maximum(np.abs(current), np.sqrt(total))
        before, current, total = before / size, current / size, total / size**2
        total = total + current**2
        log_scale += np.log(size)
    return np.log(total) + 2.0 * log_scale


def ratio(largest: Estimate, smallest: Estimate) -> Estimate:
    """Return λ_ratio = |λ_max/λ_min| with the interval that the two intervals imply.

    Where λ_min's interval touches 0 the ratio is not resolved: its value is NaN, its upper
    bound infinite, its lower bound still what the intervals support.
    """
    top = _magnitudes(largest)
    bottom = _magnitudes(smallest)
    lower = top[0] / bottom[1] if bottom[1] > 0 else math.nan
    # λ_min may be 0: no upper bound on the ratio is left, but the lower one still is.
    if bottom[0] <= 0.0:
        return Estimate(math.nan, lower if math.isfinite(lower) else 0.0, math.inf)
    return Estimate(abs(largest.value / smallest.value), lower, top[1] / bottom[0])


def _magnitudes(estimate: Estimate) -> tuple[float, float]:
    """The range of |λ| over the interval."""
    ends = abs(estimate.lower), abs(estimate.upper)
    return (0.0 if estimate.lower <= 0.0 <= estimate.upper else min(ends)), max(ends)
