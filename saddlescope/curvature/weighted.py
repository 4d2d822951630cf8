"""Curvature in relative steps: D·A·D with D from the lengths of the parameters themselves.

Where BatchNorm follows a convolution, c times its weights (and the statistics to match) is the same
network, yet the block of H is c⁻² times as large: λ_max, λ_min and their ratio depend on how the
network happens to be written. A step of relative length is not so: with D = diag(‖w_filter‖) each
filter moves by a share of its own length, and D·H·D is the same for all these networks. (Filter
norms as in Li et al., "Visualizing the loss landscape of neural nets", NeurIPS 2018; the same idea
as adaptive sharpness, Kwon et al., ICML 2021.)
"""

from torch import Tensor

from saddlescope.curvature.distributed import Ranks, ranks_of
from saddlescope.curvature.parameters import ParameterVector
from saddlescope.curvature.symmetric import SymmetricOperator
from saddlescope.errors import UsageError


class WeightedOperator:
    """S = D·A·D for a diagonal D.

    Args:
        operator: A, of size n.
        weights: the diagonal of D, shape (n,), not negative.

    Raises:
        UsageError: weights of another shape, negative or not finite.

    Example:
        >>> import torch
        >>> from saddlescope.curvature import MatrixOperator
        >>> A = MatrixOperator(torch.diag(torch.tensor([2.0, -1.0])))
        >>> WeightedOperator(A, torch.tensor([1.0, 3.0])).matvec(torch.ones(2))
        tensor([ 2., -9.])
    """

    def __init__(self, operator: SymmetricOperator, weights: Tensor) -> None:
        if weights.shape != (operator.size,):
            raise UsageError(
                f"weights of shape {tuple(weights.shape)} for an operator of size {operator.size}"
            )
        if not bool((weights >= 0).all() and weights.isfinite().all()):
            raise UsageError("weights must be finite and not negative")
        self.operator = operator
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device
        self._exact = weights.detach().to(self.device).double()
        self._weights = self._exact.to(self.dtype)

    def matvec(self, vector: Tensor) -> Tensor:
        """S·v for v of shape (n,)."""
        return self._weights * self.operator.matvec(self._weights * vector)

    def reference(self) -> "WeightedOperator | None":
        """Build the same matrix in float64; None where A has no reference."""
        inner = self.operator.reference() if hasattr(self.operator, "reference") else None
        return None if inner is None else WeightedOperator(inner, self._exact)

    def verify(self) -> None:
        """Ask A whether it is one fixed matrix."""
        if hasattr(self.operator, "verify"):
            self.operator.verify()

    def check(self, vector: Tensor) -> None:
        """Pass a vector on to A's check of its derivatives."""
        if hasattr(self.operator, "check"):
            self.operator.check(self._weights * vector)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a careful reader should know of A."""
        return tuple(getattr(self.operator, "notes", ()))

    @property
    def ranks(self) -> Ranks:
        """Who shares the samples."""
        return ranks_of(self.operator)

    @property
    def gradient_cost(self) -> float:
        """Gradients spent by A (absent where it does not count them)."""
        return float(self.operator.gradient_cost)  # type: ignore[attr-defined]

    @gradient_cost.setter
    def gradient_cost(self, value: float) -> None:
        self.operator.gradient_cost = value  # type: ignore[attr-defined]


def filter_norms(vector: ParameterVector) -> Tensor:
    """Return ‖w_filter‖ for every entry of w, shape (n,), in float64.

    A filter is what makes one output: a slice of a weight along its first dimension. A bias or
    another one-dimensional tensor is one filter as a whole.
    """
    parts: list[Tensor | None] = []
    for tensor in vector.tensors:
        exact = tensor.detach().double()
        rows = exact.reshape(len(exact), -1) if exact.dim() > 1 else exact.reshape(1, -1)
        parts.append(rows.norm(dim=1, keepdim=True).expand_as(rows).reshape(exact.shape))
    return vector.flatten(parts)
