"""An operator with some directions taken out: P·A·P for P = I − XᵀX, X orthonormal rows."""

import torch
from torch import Tensor

from saddlescope.curvature.operators import Congruence, SymmetricOperator


class Deflated(Congruence):
    """Take directions out of an operator: P·A·P, P the projection away from orthonormal vectors.

    Args:
        operator: A, of size n.
        vectors: X, shape (m, n), orthonormal to rounding.
        images: A times each of them, shape (m, n); None computes them, at one product each.
    """

    def __init__(
        self, operator: SymmetricOperator, vectors: Tensor, images: Tensor | None = None
    ) -> None:
        super().__init__(operator)
        self.vectors = vectors.to(operator.device, operator.dtype)
        if images is None:
            images = torch.stack([operator.matvec(vector) for vector in self.vectors])
        self.images = images

    def outer(self, vector: Tensor) -> Tensor:
        """Return P·v, in the dtype of v."""
        vectors = self.vectors.to(vector.dtype)
        return vector - (vectors @ vector) @ vectors

    def start(self, vector: Tensor) -> Tensor:
        """Return a start vector in the range of P, on the operator's device.

        Projected twice: X is orthonormal to its own rounding only, and little of v may be left.
        """
        once = self.outer(vector.to(self.device))
        return self.outer(once / once.norm())

    def whole_images(self, vectors: Tensor, deflated: Tensor) -> Tensor:
        """Return A·y from P·A·y, y in the range of P, as ⟨x, A·y⟩ = ⟨A·x, y⟩; shape (j, n) each."""
        return deflated + (vectors @ self.images.T) @ self.vectors
