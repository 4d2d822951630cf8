"""Both ends of a spectrum from one Krylov space, with error bounds that say what they are.

Rule 3 of the instrument. Three things are known of each end and none stands in for another:
the Ritz value lies inside the spectrum (rigorous, to rounding); the outer bound holds with the
stated confidence (`bounds`); the residual says how near some eigenvalue is, not which one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from saddlescope.curvature.bounds import (
    Estimate,
    interval_high,
    interval_low,
    ratio,
    start_component,
)
from saddlescope.curvature.lanczos import Lanczos, random_start
from saddlescope.curvature.operators import SymmetricOperator
from saddlescope.errors import OperatorError, UsageError

Verdict = Literal["negative-curvature", "unresolved", "positive", "not-converged"]
StopRule = Literal["residual", "residual-floor", "interval", "exhausted", "max-matvecs"]


@dataclass(frozen=True)
class Ends:
    """Both extreme eigenvalues of one operator.

    Attributes:
        lambda_max: largest eigenvalue, algebraically.
        lambda_min: smallest eigenvalue, algebraically.
        lambda_ratio: |λ_max/λ_min|.
        confidence: joint probability that all three intervals hold.
        matvecs: products used.
        noise: absolute rounding error of a product, by which the intervals were widened.
        stop_rule: why the iteration ended: "residual" (both residuals below rtol·|θ|),
            "residual-floor" (one of them only below the floor set by noise and atol),
            "interval" (both intervals narrow enough), "exhausted" (the Krylov space is
            invariant: exact to noise), "max-matvecs" (out of products).
        converged: whether it ended by one of the first four.
        verdict: what the interval of λ_min supports.
        eigenvectors: shape (2, n): v_max, v_min; None unless asked for.
        notes: what a careful reader should know, one sentence each.
    """

    lambda_max: Estimate
    lambda_min: Estimate
    lambda_ratio: Estimate
    confidence: float
    matvecs: int
    noise: float
    stop_rule: StopRule
    converged: bool
    verdict: Verdict
    eigenvectors: Tensor | None
    notes: tuple[str, ...]


def extreme_eigenvalues(
    operator: SymmetricOperator,
    *,
    rtol: float = 1e-2,
    atol: float = 1e-5,
    confidence: float = 0.999,
    certify: bool = False,
    max_matvecs: int = 200,
    seed: int = 0,
    noise: float | None = None,
    eigenvectors: bool = False,
    progress: Callable[[int, float, float], None] | None = None,
) -> Ends:
    """Compute λ_max, λ_min and λ_ratio of a symmetric operator, with bounds.

    Args:
        operator: see `SymmetricOperator`; its `verify()` is called first if it has one.
        rtol: stop when both residuals (with `certify`, both intervals' half-widths) are below
            this share of their own Ritz value …
        atol: … or below this share of ‖T‖, or below the noise: a semidefinite operator must
            stop too.
        confidence: joint probability of the row's intervals, λ_ratio included.
        certify: stop on the intervals instead of the residuals.
        max_matvecs: give up after this many products.
        seed: of the start vector.
        noise: absolute rounding error of a product; None measures it against the operator's
            float64 `reference()` at the end.
        eigenvectors: also return v_max and v_min.
        progress: called after each product with (products, θ_max, θ_min).

    Returns:
        The ends; failing to converge is a result, not an exception.

    Raises:
        UsageError: an option out of range.
        OperatorError: NaN, Inf, or products that are not those of one symmetric matrix.
    """
    _check_options(rtol, atol, confidence, max_matvecs)
    if hasattr(operator, "verify"):
        operator.verify()
    epsilon = float(torch.finfo(operator.dtype).eps)
    lanczos = Lanczos(operator, random_start(operator.size, seed=seed), capacity=max_matvecs)
    # Half of the allowed misses for each end, so that the row as a whole keeps its confidence.
    delta = start_component(operator.size, 0.5 * (1.0 - confidence))
    stop: StopRule = "max-matvecs"
    while lanczos.steps < lanczos.capacity:
        lanczos.step()
        theta, weights = _ritz(lanczos)
        # Below the rounding of a product the recurrence's residual says nothing.
        residuals = np.maximum(lanczos.betas[-1] * np.abs(weights[-1]), epsilon * lanczos.scale)
        if progress is not None:
            progress(lanczos.steps, theta[1], theta[0])
        if lanczos.exhausted:
            stop = "exhausted"
            break
        known_noise = _known_noise(lanczos, noise, epsilon)
        floor = max(known_noise, atol * lanczos.scale)
        if certify:
            found = _intervals(lanczos, theta, residuals, delta=delta, noise=known_noise)
            errors = np.array([found[0].half_width, found[1].half_width])
        else:
            errors = residuals
        if lanczos.steps > 1 and (errors <= np.maximum(rtol * np.abs(theta), floor)).all():
            within = (errors <= rtol * np.abs(theta)).all()
            stop = "interval" if certify else ("residual" if within else "residual-floor")
            break

    total_noise = _known_noise(lanczos, noise, epsilon)
    notes: list[str] = []
    if noise is None:
        total_noise = max(total_noise, _measure_noise(operator, lanczos, weights, notes))
    if delta < 10 * epsilon:
        notes.append(
            f"the start component behind the bounds ({delta:.1e}) is near the rounding of "
            f"{str(operator.dtype).removeprefix('torch.')} at n = {operator.size}: read the outer "
            "bounds as estimates, lower the confidence, or use float64"
        )
    smallest, largest = _intervals(lanczos, theta, residuals, delta=delta, noise=total_noise)
    converged = stop != "max-matvecs"
    return Ends(
        lambda_max=largest,
        lambda_min=smallest,
        lambda_ratio=ratio(largest, smallest),
        confidence=confidence,
        matvecs=lanczos.steps,
        noise=total_noise,
        stop_rule=stop,
        converged=converged,
        verdict=_verdict(smallest, converged=converged),
        # Rows: v_max, v_min.
        eigenvectors=lanczos.combine(weights[:, ::-1]) if eigenvectors else None,
        notes=tuple(notes),
    )


def _check_options(rtol: float, atol: float, confidence: float, max_matvecs: int) -> None:
    if not 0.0 < rtol < 1.0:
        raise UsageError(f"rtol = {rtol}: expected a number between 0 and 1")
    if not 0.0 <= atol < 1.0:
        raise UsageError(f"atol = {atol}: expected a number from 0 to 1")
    if not 0.0 < confidence < 1.0:
        raise UsageError(f"confidence = {confidence}: expected a probability between 0 and 1")
    if max_matvecs < 1:
        raise UsageError(f"max_matvecs = {max_matvecs}: expected at least 1")


def _ritz(lanczos: Lanczos) -> tuple[np.ndarray, np.ndarray]:
    """(θ_min, θ_max) and their coordinates in the basis, shape (k, 2), float64."""
    values, vectors = eigh_tridiagonal(
        np.asarray(lanczos.alphas), np.asarray(lanczos.betas[: lanczos.steps - 1])
    )
    return values[[0, -1]], vectors[:, [0, -1]]


def _known_noise(lanczos: Lanczos, given: float | None, epsilon: float) -> float:
    """The noise that needs no extra product: rounding of the dtype, and asymmetry seen."""
    return max(given or 0.0, lanczos.asymmetry, 8 * epsilon * lanczos.scale)


def _measure_noise(
    operator: SymmetricOperator, lanczos: Lanczos, weights: np.ndarray, notes: list[str]
) -> float:
    """‖(H₃₂ − H₆₄)·y‖ for y midway between v_max and v_min.

    H₃₂·y is known from the Lanczos relation, so that one float64 product is all it takes. All
    samples take part: where a ReLU's input changes sign between the two precisions, one sample
    can carry the whole error.
    """
    if operator.dtype == torch.float64:
        return 0.0
    reference = operator.reference() if hasattr(operator, "reference") else None
    if reference is None:
        notes.append("noise: no float64 reference at hand; taken from the asymmetry alone")
        return 0.0
    mixture = weights.sum(1)
    mixture /= np.linalg.norm(mixture)
    exact = reference.matvec(lanczos.combine(mixture).double())
    error = float((lanczos.image(mixture).double() - exact).norm())
    if hasattr(operator, "gradient_cost"):
        operator.gradient_cost += getattr(reference, "gradient_cost", 0.0)
    scale = lanczos.scale
    if not error <= 0.1 * scale:
        raise OperatorError(
            f"a product differs from its float64 value by {error:.3g} where ‖H‖ is about "
            f"{scale:.3g}: the model is random, or its arithmetic is not {operator.dtype}"
        )
    return error


def _intervals(
    lanczos: Lanczos, theta: np.ndarray, residuals: np.ndarray, *, delta: float, noise: float
) -> tuple[Estimate, Estimate]:
    """(λ_min, λ_max) with bounds."""
    if lanczos.exhausted:  # an invariant subspace: Ritz values are eigenvalues, to noise
        low, high = ((value - noise, value + noise) for value in theta.tolist())
    else:
        low = interval_low(lanczos.alphas, lanczos.betas, delta=delta, noise=noise)
        high = interval_high(lanczos.alphas, lanczos.betas, delta=delta, noise=noise)
    return (
        Estimate(float(theta[0]), *low, float(residuals[0])),
        Estimate(float(theta[1]), *high, float(residuals[1])),
    )


def _verdict(smallest: Estimate, *, converged: bool) -> Verdict:
    if not converged:
        return "not-converged"
    if smallest.upper < 0.0:
        return "negative-curvature"
    if smallest.lower > 0.0:
        return "positive"
    return "unresolved"
