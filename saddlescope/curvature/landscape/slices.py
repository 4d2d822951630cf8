"""The loss along directions, and how directions lie to the eigenvectors.

Slices w + a·v and planes w + a·v + b·u (Li et al., "Visualizing the loss landscape of neural
nets", NeurIPS 2018, with eigenvectors in place of random directions).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from saddlescope.curvature.krylov import Ends
from saddlescope.curvature.objective import Objective, displaced, exact_arithmetic
from saddlescope.curvature.operators import ObjectiveOperator, objective_of
from saddlescope.errors import UsageError
from saddlescope.palette import OTHER
from saddlescope.results import GREY, Result
from saddlescope.stages import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class LossSlice(Result):
    """Hold L(w + a·v).

    Attributes:
        radii: a, shape (m,).
        losses: shape (m,), float64.
    """

    radii: np.ndarray
    losses: np.ndarray

    def columns(self) -> dict[str, np.ndarray]:
        """Return distances and losses."""
        return {"radius": self.radii, "loss": self.losses}

    def _draw(self, axes: "Axes") -> None:
        axes.plot(self.radii, self.losses, color=OTHER.color)
        axes.axvline(0.0, color=GREY, linewidth=0.6, zorder=1)
        axes.locator_params(axis="x", nbins=6)
        axes.set(xlabel="distance along the direction", ylabel="loss")


@dataclass(frozen=True, eq=False)
class LossPlane(Result):
    """Hold L(w + a·v + b·u).

    Attributes:
        first_radii: a, shape (m,).
        second_radii: b, shape (l,).
        losses: shape (m, l), float64.
    """

    first_radii: np.ndarray
    second_radii: np.ndarray
    losses: np.ndarray

    def columns(self) -> dict[str, np.ndarray]:
        """Return the points of the plane, a row each, and their losses."""
        first, second = np.meshgrid(self.first_radii, self.second_radii, indexing="ij")
        return {
            "first_radius": first.ravel(),
            "second_radius": second.ravel(),
            "loss": self.losses.ravel(),
        }

    def _draw(self, axes: "Axes") -> None:
        drawn = axes.contourf(
            self.first_radii, self.second_radii, self.losses.T, 16, cmap="cividis"
        )
        axes.figure.colorbar(drawn, ax=axes, label="loss")
        axes.plot(0, 0, "w+", markersize=8)
        axes.set(xlabel="along the first direction", ylabel="along the second")


@dataclass(frozen=True)
class Alignment:
    """Tell how a vector lies to the extreme eigenvectors.

    Attributes:
        name: of the vector.
        norm: its length.
        v_max: cosine of its angle with v_max.
        v_min: cosine of its angle with v_min.
    """

    name: str
    norm: float
    v_max: float
    v_min: float


def loss_slice(
    loss: Objective | ObjectiveOperator, direction: Tensor, radii: Sequence[float]
) -> LossSlice:
    """Evaluate L(w + a·v) for each a.

    Args:
        loss: an objective, or an operator of one; its model is left untouched.
        direction: v, shape (n,), taken as it is: of unit length, `radii` are distances.
        radii: a, any number of them.

    Raises:
        UsageError: a direction of the wrong shape or not finite.
    """
    offsets = np.asarray(radii, float)
    with displaced(objective_of(loss), [direction]) as loss_at:
        losses = [
            loss_at((float(a),)) for a in counted("slice", offsets, text=lambda a: f"at {a:.3g}")
        ]
    return LossSlice(offsets, np.array(losses, float))


def loss_plane(
    loss: Objective | ObjectiveOperator,
    first: Tensor,
    second: Tensor,
    radii: Sequence[float],
    *,
    second_radii: Sequence[float] | None = None,
) -> LossPlane:
    """Evaluate L(w + a·v + b·u) for each pair (a, b).

    Args:
        loss: an objective, or an operator of one; its model is left untouched.
        first: v, shape (n,), taken as it is.
        second: u, shape (n,), taken as it is.
        radii: a, and b too unless `second_radii` are given.
        second_radii: b.

    Raises:
        UsageError: a direction of the wrong shape or not finite.
    """
    rows = np.asarray(radii, float)
    columns = rows if second_radii is None else np.asarray(second_radii, float)
    with displaced(objective_of(loss), [first, second]) as loss_at:
        losses = [
            [loss_at((float(a), float(b))) for b in counted("point", columns)]
            for a in counted("plane", rows, text=lambda a: f"at {a:.3g}")
        ]
    return LossPlane(rows, columns, np.array(losses, float).reshape(len(rows), len(columns)))


@exact_arithmetic()
def alignment(direction: Tensor, other: Tensor) -> float:
    """Return the cosine of the angle between two vectors of shape (n,); NaN where one is zero.

    Raises:
        UsageError: the shapes differ.
    """
    if direction.shape != other.shape or direction.dim() != 1:
        raise UsageError(
            f"vectors of shapes {tuple(direction.shape)} and {tuple(other.shape)}; expected two "
            "flat vectors of one length"
        )
    one, two = direction.detach().double(), other.detach().to(direction.device, torch.float64)
    norms = torch.linalg.vector_norm(one), torch.linalg.vector_norm(two)
    if not (norms[0] > 0 and norms[1] > 0):
        return math.nan
    return max(-1.0, min(1.0, float((one / norms[0]) @ (two / norms[1]))))


def alignments(
    ends: Ends, gradient: Tensor, updates: Mapping[str, Tensor] | None = None
) -> tuple[Alignment, ...]:
    """Return the cosines of the gradient and of optimiser updates with v_max and v_min.

    An eigenvector's sign is arbitrary: each is turned so that its cosine with the gradient is not
    negative. An update with a negative cosine then moves downhill along that eigenvector. For
    unit vectors in R^n picked at random a cosine is of size 1/√n.

    Args:
        ends: measured with `eigenvectors=True`.
        gradient: ∇L(w), shape (n,); the first row, named "gradient".
        updates: changes of w by name, shape (n,) each.

    Raises:
        UsageError: `ends` without eigenvectors, or a vector of another shape.
    """
    if ends.eigenvectors is None:
        raise UsageError("no eigenvectors to align with: measure with eigenvectors=True")
    oriented = [-v if alignment(v, gradient) < 0.0 else v for v in ends.eigenvectors]
    return tuple(
        Alignment(
            name,
            float(torch.linalg.vector_norm(vector.detach().double())),
            alignment(oriented[0], vector),
            alignment(oriented[1], vector),
        )
        for name, vector in {"gradient": gradient, **(updates or {})}.items()
    )
