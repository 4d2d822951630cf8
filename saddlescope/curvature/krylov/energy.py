"""How much of a vector lies where a matrix curves down, without any eigenvector.

k Lanczos steps from g give nodes θ_i and weights τ_i of the Gauss rule of g's spectral measure
μ(S) = ‖P_S·g‖²/‖g‖², P_S the projection on the eigenvectors with eigenvalues in S. For every node
(Chebyshev, Markov, Stieltjes; Akhiezer, The Classical Moment Problem, 1965, thm 2.5.4)

    Σ_{i<j} τ_i  ≤  μ((−∞, θ_j))  ≤  μ((−∞, θ_j])  ≤  Σ_{i≤j} τ_i,

so the share of g below any point is enclosed for certain, up to rounding; nothing is random here.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from saddlescope.curvature.krylov.density import gauss_rule
from saddlescope.curvature.krylov.lanczos import Lanczos
from saddlescope.curvature.objective import exact_arithmetic
from saddlescope.curvature.operators import OperatorLike


@dataclass(frozen=True)
class SpectralEnergy:
    """Hold the Gauss rule of a vector's spectral measure.

    Attributes:
        nodes: θ, shape (k,), ascending, in the units of the operator.
        weights: τ, shape (k,), sum 1.
        complete: the Krylov space is exhausted: the rule is the measure itself.
        matvecs: products used.
    """

    nodes: np.ndarray
    weights: np.ndarray
    complete: bool
    matvecs: int

    def below(self, point: float) -> tuple[float, float, float]:
        """Estimate and enclose the share of ‖g‖² on eigenvalues below a point.

        Returns:
            The Gauss rule's value, and the lower and upper bound; they contain the truth.
        """
        cumulative = np.concatenate(([0.0], np.cumsum(self.weights)))
        inside = int(np.searchsorted(self.nodes, point, side="left"))  # θ_1 … θ_inside < point
        value = float(cumulative[inside])
        if self.complete:
            return value, value, value
        lower = float(cumulative[max(inside - 1, 0)])
        upper = float(cumulative[min(inside + 1, len(self.nodes))])
        return value, lower, min(upper, 1.0)


@exact_arithmetic()
def spectral_energy(operator: OperatorLike, vector: Tensor, *, steps: int = 60) -> SpectralEnergy:
    """Measure how a vector's energy is spread over the spectrum.

    Args:
        operator: of size n.
        vector: g, shape (n,), not zero.
        steps: Lanczos steps, and so products.

    Raises:
        UsageError: a vector of another shape, zero or not finite.
        OperatorError: see `Lanczos`.
    """
    lanczos = Lanczos(operator, vector, capacity=steps)
    return SpectralEnergy(*gauss_rule(lanczos), lanczos.exhausted, lanczos.steps)
