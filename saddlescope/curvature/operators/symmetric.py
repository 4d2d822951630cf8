"""Symmetric matrix-free operators: their base, one made from others, a dense matrix as one.

Whatever has `size`, `dtype`, `device` and `matvec` is an operator. At the doors of this package
`as_operator` makes a `SymmetricOperator` of it, which can answer a few questions more; inside,
nothing asks whether it can.
"""

from abc import ABC, abstractmethod
from typing import Any, Protocol

import torch
from torch import Tensor

from saddlescope.curvature.objective import exact_arithmetic
from saddlescope.errors import UsageError
from saddlescope.parallel import ALONE, Ranks, ranks_of


class OperatorLike(Protocol):
    """Ask of an operator only what products need."""

    @property
    def size(self) -> int:
        """Return n, the length of the vectors it acts on."""

    @property
    def dtype(self) -> torch.dtype:
        """Return the floating-point type of its products."""

    @property
    def device(self) -> torch.device:
        """Return where its products are computed."""

    def matvec(self, vector: Tensor) -> Tensor:
        """Return A·v for v of shape (n,), as a new tensor."""


class SymmetricOperator(ABC):
    """Multiply vectors with a symmetric matrix A; the base of every operator.

    A subclass sets `size`, `dtype` and `device` and defines `matvec`; the rest has defaults. Where
    it is made from other operators it names them in `parts`, which then answer for it.

    Attributes:
        size: n, the length of the vectors it acts on.
        dtype: floating-point type of its products.
        device: where they are computed.
        parts: the operators it is made from, each once.
    """

    size: int
    dtype: torch.dtype
    device: torch.device
    parts: "tuple[SymmetricOperator, ...]" = ()
    _own_cost: float = 0.0

    @abstractmethod
    def matvec(self, vector: Tensor) -> Tensor:
        """Return A·v for v of shape (n,), as a new tensor."""

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """Return A·v, or A·V column by column for V of shape (n, k)."""
        if vectors.dim() == 1:
            return self.matvec(vectors)
        return torch.stack([self.matvec(column) for column in vectors.T.contiguous()], dim=1)

    def __repr__(self) -> str:
        return (
            f"{self._words()}: {self.size:,} × {self.size:,}, {str(self.dtype)[6:]}, {self.device}"
        )

    def _words(self) -> str:
        """Say which matrix it is."""
        made = f" of ({', '.join(part._words() for part in self.parts)})" if self.parts else ""
        return type(self).__name__ + made

    def reference(self) -> "SymmetricOperator | None":
        """Return the same matrix in float64; None where that cannot be had."""
        return None

    def product_error(self, vector: Tensor, product: Tensor) -> float | None:
        """Measure ‖(A₃₂ − A₆₄)·v‖ for a product at hand.

        Args:
            vector: v, shape (n,).
            product: A₃₂·v.

        Returns:
            The error; None where there is no reference.
        """
        if (reference := self.reference()) is None:
            return None
        error = float((product.double() - reference.matvec(vector.double())).norm())
        self.gradient_cost += reference.gradient_cost
        return error

    def verify(self) -> None:
        """Refuse what is not one fixed matrix, before anything is built on its products."""
        for part in self.parts:
            part.verify()

    def check(self, vector: Tensor) -> None:
        """Hold the derivatives behind it to differences along a vector, shape (n,)."""
        for part in self.parts:
            part.check(vector)

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what a careful reader should know of this matrix, one sentence each."""
        return tuple(dict.fromkeys(note for part in self.parts for note in part.notes))

    @property
    def ranks(self) -> Ranks:
        """Return who shares the samples behind it: of all parts, the most."""
        return max((part.ranks for part in self.parts), key=lambda r: r.size, default=ALONE)

    @property
    def gradient_cost(self) -> float:
        """Return the gradients spent so far, by operation count, those of its parts included."""
        return self._own_cost + sum(part.gradient_cost for part in self.parts)

    @gradient_cost.setter
    def gradient_cost(self, value: float) -> None:
        # What the parts have spent is theirs: only the rest is this operator's own to change.
        self._own_cost = value - sum(part.gradient_cost for part in self.parts)


class Congruence(SymmetricOperator):
    """Multiply with B·A·B for a symmetric B that a subclass applies in `outer`.

    Args:
        inner: A.
    """

    def __init__(self, inner: OperatorLike) -> None:
        self.inner = as_operator(inner)
        self.parts = (self.inner,)
        self.size, self.dtype, self.device = inner.size, inner.dtype, inner.device

    @abstractmethod
    def outer(self, vector: Tensor) -> Tensor:
        """Return B·v, in the dtype of v."""

    def matvec(self, vector: Tensor) -> Tensor:
        """Return B·A·B·v for v of shape (n,)."""
        return self.outer(self.inner.matvec(self.outer(vector)))

    def check(self, vector: Tensor) -> None:
        """Pass a vector on as A sees it."""
        self.inner.check(self.outer(vector))


class MatrixOperator(SymmetricOperator):
    """Take a dense symmetric matrix as an operator: for tests, checks and small problems.

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

    @exact_arithmetic()
    def matvec(self, vector: Tensor) -> Tensor:
        """Return A·v for v of shape (n,)."""
        return self.matrix @ vector

    def reference(self) -> "MatrixOperator":
        """Return the matrix in float64."""
        return MatrixOperator(self._exact)


def as_operator(given: OperatorLike) -> SymmetricOperator:
    """Return an operator as it is, and anything else that multiplies as one.

    Of an object of the user's own, `reference`, `product_error`, `verify`, `check`, `notes` and
    `ranks` are taken where it has them.
    """
    return given if isinstance(given, SymmetricOperator) else _Adopted(given)


class _Adopted(SymmetricOperator):
    """An object of the user's own: what it does not say is that of the base."""

    def __init__(self, given: OperatorLike) -> None:
        self._given: Any = given
        self.size, self.dtype, self.device = given.size, given.dtype, given.device
        self._ranks = ranks_of(given)

    def matvec(self, vector: Tensor) -> Tensor:
        product: Tensor = self._given.matvec(vector)
        return product

    def reference(self) -> SymmetricOperator | None:
        found = self._asked("reference")
        return None if found is None else as_operator(found)

    def product_error(self, vector: Tensor, product: Tensor) -> float | None:
        own = getattr(self._given, "product_error", None)
        return super().product_error(vector, product) if own is None else own(vector, product)

    def verify(self) -> None:
        self._asked("verify")

    def check(self, vector: Tensor) -> None:
        self._asked("check", vector)

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(getattr(self._given, "notes", ()))

    @property
    def ranks(self) -> Ranks:
        return self._ranks

    def _asked(self, name: str, *arguments: Any) -> Any:
        """What a method of the object returns; None where it has no such method."""
        method = getattr(self._given, name, None)
        return None if method is None else method(*arguments)
