"""Theorem 6: the terms of the generalisation bound, and whether it says anything.

Eq. 11 bounds the loss on the distribution by L_S + a curvature term + M/√n + a bracket over
(n − 1)^½. The bracket of the SAM bound it descends from (Foret et al., ICLR 2021, Theorem 2) stands
under a square root, which is missing in print. Losses must be bounded by M, which cross-entropy is
not; and a bound above M says nothing.
"""

import math
from dataclasses import dataclass
from typing import Final

from saddlescope.errors import UsageError

LEAST_RHO: Final = 1e-100
MOST_RHO: Final = 1e100
"""Between these ρ² is neither 0 nor infinite in float64, nor is what is divided by it."""


def check_rho(rho: float, name: str = "rho") -> None:
    """Refuse a ρ whose square float64 does not hold.

    Args:
        rho: ρ.
        name: what the message calls it.

    Raises:
        UsageError: not between `LEAST_RHO` and `MOST_RHO`.
    """
    if not LEAST_RHO <= rho <= MOST_RHO:
        raise UsageError(
            f"{name} = {rho:g}: expected a number above 0, from {LEAST_RHO:g} to {MOST_RHO:g}"
        )


@dataclass(frozen=True)
class Bound:
    """The right-hand side of Eq. 11.

    Attributes:
        loss: L_S(w), the term (A).
        curvature: ρ²·√(d/4π)·max λ_max, the term (B).
        of_bounded_loss: M/√n.
        complexity: the bracket over (n − 1)^½, as printed.
        complexity_rooted: the same with the square root.
        most: M.
    """

    loss: float
    curvature: float
    of_bounded_loss: float
    complexity: float
    complexity_rooted: float
    most: float

    @property
    def printed(self) -> float:
        """The bound as printed."""
        return self.loss + self.curvature + self.of_bounded_loss + self.complexity

    @property
    def rooted(self) -> float:
        """The bound with the square root."""
        return self.loss + self.curvature + self.of_bounded_loss + self.complexity_rooted

    @property
    def vacuous(self) -> bool:
        """Tell whether even the smaller one is not below M, which the loss never exceeds anyway."""
        return min(self.printed, self.rooted) >= self.most


@dataclass(frozen=True)
class Terms:
    """The measured quantities that the bound is made of.

    Attributes:
        loss: L_S(w).
        lambda_max: the largest λ_max of the Hessian over the ρ-ball; one at w alone is a lower
            bound of it.
        rho: ρ > 0.
        parameters: d.
        samples: n >= 2.
        weight_norm: ‖w‖.
    """

    loss: float
    lambda_max: float
    rho: float
    parameters: int
    samples: int
    weight_norm: float


def generalisation_bound(terms: Terms, *, most: float, delta: float = 0.05) -> Bound:
    """Evaluate Eq. 11.

    Args:
        terms: of the network.
        most: M, what the loss cannot exceed.
        delta: 1 − the probability with which the bound holds.

    Raises:
        UsageError: a ρ whose square float64 does not hold.
    """
    check_rho(terms.rho)
    d, n = terms.parameters, terms.samples
    spread = (math.sqrt(d) + math.sqrt(math.log(n))) ** 2
    bracket = (
        0.25 * d * math.log1p(terms.weight_norm**2 * spread / (d * terms.rho**2))
        + 0.25
        + math.log(n / delta)
        + 2.0 * math.log(6.0 * n + 3.0 * d)
    )
    return Bound(
        loss=terms.loss,
        curvature=terms.rho**2 * math.sqrt(d / (4.0 * math.pi)) * terms.lambda_max,
        of_bounded_loss=most / math.sqrt(n),
        complexity=bracket / math.sqrt(n - 1),
        complexity_rooted=math.sqrt(bracket / (n - 1)),
        most=most,
    )
