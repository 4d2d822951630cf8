"""Exact trajectories of the five methods on quadratic losses, many instances at once.

To second order around w_0 the loss is L(w) = L(w_0) + ⟨g, u⟩ + ½⟨u, H·u⟩ with u = w − w_0. In H's
eigenbasis every coordinate moves on its own but for the gradient's norm, so a step of any method is
a few vector operations in float64, and a component of 1e-20 keeps all its digits. A loss in parts,
as head and tail, stays so where the parts' Hessians share the basis; Proposition 5 assumes that.

Coordinate 0 is v_min throughout.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """One group's share of the loss of N instances, in the eigenbasis.

    Attributes:
        gradient: of the share at w_0, shape (N, d).
        eigenvalues: of its Hessian, shape (N, d).
        radius: ρ of the group, shape (N,); 0 does not perturb.
    """

    gradient: Array
    eigenvalues: Array
    radius: Array

    def at(self, displacement: Array) -> Array:
        """The share's gradient at w_0 + u, shape (N, d)."""
        return self.gradient + self.eigenvalues * displacement


def walk(parts: Sequence[Part], eta: Array, steps: int) -> Iterator[tuple[Array, list[Array]]]:
    """Full-batch steps w ← w − η·Σ_k ∇L_k(w + ρ_k·∇L_k(w)/‖∇L_k(w)‖).

    One part with ρ = 0 is SGD, one with ρ > 0 SAM; head and tail with (0, ρ_tail) is ImbSAM and
    with (ρ_head, ρ_tail) SAM (ext.).

    Args:
        parts: of the loss.
        eta: η, shape (N,).
        steps: T.

    Yields:
        T + 1 times the displacement u, shape (N, d), and each part's gradient there.
    """
    displacement = np.zeros_like(parts[0].gradient)
    for step in range(steps + 1):
        gradients = [part.at(displacement) for part in parts]
        yield displacement, gradients
        if step == steps:
            return
        move = np.zeros_like(displacement)
        for part, gradient in zip(parts, gradients, strict=True):
            length = norm(gradient)
            scale = np.divide(part.radius, length, out=np.zeros_like(length), where=length > 0)
            move += gradient * (1.0 + scale[:, None] * part.eigenvalues)
        displacement = displacement - eta[:, None] * move


def norm(vectors: Array) -> Array:
    """Lengths of N vectors, shape (N,)."""
    return np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
