"""Both ends of a spectrum from one Krylov space, with error bounds that say what they are.

Three things are known of each end and none stands in for another:
the Ritz value lies inside the spectrum (rigorous, to rounding); the outer bound holds with the
stated confidence (`bounds`); the residual says how near some eigenvalue is, not which one.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np
import torch
from torch import Tensor

from saddlescope.curvature.keywords import gathered
from saddlescope.curvature.krylov.bounds import Estimate, ratio, start_component
from saddlescope.curvature.krylov.lanczos import Lanczos, random_start, room_for
from saddlescope.curvature.krylov.noise import product_noise
from saddlescope.curvature.krylov.outer import OuterBounds
from saddlescope.curvature.krylov.search import Search, SearchOptions
from saddlescope.curvature.objective import exact_arithmetic
from saddlescope.curvature.operators import OperatorLike, SymmetricOperator, as_operator
from saddlescope.curvature.products import TYPICAL_PRODUCTS
from saddlescope.errors import UsageError
from saddlescope.results import GREY, Result, draw_interval
from saddlescope.stages import counted
from saddlescope.stopping import StopOptions, StopRule

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Verdict = Literal["negative-curvature", "unresolved", "positive", "not-converged"]
StopReason = Literal[
    "residual", "residual-floor", "interval", "interval-floor", "exhausted", "max-matvecs"
]


@dataclass(frozen=True, repr=False)
class Ends(Result):
    """Hold both extreme eigenvalues of one operator.

    Attributes:
        lambda_max: largest eigenvalue, algebraically.
        lambda_min: smallest eigenvalue, algebraically.
        lambda_ratio: |λ_max/λ_min|.
        confidence: joint probability that all three intervals hold.
        matvecs: products used.
        noise: absolute rounding error of a product, by which the intervals were widened.
        stop_rule: why the iteration ended: "residual" (both residuals below rtol·|θ|),
            "residual-floor" (one of them only below the floor set by noise and atol),
            "interval" and "interval-floor" (the same of the intervals' half-widths),
            "exhausted" (the Krylov space is invariant to rounding: no product adds to it),
            "max-matvecs" (out of products).
        converged: whether it ended by another than the last.
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
    stop_rule: StopReason
    converged: bool
    verdict: Verdict
    eigenvectors: Tensor | None
    notes: tuple[str, ...]

    def columns(self) -> dict[str, list[Any]]:
        """Return λ_max, λ_min and λ_ratio, a row each, with their bounds."""
        three = [self.lambda_max, self.lambda_min, self.lambda_ratio]
        names = ["lambda_max", "lambda_min", "lambda_ratio"]
        ends = ("value", "lower", "upper", "residual")
        return {"name": names} | {end: [getattr(one, end) for one in three] for end in ends}

    def __repr__(self) -> str:
        return (
            f"λ_max {self.lambda_max}, λ_min {self.lambda_min}, λ_ratio {self.lambda_ratio}: "
            f"{self.verdict}, {self.matvecs} products"
        )

    def _draw(self, axes: "Axes") -> None:
        for row, one in enumerate((self.lambda_min, self.lambda_max)):
            draw_interval(axes, row, one.value, one.lower, one.upper, filled=self.converged)
        axes.axvline(0.0, color=GREY, linewidth=0.6, zorder=1)
        axes.set_yticks([0, 1], ["λ_min", "λ_max"])
        axes.set(ylim=(-0.6, 1.6), xlabel="eigenvalue", title=self.verdict)


class EndsOptions(StopOptions, SearchOptions, total=False):
    """Name every keyword of `extreme_eigenvalues`."""


@exact_arithmetic()
def extreme_eigenvalues(
    operator: OperatorLike,
    stop: StopRule = StopRule(),
    search: Search = Search(),
    **options: Unpack[EndsOptions],
) -> Ends:
    """Compute λ_max, λ_min and λ_ratio of a symmetric operator, with bounds.

    Args:
        operator: see `SymmetricOperator`; its `verify()` is called first if it has one, and its
            `check(vector)` on the final Ritz vectors; its `notes` are handed on.
        stop: how precisely, and when to give up; `Ends.stop_rule` says what has decided.
        search: where to start and what to keep.
        **options: single fields of these two: `rtol`, `atol`, `confidence`, `certify`,
            `max_matvecs`; `seed`, `noise`, `basis_memory`, `warm_start`, `eigenvectors`,
            `progress`.

    Returns:
        The ends; failing to converge is a result, not an exception.

    Raises:
        UsageError: an option out of range.
        OperatorError: NaN, Inf, or products that are not those of one symmetric matrix.

    Example:
        >>> import torch
        >>> from saddlescope.curvature import MatrixOperator
        >>> A = MatrixOperator(torch.diag(torch.tensor([3.0, 1.0, -2.0])).double())
        >>> ends = extreme_eigenvalues(A, rtol=1e-3)
        >>> round(ends.lambda_max.value, 6), round(ends.lambda_min.value, 6)
        (3.0, -2.0)
    """
    matrix = as_operator(operator)
    stop, search = gathered(options, stop, search)
    matrix.verify()
    epsilon = float(torch.finfo(matrix.dtype).eps)
    start, fresh = _start(matrix, search.seed, search.warm_start)
    capacity = room_for(matrix, stop.max_matvecs, search.basis_memory)
    lanczos = Lanczos(matrix, start, capacity=capacity)
    # Half of the allowed misses for each end, so that the row as a whole keeps its confidence.
    delta = fresh * start_component(matrix.size, 0.5 * (1.0 - stop.confidence))
    reason: StopReason = "max-matvecs"
    outer = OuterBounds(delta, dimension=matrix.size)
    theta = np.full(2, math.nan)
    products = counted(
        "eigenvalues",
        range(stop.max_matvecs),
        expect=min(TYPICAL_PRODUCTS, matrix.size),
        text=lambda done: f"product {done}, λ_max {theta[1]:.4g}, λ_min {theta[0]:.4g}",
    )
    for _ in products:
        if lanczos.full:
            lanczos.restart()
        lanczos.step()
        theta, weights = _ritz(lanczos)
        # Below the rounding of a product the recurrence's residual says nothing.
        residuals = np.maximum(lanczos.betas[-1] * np.abs(weights[-1]), epsilon * lanczos.scale)
        if search.progress is not None:
            search.progress(lanczos.steps, theta[1], theta[0])
        if lanczos.exhausted:
            reason = "exhausted"
            break
        known_noise = max(search.noise or 0.0, lanczos.noise)
        floor = max(known_noise, stop.floor * lanczos.scale)
        if stop.certify:
            outer.update(lanczos)
            found = _intervals(theta, residuals, outer, noise=known_noise)
            errors = np.array([found[0].half_width, found[1].half_width])
        else:
            errors = residuals
        small = lanczos.steps > 1 and bool(
            (errors <= np.maximum(stop.rtol * np.abs(theta), floor)).all()
        )
        if lanczos.ranks.first_says(small):
            within = (errors <= stop.rtol * np.abs(theta)).all()
            if stop.certify:
                reason = "interval" if within else "interval-floor"
            else:
                reason = "residual" if within else "residual-floor"
            break

    total_noise = max(search.noise or 0.0, lanczos.noise)
    matrix.check(lanczos.combine(weights.sum(1)))
    notes = list(matrix.notes)
    if search.noise is None:
        total_noise += _measure_noise(matrix, lanczos, weights, notes)
    if delta < 10 * epsilon:
        notes.append(
            f"the start component behind the bounds ({delta:.1e}) is near the rounding of "
            f"{str(matrix.dtype).removeprefix('torch.')} at n = {matrix.size}: read the outer "
            "bounds as estimates, lower the confidence, or use float64"
        )
    outer.update(lanczos)
    smallest, largest = _intervals(theta, residuals, outer, noise=total_noise)
    converged = reason != "max-matvecs"
    return Ends(
        lambda_max=largest,
        lambda_min=smallest,
        lambda_ratio=ratio(largest, smallest),
        confidence=stop.confidence,
        matvecs=lanczos.steps,
        noise=total_noise,
        stop_rule=reason,
        converged=converged,
        verdict=_verdict(smallest, converged=converged),
        # Rows: v_max, v_min.
        eigenvectors=lanczos.combine(weights[:, ::-1]) if search.eigenvectors else None,
        notes=tuple(notes),
    )


def _start(
    operator: SymmetricOperator, seed: int, warm_start: Tensor | None
) -> tuple[Tensor, float]:
    """The start vector, and the share of it that is fresh.

    With q = (u + x)/‖u + x‖, u uniform on the sphere and independent of x, the component
    ⟨v, u⟩ + ⟨v, x⟩ is least likely to be small when ⟨v, x⟩ = 0, so P(|⟨v, q⟩| < δ/‖u + x‖) is at
    most P(|⟨v, u⟩| < δ): a warm start multiplies δ by 1/‖u + x‖, about 0.7, and no more.
    """
    fresh = random_start(operator.size, seed=seed)
    if warm_start is None:
        return fresh, 1.0
    guess = warm_start.detach().double().cpu()
    if guess.shape != fresh.shape or not float(guess.norm()) > 0:
        raise UsageError(
            f"warm_start has shape {tuple(guess.shape)} and norm {float(guess.norm()):g}; "
            f"expected a finite vector of shape ({operator.size},), not zero"
        )
    mixed = fresh + guess / guess.norm()
    return mixed, 1.0 / float(mixed.norm())


def _ritz(lanczos: Lanczos) -> tuple[np.ndarray, np.ndarray]:
    """(θ_min, θ_max) and their coordinates in the basis, shape (k, 2), float64."""
    values, vectors = lanczos.eigh()
    return values[[0, -1]], vectors[:, [0, -1]]


def _measure_noise(
    operator: SymmetricOperator, lanczos: Lanczos, weights: np.ndarray, notes: list[str]
) -> float:
    """√2·‖(H₃₂ − H₆₄)·y‖ for y midway between v_max and v_min; H₃₂·y takes no further product.

    y holds each of the two with a weight of 1/√2, so an error along one of them alone, as the
    branch of a ReLU makes, is seen shrunken by that.
    """
    if operator.dtype == torch.float64:
        return 0.0
    mixture = weights.sum(1)
    mixture /= np.linalg.norm(mixture)
    vector, product = lanczos.combine(mixture), lanczos.image(mixture)
    return math.sqrt(2.0) * product_noise(operator, vector, product, lanczos.scale, notes)


def _intervals(
    theta: np.ndarray, residuals: np.ndarray, outer: OuterBounds, *, noise: float
) -> tuple[Estimate, Estimate]:
    """(λ_min, λ_max) with bounds."""
    low = outer.low - noise, float(theta[0]) + noise
    high = float(theta[1]) - noise, outer.high + noise
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
