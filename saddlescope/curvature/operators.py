"""Symmetric matrix-free operators: the Hessian of an objective, and a matrix for comparison.

An operator has `size`, `dtype`, `device` and `matvec`. Two more things are optional:
`reference()`, the same operator in float64, from which the rounding noise is measured, and
`verify()`, which refuses what is not one fixed matrix.
"""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from saddlescope.curvature.memory import default_budget
from saddlescope.curvature.objective import Criterion, Objective
from saddlescope.curvature.products import DoubleBackward, HessianProducts
from saddlescope.curvature.state import refuse_training_mode
from saddlescope.curvature.strategy import Programs
from saddlescope.errors import OperatorError, UsageError


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


class HessianOperator:
    """The Hessian ∇²L(w) of a model's mean loss over a fixed set of samples.

    Args:
        model: any module in eval mode (or without random and batch-dependent layers).
        criterion: see `Objective`.
        batches: iterable of (inputs, targets); ragged batches are weighted exactly.
        parameters: name patterns of the parameters that make up w; None for all trainable.
        weight_decay: λ of an optional ½λ‖w‖² term, which adds λ to every eigenvalue.
        reduction: overrides what the criterion says of itself.
        memory_budget: bytes for what is retained between products; None takes a share of what is
            free.
        programs: traced products to share with other operators; None differentiates twice.

    Attributes:
        loss: L(w).
        gradient: ∇L(w), shape (n,).

    Raises:
        OperatorError: a layer in train mode makes the loss random or batch-dependent, or the
            loss, the gradient or a product is NaN or Inf.
        UsageError, DataError: see `Objective`.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 2).double().eval()
        >>> data = [(torch.randn(5, 3).double(), torch.tensor([0, 1, 1, 0, 1]))]
        >>> H = HessianOperator(model, torch.nn.CrossEntropyLoss(), data)
        >>> H.size, H.matvec(torch.ones(8).double()).shape
        (8, torch.Size([8]))
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Criterion,
        batches: Iterable[Any],
        *,
        parameters: Iterable[str] | str | None = None,
        weight_decay: float = 0.0,
        reduction: str | None = None,
        memory_budget: int | None = None,
        programs: Programs | None = None,
    ) -> None:
        refuse_training_mode(model)
        self.objective = Objective(
            model,
            criterion,
            batches,
            parameters=parameters,
            weight_decay=weight_decay,
            reduction=reduction,
        )
        self._refuse_bad_weights()
        vector = self.objective.vector
        self.size, self.dtype, self.device = vector.size, vector.dtype, vector.device
        self._budget = default_budget(self.device) if memory_budget is None else memory_budget
        self.products = HessianProducts(
            self.objective,
            memory_budget=self._budget,
            linearise=programs.linearise if programs else DoubleBackward,
        )
        self.loss, self.gradient = self.products.loss, self.products.gradient
        if not (
            torch.isfinite(torch.tensor(self.loss)) and bool(torch.isfinite(self.gradient).all())
        ):
            raise OperatorError(
                f"the loss ({self.loss:g}) or its gradient is NaN or Inf at these weights: "
                "check the inputs and the checkpoint"
            )
        self.gradient_cost = 1.0
        """Gradients spent so far, by operation count."""

    def matvec(self, vector: Tensor) -> Tensor:
        """∇²L(w)·v for v of shape (n,)."""
        self.gradient_cost += self.products.cost
        return self.products(vector)

    def reference(self) -> "HessianOperator | None":
        """The same Hessian in float64 on a copy of the model; None where it cannot be copied."""
        if self.dtype == torch.float64:
            return self
        try:
            objective = self.objective.double()
        except (RuntimeError, TypeError, NotImplementedError):
            return None
        copy = object.__new__(HessianOperator)
        copy.objective = objective
        copy.size, copy.dtype, copy.device = self.size, torch.float64, self.device
        copy.products = HessianProducts(
            objective, memory_budget=self._budget, linearise=DoubleBackward
        )
        copy.loss, copy.gradient = copy.products.loss, copy.products.gradient
        copy.gradient_cost = 1.0
        return copy

    def verify(self) -> None:
        """Evaluate the loss again and compare: one fixed matrix needs one fixed loss.

        Raises:
            OperatorError: it differs by more than rounding; names the likely causes.
        """
        again = self.objective.loss()
        self.gradient_cost += 1.0 / 3.0
        tolerance = 1e3 * torch.finfo(self.dtype).eps * max(1.0, abs(self.loss))
        if not abs(again - self.loss) <= tolerance:
            raise OperatorError(
                f"the same samples gave the loss {self.loss:.9g} and then {again:.9g}: every "
                "product would belong to another matrix. Likely causes: random augmentation in "
                "the data set, a data loader that drops or resamples, dropout called with "
                "training=True; fix the samples and switch randomness off"
            )

    def _refuse_bad_weights(self) -> None:
        vector = self.objective.vector
        for name, tensor in zip(vector.names, vector.tensors, strict=True):
            if not bool(torch.isfinite(tensor).all()):
                raise OperatorError(
                    f"parameter {name} holds NaN or Inf: this checkpoint has diverged"
                )
