"""An eigenvalue of a Hessian, taken apart: vᵀHv = vᵀGv + vᵀRv, and what the loss does along v.

G is the Gauss-Newton matrix and R = H − G the remainder, Σ_k ∂ℓ/∂z_k·∇²z_k. A network of ReLUs with
BatchNorm in eval mode is linear in each parameter tensor, piece by piece: within a tensor's block R
vanishes, so its trace is zero and it has eigenvalues of both signs unless it is zero itself. Then
λ_min < 0 says that the network is such a product, not that training left a way down.

Beside it stands what is measured without derivatives: the losses at the distance of a
sharpness-aware step along ±v, their second difference there, and the same along the gradient.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from saddlescope.curvature.krylov import Ends
from saddlescope.curvature.landscape.slices import alignment
from saddlescope.curvature.objective import displaced, exact_arithmetic
from saddlescope.curvature.operators import GaussNewtonOperator, HessianOperator
from saddlescope.errors import UsageError

DISTANCES: Final = (0.05, 0.10)
"""Where the loss is looked at: the radii of the paper's Fig. 4."""


@dataclass(frozen=True)
class DirectionSplit:
    """Split a unit vector v, turned downhill: ⟨v, ∇L⟩ ≤ 0.

    Attributes:
        direction: "v_max", "v_min" or "gradient" (v = −∇L/‖∇L‖).
        hessian: vᵀHv, in float64.
        gauss_newton: vᵀGv; not negative where the criterion is convex in the outputs.
        remainder: vᵀRv, their difference. The least eigenvalue of R is not above it, the largest
            not below.
        cos_gradient: cosine of the angle between v and −∇L, in [0, 1]; NaN where ∇L = 0.
        distances: s, shape (m,), in the units of w.
        curvatures: (L(w+sv) − 2L(w) + L(w−sv))/s² in float64, shape (m,).
        losses_ahead: L(w+sv), shape (m,).
        losses_behind: L(w−sv), shape (m,).
    """

    direction: str
    hessian: float
    gauss_newton: float
    remainder: float
    cos_gradient: float
    distances: np.ndarray
    curvatures: np.ndarray
    losses_ahead: np.ndarray
    losses_behind: np.ndarray


@dataclass(frozen=True)
class CurvatureSplit:
    """Hold the splits of both ends and of the gradient.

    Attributes:
        parts: of "v_max", "v_min" and, unless ∇L = 0, "gradient".
        loss: L(w), in float64.
        gradient_loss_ratio: ‖∇L‖²/L; NaN for L = 0. Near λ_max it says that λ_max is of the
            gradient's making.
        cost: gradients spent.
    """

    parts: tuple[DirectionSplit, ...]
    loss: float
    gradient_loss_ratio: float
    cost: float


@exact_arithmetic()
def split_curvature(
    ends: Ends, hessian: HessianOperator, *, distances: Sequence[float] = DISTANCES
) -> CurvatureSplit:
    """Split both ends of a Hessian into the Gauss-Newton part and the remainder.

    Args:
        ends: of this Hessian, measured with `eigenvectors=True`.
        hessian: its objective is evaluated in float64, on a copy of the model.
        distances: s > 0, in the units of w.

    Raises:
        UsageError: `ends` without eigenvectors, a distance that is not positive, a model that
            cannot be copied to float64, or a `BatchLoss`, which has no Gauss-Newton matrix.
    """
    if ends.eigenvectors is None:
        raise UsageError("no eigenvectors to split: measure with eigenvectors=True")
    steps = np.asarray(distances, float)
    if not (np.isfinite(steps).all() and (steps > 0).all()):
        raise UsageError(f"distances = {distances}: expected positive distances")
    exact = hessian.reference()
    if exact is None:
        raise UsageError(
            f"{type(hessian.objective.model).__name__} cannot be copied to float64, in which the "
            "two parts are told apart"
        )
    before = (
        hessian.gradient_cost if exact is hessian else 0.0
    )  # in float64 it is its own reference
    gauss_newton = GaussNewtonOperator.from_objective(exact.objective)
    gradient, loss = exact.gradient, exact.loss
    norm = float(torch.linalg.vector_norm(gradient))
    vectors = {"v_max": ends.eigenvectors[0].double(), "v_min": ends.eigenvectors[1].double()}
    if norm > 0:
        vectors["gradient"] = gradient
    parts = []
    evaluations = 1
    for name, vector in vectors.items():
        downhill = -1.0 if alignment(vector, gradient) > 0 else 1.0
        unit = vector * (downhill / float(torch.linalg.vector_norm(vector)))
        whole = float(unit @ exact.matvec(unit))
        convex = float(unit @ gauss_newton.matvec(unit))
        with displaced(exact.objective, [unit]) as loss_at:
            centre = loss_at((0.0,))
            ahead = np.array([loss_at((float(s),)) for s in steps])
            behind = np.array([loss_at((-float(s),)) for s in steps])
        evaluations += 1 + 2 * len(steps)
        # Differences first: they are exact in floating point where the losses are close.
        curvatures = ((ahead - centre) + (behind - centre)) / steps**2
        parts.append(
            DirectionSplit(
                name, whole, convex, whole - convex, abs(alignment(unit, gradient)), steps,
                curvatures, ahead, behind,
            )
        )  # fmt: skip
    cost = exact.gradient_cost - before + gauss_newton.gradient_cost + evaluations / 3.0
    return CurvatureSplit(tuple(parts), loss, norm**2 / loss if loss > 0 else math.nan, cost)
