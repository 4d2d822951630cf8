"""Fig. 2 computed: SGD and SAM from near a saddle, where SAM is slower and where not.

The paper gives no function for its figure. Left: a strict saddle between two wells, with which SGD
leaves and SAM is held within about ρ of the saddle. Right: a quadratic for which the hypothesis of
Theorem 1 holds over all steps drawn: SAM gets farther than SGD, and changes sides at each step.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from saddlescope.theory.surfaces import SurfaceShare, double_well
from saddlescope.theory.theorem1 import judge
from saddlescope.theory.trajectories import Array, Part, Share, walk


@dataclass(frozen=True)
class SaddlePanel:
    """Two walks over one loss of two coordinates.

    Attributes:
        title: what is shown.
        caption: function, start and settings.
        loss: points, shape (N, 2), to values, shape (N,).
        paths: by method, shape (T + 1, 2).
        theorem1: whether the hypothesis of Theorem 1 holds over the whole walk (μ = 1).
        small: below this the second coordinate is best drawn linearly; None for a linear axis.
    """

    title: str
    caption: str
    loss: Callable[[Array], Array]
    paths: dict[str, Array]
    theorem1: bool
    small: float | None


def figure2() -> tuple[SaddlePanel, SaddlePanel]:
    """Compute both panels of Fig. 2."""
    return _slower(), _overshoots()


def _slower(*, steps: int = 80, eta: float = 0.1, rho: float = 0.5) -> SaddlePanel:
    surface = double_well(up=1.0, down=1.0, depth=0.25)
    start = np.array([[1.1, 0.08]])
    paths = {
        name: _path([SurfaceShare(surface, start, np.array([radius]))], start, eta, steps)
        for name, radius in (("sgd", 0.0), ("sam", rho))
    }
    return SaddlePanel(
        title="SAM is held at the saddle",
        caption=f"L = x²/2 − y²/2 + y⁴/4, η = {eta:g}, ρ = {rho:g}, {steps} steps",
        loss=surface.loss,
        paths=paths,
        theorem1=False,
        small=None,
    )


def _overshoots(*, steps: int = 5, eta: float = 0.05, rho: float = 0.5) -> SaddlePanel:
    # Coordinate 0 of the theory is v_min; it is drawn upwards.
    gradient, eigenvalues = np.array([[1e-8, 0.3]]), np.array([[-20.0, 0.0]])
    instance = {
        "gradient": gradient,
        "eigenvalues": eigenvalues,
        "eta": np.array([eta]),
        "rho": np.array([rho]),
        "mu": np.array([1.0]),
    }
    start = np.array([[0.0, 0.0]])
    paths = {
        name: _path([Part(gradient, eigenvalues, np.array([radius]))], start, eta, steps)[:, ::-1]
        for name, radius in (("sgd", 0.0), ("sam", rho))
    }

    def loss(points: Array) -> Array:
        displacement = points[:, ::-1]
        return displacement @ gradient[0] + 0.5 * displacement**2 @ eigenvalues[0]

    return SaddlePanel(
        title="Theorem 1 holds: SAM alternates",
        caption=f"L = 0.3x − 10y² + 10⁻⁸y, η = {eta:g}, ρ = {rho:g}, {steps} steps",
        loss=loss,
        paths=paths,
        theorem1=bool(judge(instance, {"steps": steps}).hypothesis[0]),
        small=1e-9,
    )


def _path(shares: list[Share], start: Array, eta: float, steps: int) -> Array:
    walked = walk(shares, np.array([eta]), steps)
    return np.concatenate([start + displacement for displacement, _ in walked])
