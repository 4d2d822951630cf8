"""An operator with some directions taken out: P·A·P for P = I − XᵀX, X orthonormal rows."""

import torch
from torch import Tensor

from saddlescope.curvature.distributed import ranks_of
from saddlescope.curvature.symmetric import SymmetricOperator


class Deflated:
    """P·A·P for the projection P away from orthonormal vectors.

    Args:
        operator: A, of size n.
        vectors: X, shape (m, n), orthonormal to rounding.
        images: A times each of them, shape (m, n); None computes them, at one product each.
    """

    def __init__(
        self, operator: SymmetricOperator, vectors: Tensor, images: Tensor | None = None
    ) -> None:
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device
        self.ranks = ranks_of(operator)
        self._operator = operator
        self.vectors = vectors.to(operator.device, operator.dtype)
        if images is None:
            images = torch.stack([operator.matvec(vector) for vector in self.vectors])
        self.images = images

    def matvec(self, vector: Tensor) -> Tensor:
        """P·A·P·v for v of shape (n,)."""
        return self.project(self._operator.matvec(self.project(vector)))

    def project(self, vector: Tensor) -> Tensor:
        """P·v, in the dtype of v."""
        vectors = self.vectors.to(vector.dtype)
        return vector - (vectors @ vector) @ vectors

    def start(self, vector: Tensor) -> Tensor:
        """A start vector in the range of P, on the operator's device.

        Projected twice: X is orthonormal to its own rounding only, and little of v may be left.
        """
        once = self.project(vector.to(self.device))
        return self.project(once / once.norm())

    def whole_images(self, vectors: Tensor, deflated: Tensor) -> Tensor:
        """A·y from P·A·y for y in the range of P, as ⟨x, A·y⟩ = ⟨A·x, y⟩; shape (j, n) each."""
        return deflated + (vectors @ self.images.T) @ self.vectors
