"""Sums, multiples and shifts of operators: Σ_i factor_i·A_i + shift·I, as one operator.

Enough for H − G (the Hessian's part that the Gauss-Newton matrix leaves out), −H (to swap the
ends), H + λI (an L2 term) and differences between two checkpoints or two classes.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from saddlescope.curvature.operators.symmetric import OperatorLike, SymmetricOperator, as_operator
from saddlescope.errors import UsageError


class LinearCombination(SymmetricOperator):
    """Add up A = Σ_i factor_i·A_i + shift·I for symmetric operators A_i of one size.

    Args:
        terms: pairs (factor, operator), at least one.
        shift: added to every eigenvalue.

    Raises:
        UsageError: no terms, a factor that is not finite, or terms that differ in size, dtype
            or device.

    Example:
        >>> import torch
        >>> from saddlescope.curvature import MatrixOperator
        >>> A = MatrixOperator(torch.diag(torch.tensor([2.0, -1.0])))
        >>> LinearCombination([(-1.0, A)], shift=3.0).matvec(torch.ones(2))
        tensor([1., 4.])
    """

    def __init__(self, terms: Sequence[tuple[float, OperatorLike]], *, shift: float = 0.0) -> None:
        if not terms:
            raise UsageError("a linear combination needs at least one (factor, operator)")
        for number in (*(factor for factor, _ in terms), shift):
            if not math.isfinite(number):
                raise UsageError(f"factor or shift {number}: expected a finite number")
        first = terms[0][1]
        for index, (_, operator) in enumerate(terms[1:], start=1):
            for kind in ("size", "dtype", "device"):
                one, other = getattr(first, kind), getattr(operator, kind)
                if one != other:
                    raise UsageError(
                        f"operators to be combined differ in {kind}: {one} in term 0, {other} in "
                        f"term {index}; build both over the same parameters"
                    )
        adopted = {id(operator): as_operator(operator) for _, operator in terms}
        self.parts = tuple(adopted.values())
        self.terms = tuple((float(factor), adopted[id(operator)]) for factor, operator in terms)
        self.shift = float(shift)
        self.size, self.dtype, self.device = first.size, first.dtype, first.device

    def matvec(self, vector: Tensor) -> Tensor:
        """Return A·v for v of shape (n,)."""
        total = vector * self.shift
        for factor, operator in self.terms:
            total.add_(operator.matvec(vector), alpha=factor)
        return total

    def reference(self) -> "LinearCombination | None":
        """Combine the terms' float64 references in the same way; None where a term has none."""
        if self.dtype == torch.float64:
            return self
        exact: list[tuple[float, SymmetricOperator]] = []
        for factor, operator in self.terms:
            if (reference := operator.reference()) is None:
                return None
            exact.append((factor, reference))
        return LinearCombination(exact, shift=self.shift)


def difference(a: OperatorLike, b: OperatorLike) -> LinearCombination:
    """Return A − B, for instance the Hessian without its Gauss-Newton part."""
    return LinearCombination([(1.0, a), (-1.0, b)])
