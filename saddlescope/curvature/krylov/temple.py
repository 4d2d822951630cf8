"""The Kato-Temple bounds on λ_max and λ_min, with a gap that is certified and not assumed.

Let y be a unit vector, ρ = ⟨y, A·y⟩ and r = ‖A·y − ρ·y‖. If every eigenvalue but the smallest is at
least b > ρ, then (A − λ_min)(A − b) is positive semidefinite, and from its value at y

    ρ − r²/(b − ρ) <= λ_min <= ρ.

Sources: Temple, Proc. Roy. Soc. A 119 (1928); Kato, J. Phys. Soc. Japan 4 (1949); Parlett, The
Symmetric Eigenvalue Problem (1980), §10.5. The error is of second order in the residual.

What is the b? The Ritz values of the run that found y do not tell: an eigenvalue beside λ_min whose
eigenvector has next to no part in the start vector leaves no trace in them, and the bound computed
with their gap is wrong. So b is bounded by a second run that is independent of the first. With P
the projection away from y_min and y_max, the smallest eigenvalue of P·A·P on the range of P is at
least μ with the stated probability (`bounds`); A on the complement of y_min is P·A·P and y_max,
coupled by at most r_max, so that by Cauchy's interlacing theorem

    λ_2 >= b = the smaller eigenvalue of ( ρ_max  r_max )
                                         ( r_max  μ     ).

The high end is the mirror image, and the same second run serves both.
"""

import math
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor

from saddlescope.curvature.keywords import gathered
from saddlescope.curvature.krylov.bounds import start_component
from saddlescope.curvature.krylov.deflation import Deflated
from saddlescope.curvature.krylov.extreme import Ends
from saddlescope.curvature.krylov.lanczos import Lanczos, random_start, room_for, scaled_norm
from saddlescope.curvature.krylov.outer import OuterBounds
from saddlescope.curvature.objective import exact_arithmetic
from saddlescope.curvature.operators import OperatorLike, SymmetricOperator, as_operator
from saddlescope.curvature.products import TYPICAL_PRODUCTS
from saddlescope.curvature.seeds import derived_seed
from saddlescope.errors import UsageError
from saddlescope.stages import counted
from saddlescope.stopping import StopOptions, StopRule

_SETTLED = 0.1
"""Share of the gap that more products might still add when no more are taken."""


@dataclass(frozen=True)
class TempleBound:
    """Tell what Kato-Temple says of one end.

    Attributes:
        value: ρ, the Rayleigh quotient of the end's vector.
        residual: ‖A·y − ρ·y‖.
        gap: from ρ to the nearest place where another eigenvalue may be, at least; 0 where no gap
            could be certified.
        lower: the eigenvalue is not below, at the stated confidence; −inf (λ_min) without a gap.
        upper: it is not above; inf (λ_max) without a gap.
    """

    value: float
    residual: float
    gap: float
    lower: float
    upper: float


@dataclass(frozen=True)
class TempleBounds:
    """Hold the Kato-Temple bounds on both ends.

    Attributes:
        lambda_max: of the largest eigenvalue.
        lambda_min: of the smallest one.
        confidence: joint probability that both hold. The random event is another than that of the
            intervals of `Ends`: for all of them together, the allowed misses add up.
        matvecs: products used, those of the first run aside.
    """

    lambda_max: TempleBound
    lambda_min: TempleBound
    confidence: float
    matvecs: int


@exact_arithmetic()
def temple_bounds(
    operator: OperatorLike,
    ends: Ends,
    stop: StopRule = StopRule(),
    *,
    seed: int = 0,
    basis_memory: int | None = None,
    **options: Unpack[StopOptions],
) -> TempleBounds:
    """Bound both ends by ‖r‖²/gap, the gap certified by an independent deflated run.

    Args:
        operator: the one whose ends they are.
        ends: with eigenvectors, of which nothing is assumed; the noise and the confidence are
            taken over.
        stop: ends the run when ‖r‖²/gap is below the share `rtol` of |ρ| at both ends; or where
            the gap itself is known to a tenth, for then more products do not help; or after
            `max_matvecs` products. Its other fields are not read.
        seed: of the second run; independent of the first for any number.
        basis_memory: see `Search`.
        **options: single fields of `stop`.

    Raises:
        UsageError: `ends` without eigenvectors.
        OperatorError: see `Lanczos`.
    """
    if ends.eigenvectors is None:
        raise UsageError("Kato-Temple needs eigenvectors: measure with eigenvectors=True")
    matrix = as_operator(operator)
    (stop,) = gathered(options, stop)
    deflated = _away_from(matrix, ends.eigenvectors)
    high, low = _both_ends(deflated)
    left, noise = matrix.size - len(deflated.vectors), ends.noise
    outer = OuterBounds(
        start_component(max(left, 1), 0.5 * (1.0 - ends.confidence)), dimension=left
    )
    products = len(deflated.vectors)
    if left == 0:  # no other eigenvalue is there
        outer.low, outer.high = math.inf, -math.inf
    else:
        limit = min(stop.max_matvecs, left)
        capacity = room_for(matrix, limit, basis_memory)
        start = random_start(matrix.size, seed=derived_seed(seed, "kato-temple"))
        start = deflated.start(start)
        # What is left may be small, or nothing: the rounding is that of the whole.
        scale = max(abs(high.value), abs(low.value))
        lanczos = Lanczos(
            deflated,
            start,
            capacity=min(capacity, limit),
            scale=scale,
            project=deflated.outer,
        )
        settled = False
        for _ in counted("kato-temple", range(stop.max_matvecs), expect=TYPICAL_PRODUCTS):
            if settled or lanczos.exhausted:
                break
            if lanczos.full:
                lanczos.restart()
            lanczos.step()
            outer.update(lanczos)
            noise = max(ends.noise, lanczos.noise)
            theta = lanczos.eigh()[0]
            settled = lanczos.columns == left or lanczos.ranks.first_says(
                low.settled(outer.low, float(theta[0]), noise=noise, rtol=stop.rtol)
                and high.settled(-outer.high, -float(theta[-1]), noise=noise, rtol=stop.rtol)
            )
        products += lanczos.steps
    return TempleBounds(
        lambda_max=high.bound(-outer.high, noise),
        lambda_min=low.bound(outer.low, noise),
        confidence=ends.confidence,
        matvecs=products,
    )


def _away_from(operator: SymmetricOperator, vectors: Tensor) -> Deflated:
    """The operator without y_max and y_min, or y_min alone where both are one vector."""
    top, bottom = vectors.to(operator.device).double()
    bottom = bottom / bottom.norm()
    top = top - (top @ bottom) * bottom
    kept = [top / top.norm(), bottom] if float(top.norm()) > 0.5 else [bottom]
    return Deflated(operator, torch.stack(kept))


@dataclass(frozen=True)
class _End:
    """One end, turned so that it is the low one: its numbers are those of sign·A.

    Attributes:
        sign: 1 for λ_min, −1 for λ_max.
        value: ρ of the end's vector.
        residual: its residual.
        opposite: ρ and residual of the other end's vector; None where both ends have one vector.
    """

    sign: float
    value: float
    residual: float
    opposite: tuple[float, float] | None

    def others(self, edge: float, noise: float) -> float:
        """Return the bound b that follows where no eigenvalue of P·A·P is below `edge`."""
        if self.opposite is None:
            return edge - noise
        value, coupling = self.opposite[0] - noise, self.opposite[1] + noise
        if math.isinf(edge):
            return value if edge > 0 else edge
        middle, half = 0.5 * (value + edge - noise), 0.5 * (value - edge + noise)
        return middle - math.hypot(half, coupling)

    def gap(self, edge: float, noise: float) -> float:
        """Return the least that b − ρ may be, or 0."""
        return max(0.0, self.others(edge, noise) - self.value - noise)

    def correction(self, edge: float, noise: float) -> float:
        """Return the most that ‖r‖²/gap can be."""
        gap = self.gap(edge, noise)
        error = self.residual + noise  # whose square may be less than the least number there is
        return error * (error / gap) if gap > 0.0 else math.inf

    def settled(self, edge: float, ritz: float, *, noise: float, rtol: float) -> bool:
        """Return whether more products are of no use: the bound is sharp, or the gap is known.

        Args:
            edge: the outer bound on the eigenvalues of P·A·P so far.
            ritz: their Ritz value, which the outer bound cannot pass.
            noise: of a product.
            rtol: share of |ρ| that is sharp enough.
        """
        if self.correction(edge, noise) <= max(rtol * abs(self.value), noise):
            return True
        return self.gap(edge, noise) >= (1.0 - _SETTLED) * self.gap(ritz, noise)

    def bound(self, edge: float, noise: float) -> TempleBound:
        """Return the bound, turned back."""
        lower = self.value - noise - self.correction(edge, noise)
        lower, upper = sorted((self.sign * lower, self.sign * (self.value + noise)))
        return TempleBound(
            self.sign * self.value, self.residual, self.gap(edge, noise), lower, upper
        )


def _both_ends(deflated: Deflated) -> tuple[_End, _End]:
    """The high and the low end."""
    vectors, images = deflated.vectors.double(), deflated.images.double()
    values = (vectors * images).sum(1)
    residuals = map(scaled_norm, images - values[:, None] * vectors)
    found = list(zip(values.tolist(), map(float, residuals), strict=True))
    if len(found) == 1:
        (value, residual) = found[0]
        return _End(-1.0, -value, residual, None), _End(1.0, value, residual, None)
    (top, top_residual), (bottom, bottom_residual) = found
    return (
        _End(-1.0, -top, top_residual, (-bottom, bottom_residual)),
        _End(1.0, bottom, bottom_residual, (top, top_residual)),
    )
