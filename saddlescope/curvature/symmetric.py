"""What a symmetric matrix-free operator is, and a dense matrix as one.

An operator has `size`, `dtype`, `device` and `matvec`. Three more things are optional:
`reference()`, the same operator in float64; `product_error(v, Av)`, the rounding noise measured
against it where that is cheaper than by a product of the whole; and `verify()`, which refuses what
is not one fixed matrix.
"""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from saddlescope.errors import UsageError


@runtime_checkable
class SymmetricOperator(Protocol):
    """What `extreme_eigenvalues` needs of an operator."""

    @property
    def size(self) -> int:
        """n, the length of the vectors it acts on."""

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of its products."""

    @property
    def device(self) -> torch.device:
        """Where its products are computed."""

    def matvec(self, vector: Tensor) -> Tensor:
        """A·v for v of shape (n,), as a new tensor."""


class MatrixOperator:
    """A dense symmetric matrix as an operator: for tests, checks and small problems.

    Args:
        matrix: shape (n, n), float32 or float64.
        exact: the matrix that `matrix` is a rounded copy of, if there is one; the noise is
            measured against it.
    """

    def __init__(self, matrix: Tensor, *, exact: Tensor | None = None) -> None:
        if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
            raise UsageError(f"expected a square matrix, got shape {tuple(matrix.shape)}")
        self.matrix = matrix
        self._exact = matrix.double() if exact is None else exact.double()
        self.size, self.dtype, self.device = matrix.shape[0], matrix.dtype, matrix.device

    def matvec(self, vector: Tensor) -> Tensor:
        """A·v for v of shape (n,)."""
        return self.matrix @ vector

    def reference(self) -> "MatrixOperator":
        """The matrix in float64."""
        return MatrixOperator(self._exact)
