"""Sums, multiples and shifts of operators: Σ_i factor_i·A_i + shift·I, as one operator.

Enough for H − G (the Hessian's part that the Gauss-Newton matrix leaves out), −H (to swap the
ends), H + λI (an L2 term) and differences between two checkpoints or two classes.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from saddlescope.curvature.distributed import Ranks, ranks_of
from saddlescope.curvature.symmetric import SymmetricOperator
from saddlescope.errors import UsageError


class LinearCombination:
    """A = Σ_i factor_i·A_i + shift·I for symmetric operators A_i of one size.

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

    def __init__(
        self, terms: Sequence[tuple[float, SymmetricOperator]], *, shift: float = 0.0
    ) -> None:
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
        self.terms = tuple((float(factor), operator) for factor, operator in terms)
        self.shift = float(shift)
        self.size, self.dtype, self.device = first.size, first.dtype, first.device
        self._extra_cost = 0.0  # spent on the combination as a whole

    def matvec(self, vector: Tensor) -> Tensor:
        """A·v for v of shape (n,)."""
        total = vector * self.shift
        for factor, operator in self.terms:
            total.add_(operator.matvec(vector), alpha=factor)
        return total

    def reference(self) -> "LinearCombination | None":
        """The same combination of the float64 references; None where a term has none."""
        if self.dtype == torch.float64:
            return self
        exact: list[tuple[float, SymmetricOperator]] = []
        for factor, operator in self.terms:
            reference = operator.reference() if hasattr(operator, "reference") else None
            if reference is None:
                return None
            exact.append((factor, reference))
        return LinearCombination(exact, shift=self.shift)

    def verify(self) -> None:
        """Ask every term that can tell whether it is one fixed matrix."""
        for operator in self._distinct():
            if hasattr(operator, "verify"):
                operator.verify()

    def check(self, vector: Tensor) -> None:
        """Pass a vector on to every term that checks its derivatives."""
        for operator in self._distinct():
            if hasattr(operator, "check"):
                operator.check(vector)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a careful reader should know of any term, once."""
        notes = [note for operator in self._distinct() for note in getattr(operator, "notes", ())]
        return tuple(dict.fromkeys(notes))

    @property
    def ranks(self) -> Ranks:
        """Who shares the samples: of all terms, the most."""
        return max((ranks_of(operator) for operator in self._distinct()), key=lambda r: r.size)

    @property
    def gradient_cost(self) -> float:
        """Gradients spent by all terms (absent where none of them counts)."""
        return self._extra_cost + self._terms_cost()

    @gradient_cost.setter
    def gradient_cost(self, value: float) -> None:
        self._extra_cost = value - self._terms_cost()

    def _terms_cost(self) -> float:
        counted = [op.gradient_cost for op in self._distinct() if hasattr(op, "gradient_cost")]
        if not counted:
            raise AttributeError("no term counts its cost")
        return float(sum(counted))

    def _distinct(self) -> list[SymmetricOperator]:
        """The operators, each once."""
        return list({id(operator): operator for _, operator in self.terms}.values())


def difference(a: SymmetricOperator, b: SymmetricOperator) -> LinearCombination:
    """A − B, for instance the Hessian without its Gauss-Newton part."""
    return LinearCombination([(1.0, a), (-1.0, b)])
