"""Theorem 1: where λ_min is negative enough, SAM's component along v_min exceeds SGD's.

Eq. 6 under the threshold of its hypothesis, which contains L, the largest gradient norm over both
trajectories, SAM's own included. With k = 1 + η|λ| and the threshold met, SAM's factor along v_min
is f_s = k − ηρλ²/‖∇L(w̃_s)‖ <= −(1 + μk): the component flips its sign at every step and grows. So
|⟨v, ∇L(w_0)⟩| <= L·(1 + μk)^(−t), and in one dimension, where the gradient is that component, the
hypothesis cannot be met. Instances are drawn accordingly: a gradient in flat directions that
carries the norm, and a component along v_min small enough to stay below it for t steps.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from saddlescope.errors import UsageError
from saddlescope.theory.statements import Instances, Judgement, Shape, Statement
from saddlescope.theory.trajectories import Array, Part, norm, walk

MOST_DIMENSIONS = 50
MOST_STEPS = 20


def threshold(slope: Array, eta: Array, rho: Array, mu: Array) -> Array:
    """Compute the |λ_min| from which the hypothesis holds, for L = slope.

    The positive root x of (ηρ/L)x² − (1+μ)ηx − (2+μ) = 0.
    """
    half = (1.0 + mu) / 2.0 * eta
    return slope / (eta * rho) * (half + np.sqrt(half**2 + (2.0 + mu) * eta * rho / slope))


def trajectories(instances: Instances, steps: int) -> dict[str, Array]:
    """Walk both methods from w_0.

    Returns:
        `sgd` and `sam`: ⟨v_min, w_t − w_0⟩ after `steps`, shape (N,); `slope`: L; `sam_gradients`:
        SAM's component of the gradient along v_min, shape (steps + 1, N).
    """
    gradient, eigenvalues, eta = (instances[key] for key in ("gradient", "eigenvalues", "eta"))
    rho = instances["rho"]
    found: dict[str, Array] = {}
    slope = np.zeros(len(gradient))
    for name, radius in (("sgd", np.zeros_like(rho)), ("sam", rho)):
        along = []
        for displacement, (here,) in walk([Part(gradient, eigenvalues, radius)], eta, steps):
            slope = np.maximum(slope, norm(here))
            along.append(here[:, 0])
            found[name] = displacement[:, 0]  # the last one stays
        found[f"{name}_gradients"] = np.array(along)
    return found | {"slope": slope}


def judge(instances: Instances, shape: Shape) -> Judgement:
    """Judge Eq. 6; the slack is its sides' difference in units of |⟨v_min, ∇L(w_0)⟩|/|λ_min|."""
    steps = shape["steps"]
    with np.errstate(over="ignore", invalid="ignore"):
        found = trajectories(instances, steps)
        mu, size = instances["mu"], -instances["eigenvalues"][:, 0]
        first = np.abs(instances["gradient"][:, 0])
        needed = threshold(found["slope"], instances["eta"], instances["rho"], mu)
        finite = np.isfinite(found["slope"]) & np.isfinite(found["sam"])
        hypothesis = finite & (size >= needed) & (first > 0) & (mu >= 1)
        right = mu * np.abs(found["sgd"])
        unit = np.where(first > 0, first, 1.0) / size
        slack = (np.abs(found["sam"]) - right) / unit - ((mu**2 + mu) * steps - 2 * mu**2 - mu)
        signs = np.sign(found["sam_gradients"])
    alternating = (signs[1:] == -signs[:-1]).all(0)
    return Judgement(hypothesis, slack, {"alternating sign": alternating})


def decode(points: Array, shape: Shape) -> Instances:
    """Make instances near the edge of the hypothesis, on either side of it."""
    dimension, steps = shape["dimension"], shape["steps"]
    free = iter(points.T)
    size = 10.0 ** (2.0 * next(free) - 1.0)  # |λ_min|
    length = 10.0 ** (2.0 * next(free) - 1.0)  # of the gradient
    a = 10.0 ** (4.0 * next(free) - 3.0)  # η|λ_min|
    mu = 1.0 + 4.0 * next(free)
    # Theorem 1 needs b = ρ|λ|/L of at least this.
    b = ((1.0 + mu) + (2.0 + mu) / a) * (1.0 + 10.0 ** (3.5 * next(free) - 3.0))
    growth = a * b - (1.0 + a)  # |f| at ‖∇L‖ = L
    relative = np.empty((len(points), dimension))
    gradient = np.empty_like(relative)
    relative[:, 0] = -1.0
    sign = np.where(next(free) < 0.5, -1.0, 1.0)
    gradient[:, 0] = sign * growth ** (-float(steps)) * 10.0 ** (-3.0 * next(free))
    # The carrier of the norm: flat enough that neither method moves it much.
    ratio = 10.0 ** (2.0 * next(free))  # λ_max/|λ_min|
    for index in range(1, dimension):
        where, how_much, flat = next(free), next(free), next(free)
        if index == 1:
            reach = np.minimum(1.0, 0.1 / np.sqrt(a * b))
            relative[:, 1] = reach * (2.0 * where - 1.0)
            gradient[:, 1] = 0.5 + 0.5 * how_much
            continue
        reach = np.where(flat < 0.5, np.minimum(1.0, 0.3 / np.sqrt(a * b)), ratio)
        relative[:, index] = np.where(flat < 0.5, reach * (2 * where - 1), reach * where)
        factor = np.abs(1.0 - a * relative[:, index] - a * b * relative[:, index] ** 2)
        stays = np.maximum(1.0, factor) ** (-float(steps))
        gradient[:, index] = stays * 10.0 ** (-3.0 * how_much) / math.sqrt(dimension)
    gradient *= length[:, None]
    return {
        "eigenvalues": relative * size[:, None],
        "gradient": gradient,
        "eta": a / size,
        "rho": b * length / size,
        "mu": mu,
    }


def unknowns(shape: Shape) -> int:
    """Coordinates of the unit cube that `decode` reads."""
    return 8 + 3 * (shape["dimension"] - 1)


def _draw(generator: np.random.Generator) -> Shape:
    return {
        "dimension": int(generator.integers(2, MOST_DIMENSIONS + 1)),
        "steps": int(generator.integers(1, MOST_STEPS + 1)),
    }


_SAYS = "λ_min below the threshold ⇒ Eq. 6: |⟨v, w̃_t − w_0⟩| >= μ|⟨v, w_t − w_0⟩| + …"

THEOREM_1 = Statement(
    key="theorem1",
    variant="as printed",
    says=_SAYS,
    draw_shape=_draw,
    unknowns=unknowns,
    decode=decode,
    judge=judge,
)
ONE_DIMENSION = replace(
    THEOREM_1,
    variant="in one dimension",
    says="the same, the gradient parallel to v_min: the hypothesis cannot be met",
    draw_shape=lambda generator: {"dimension": 1, "steps": int(generator.integers(1, 21))},
    expected=None,
)


def largest_horizon(
    dimension: int, alignment: float, *, a: float = 0.1, mu: float = 1.0, slack: float = 2.0
) -> int:
    """Count the steps that the hypothesis goes on holding: the largest t; 0 where never.

    The gradient has length 1, the component `alignment` along v_min, and the rest spread evenly
    over flat directions (eigenvalue 0), which is as favourable as can be.

    Args:
        dimension: d >= 1; in one dimension the alignment is 1 whatever is said.
        alignment: |⟨v_min, ∇L(w_0)⟩|/‖∇L(w_0)‖, in (0, 1].
        a: η|λ_min|.
        mu: μ.
        slack: ρ|λ_min|/‖∇L(w_0)‖ over the least that Theorem 1 can do with.
    """
    if not alignment > 0 or not mu >= 1:
        return 0
    gradient = np.zeros((1, dimension))
    gradient[0, 0] = alignment if dimension > 1 else 1.0
    if dimension > 1:
        gradient[0, 1:] = math.sqrt((1.0 - alignment**2) / (dimension - 1))
    eigenvalues = np.zeros((1, dimension))
    eigenvalues[0, 0] = -1.0
    eta, rho = np.array([a]), np.array([slack * _least_radius(a, mu)])
    # Both methods side by side, a step at a time: what `judge` asks of t steps, it asks of the
    # largest gradient so far, so that no t walks from the start again.
    most = 10 + math.ceil(_limit(alignment, a, mu))  # and some for rounding
    walks = [
        walk([Part(gradient, eigenvalues, radius)], eta, most)
        for radius in (np.zeros_like(rho), rho)
    ]
    slope = np.zeros(1)
    with np.errstate(over="ignore", invalid="ignore"):
        for steps, ((_, (plain,)), (moved, (sharp,))) in enumerate(zip(*walks, strict=True)):
            slope = np.maximum(slope, np.maximum(norm(plain), norm(sharp)))
            finite = np.isfinite(slope) & np.isfinite(moved[:, 0])
            holds = finite & (threshold(slope, eta, rho, np.array([mu])) <= 1.0)
            if steps and not holds[0]:
                return steps - 1
    return most


def _limit(alignment: float, a: float, mu: float) -> float:
    """The t that |G_0| <= L·(1 + μk)^(−t) allows at most."""
    return -math.log(alignment) / math.log(1.0 + mu * (1.0 + a))


def _least_radius(a: float, mu: float) -> float:
    """ρ|λ_min|/‖∇L(w_0)‖ that Theorem 1 can do with at least."""
    return (1.0 + mu) + (2.0 + mu) / a


MOST_HORIZON_DIMENSIONS = 1_000_000
"""More would only cost memory: of the flat directions the horizon sees nothing but their norm."""
_SLACKS = (1.0001, 1.001, 1.01, 1.1, 1.5, 2.0, 4.0)
"""Of ρ over the least that will do; a little more than the least lets the hypothesis last."""


def horizon_table(
    dimensions: Sequence[int], alignments: Sequence[float], *, a: float = 0.1, mu: float = 1.0
) -> list[dict[str, float]]:
    """Find the largest horizon t at which the hypothesis can hold, by dimension and alignment.

    Args:
        dimensions: each from 1 to `MOST_HORIZON_DIMENSIONS`.
        alignments: |⟨v_min, ∇L(w_0)⟩|/‖∇L(w_0)‖, each in (0, 1].
        a: η|λ_min| > 0, so large that its inverse, and so small that its square, is finite.
        mu: μ >= 1.

    Returns:
        One row a pair; `limit` is what |G_0| <= L·(1 + μk)^(−t) allows at most.

    Raises:
        UsageError: a number out of its range.
    """
    if not all(1 <= d <= MOST_HORIZON_DIMENSIONS for d in dimensions):
        raise UsageError(
            f"dimensions {min(dimensions)} to {max(dimensions)}: expected dimensions >= 1, at most "
            f"{MOST_HORIZON_DIMENSIONS:,}; from 2 on the horizon hardly depends on them"
        )
    if not all(0 < x <= 1 for x in alignments) or not 0 < a < math.inf:
        raise UsageError("expected dimensions >= 1, alignments in (0, 1], a > 0")
    with np.errstate(all="ignore"):
        radii = np.array(_SLACKS) * _least_radius(a, mu)
        needed = threshold(np.ones(len(radii)), np.array(a), radii, np.array(mu))
    if a < sys.float_info.min or not (np.isfinite(needed) & (needed > 0)).all():
        raise UsageError(
            f"a = {a:g} with mu = {mu:g}: too small or too large for float64, which does not hold "
            "the radius that Theorem 1 needs; take them nearer to 1"
        )
    return [
        {
            "dimension": dimension,
            "alignment": alignment,
            "horizon": max(
                largest_horizon(dimension, alignment, a=a, mu=mu, slack=slack) for slack in _SLACKS
            ),
            "limit": math.floor(_limit(alignment, a, mu)),
        }
        for dimension in dimensions
        for alignment in alignments
    ]
