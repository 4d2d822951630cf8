"""Exact trajectories of the five methods, many instances at once, in float64.

To second order around w_0 the loss is L(w) = L(w_0) + ⟨g, u⟩ + ½⟨u, H·u⟩ with u = w − w_0. In H's
eigenbasis every coordinate moves on its own but for the gradient's norm, so a step of any method is
a few vector operations, and a component of 1e-20 keeps all its digits. A loss in parts, as head
and tail, stays so where the parts' Hessians share the basis; Proposition 5 assumes that. Coordinate
0 of a quadratic is v_min throughout.

`saddlescope.theory.surfaces` has losses that are no quadratics; their shares walk the same way.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class Share(Protocol):
    """One group's share of the loss of N instances.

    Attributes:
        radius: ρ of the group, shape (N,); 0 does not perturb.
    """

    @property
    def radius(self) -> Array:
        """ρ of the group, shape (N,)."""

    @property
    def shape(self) -> tuple[int, int]:
        """(N, d)."""

    def at(self, displacement: Array) -> Array:
        """Compute the share's gradient at w_0 + u, shape (N, d)."""

    def ascended(self, displacement: Array, gradient: Array, scale: Array) -> Array:
        """Compute the gradient at w_0 + u + scale·gradient, shape (N, d); scale has shape (N,)."""


@dataclass(frozen=True)
class Part:
    """A share that is a quadratic, in the eigenbasis.

    Attributes:
        gradient: of the share at w_0, shape (N, d).
        eigenvalues: of its Hessian, shape (N, d).
        radius: ρ of the group, shape (N,); 0 does not perturb.
    """

    gradient: Array
    eigenvalues: Array
    radius: Array

    @property
    def shape(self) -> tuple[int, int]:
        """(N, d)."""
        instances, dimension = self.gradient.shape
        return instances, dimension

    def at(self, displacement: Array) -> Array:
        """Compute the share's gradient at w_0 + u, shape (N, d)."""
        return self.gradient + self.eigenvalues * displacement

    def ascended(self, displacement: Array, gradient: Array, scale: Array) -> Array:
        """Compute the share's gradient at w_0 + u + scale·gradient, shape (N, d)."""
        del displacement  # A quadratic's gradient changes alike everywhere.
        return gradient * (1.0 + scale[:, None] * self.eigenvalues)


def walk(
    parts: Sequence[Share], eta: Array, steps: int, *, switch: int | None = None
) -> Iterator[tuple[Array, list[Array]]]:
    """Full-batch steps w ← w − η·Σ_k ∇L_k(w + ρ_k·∇L_k(w)/‖∇L_k(w)‖).

    One part with ρ = 0 is SGD, one with ρ > 0 SAM; head and tail with (0, ρ_tail) is ImbSAM, with
    (ρ_head, ρ_tail) SAM (ext.), and with a `switch` as well SSE-SAM.

    Args:
        parts: of the loss.
        eta: η, shape (N,).
        steps: T.
        switch: the step from which on the first part is not perturbed; None for never.

    Yields:
        T + 1 times the displacement u, shape (N, d), and each part's gradient there.
    """
    displacement = np.zeros(parts[0].shape)
    for step in range(steps + 1):
        gradients = [part.at(displacement) for part in parts]
        yield displacement, gradients
        if step == steps:
            return
        move = np.zeros_like(displacement)
        for index, (part, gradient) in enumerate(zip(parts, gradients, strict=True)):
            if switch is not None and step >= switch and index == 0:
                move += gradient
                continue
            length = norm(gradient)
            scale = np.divide(part.radius, length, out=np.zeros_like(length), where=length > 0)
            move += part.ascended(displacement, gradient, scale)
        displacement = displacement - eta[:, None] * move


def norm(vectors: Array) -> Array:
    """Lengths of N vectors, shape (N,)."""
    return np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
