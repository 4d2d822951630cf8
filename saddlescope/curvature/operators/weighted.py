"""Curvature in relative steps: D·A·D with D from the lengths of the parameters themselves.

Where BatchNorm follows a convolution, c times its weights (and the statistics to match) is the same
network, yet the block of H is c⁻² times as large: λ_max, λ_min and their ratio depend on how the
network happens to be written. A step of relative length is not so: with D = diag(‖w_filter‖) each
filter moves by a share of its own length, and D·H·D is the same for all these networks. (Filter
norms as in Li et al., "Visualizing the loss landscape of neural nets", NeurIPS 2018; the same idea
as adaptive sharpness, Kwon et al., ICML 2021.)
"""

from torch import Tensor

from saddlescope.curvature.objective import ParameterVector
from saddlescope.curvature.operators.symmetric import Congruence, OperatorLike
from saddlescope.errors import UsageError


class WeightedOperator(Congruence):
    """Weigh an operator, S = D·A·D, for a diagonal D.

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

    def __init__(self, operator: OperatorLike, weights: Tensor) -> None:
        super().__init__(operator)
        if weights.shape != (operator.size,):
            raise UsageError(
                f"weights of shape {tuple(weights.shape)} for an operator of size {operator.size}"
            )
        if not bool((weights >= 0).all() and weights.isfinite().all()):
            raise UsageError("weights must be finite and not negative")
        self._exact = weights.detach().to(self.device).double()
        self._weights = self._exact.to(self.dtype)

    def outer(self, vector: Tensor) -> Tensor:
        """Return D·v."""
        return self._weights * vector

    def reference(self) -> "WeightedOperator | None":
        """Build the same matrix in float64; None where A has no reference."""
        inner = self.inner.reference()
        return None if inner is None else WeightedOperator(inner, self._exact)


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
