"""Which matrix of an objective, by name: the one place that turns a word of a table into products.

| name                         | matrix                                                         |
|------------------------------|----------------------------------------------------------------|
| `hessian`                    | ∇²L                                                            |
| `weingarten`                 | C·∇²L·C/α, the principal curvatures of the graph (`weingarten`) |
| `gauss-newton`               | G (`gauss_newton`)                                             |
| `hessian-minus-gauss-newton` | ∇²L − G: what is left where the network is not linear in w     |
| `norm-weighted`              | D·∇²L·D, D the lengths of the filters (`weighted`)              |

An L2 term adds its factor to every eigenvalue of ∇²L and of G, and cancels in their difference; in
D·∇²L·D it is multiplied like everything else.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Unpack

from torch import nn

from saddlescope.curvature.keywords import gathered
from saddlescope.curvature.memory import default_budget
from saddlescope.curvature.objective import Criterion, as_patterns, uncompiled
from saddlescope.curvature.operators.algebra import difference
from saddlescope.curvature.operators.gauss_newton import GaussNewtonOperator
from saddlescope.curvature.operators.hessian import HessianOperator, ObjectiveOperator
from saddlescope.curvature.operators.spec import MatrixOptions, MatrixSpec, OperatorName
from saddlescope.curvature.operators.symmetric import SymmetricOperator
from saddlescope.curvature.operators.weighted import WeightedOperator, filter_norms
from saddlescope.curvature.operators.weingarten import WeingartenOperator


@dataclass(frozen=True)
class NamedOperator:
    """Name a matrix of an objective, and what of it goes into a table.

    Attributes:
        name: the `operator` column.
        parameters: the `parameters` column: name patterns joined by commas, "*" for all.
        weight_decay: factor of the L2 term.
        matrix: the operator itself.
    """

    name: OperatorName
    parameters: str
    weight_decay: float
    matrix: SymmetricOperator

    @property
    def base(self) -> ObjectiveOperator:
        """Return the operator of the objective behind it; of a difference, its first term."""
        base = self.matrix
        while not isinstance(base, ObjectiveOperator):
            base = base.parts[0]
        return base

    def in_double(self) -> "NamedOperator | None":
        """Return the same matrix in float64 on a copy of the model; None where there is none."""
        matrix = self.matrix.reference()
        if matrix is None or matrix is self.matrix:
            return None
        return replace(self, matrix=matrix)


def build_operator(
    name: OperatorName,
    model: nn.Module,
    criterion: Criterion,
    batches: Iterable[Any],
    **options: Unpack[MatrixOptions],
) -> NamedOperator:
    """Build a matrix by its name.

    Args:
        name: a name of the table above.
        model: see `HessianOperator`.
        criterion: see `Objective`.
        batches: see `HessianOperator`.
        **options: the other fields of `MatrixSpec`. The two terms of a difference share the memory
            budget; the Gauss-Newton matrix does not use `programs`.

    Raises:
        UsageError: an unknown name.
        OperatorError, UsageError, DataError: see `HessianOperator`.
    """
    (spec,) = gathered({**options, "operator": name}, MatrixSpec())
    return specified_operator(spec, model, criterion, batches)


def specified_operator(
    spec: MatrixSpec, model: nn.Module, criterion: Criterion, batches: Iterable[Any]
) -> NamedOperator:
    """Build the matrix that is specified; see `build_operator`."""
    wanted = as_patterns(uncompiled(model), spec.parameters)
    budget = spec.memory_budget
    if spec.operator == "hessian-minus-gauss-newton":
        device = next(model.parameters()).device
        budget = (default_budget(device) if budget is None else budget) // 2
    options = spec.of_objective()
    options["parameters"], options["memory_budget"] = wanted, budget
    matrix: SymmetricOperator
    if spec.operator == "gauss-newton":
        matrix = GaussNewtonOperator(model, criterion, batches, **options)
    else:
        hessian = HessianOperator(model, criterion, batches, programs=spec.programs, **options)
        matrix = _OF_A_HESSIAN[spec.operator](hessian, budget)
    label = "*" if wanted is None else ",".join(wanted)
    return NamedOperator(spec.operator, label, float(spec.weight_decay), matrix)


def _remainder(hessian: HessianOperator, budget: int | None) -> SymmetricOperator:
    """What G leaves of H."""
    rest = GaussNewtonOperator.from_objective(hessian.objective, memory_budget=budget)
    return difference(hessian, rest)


_OF_A_HESSIAN: dict[str, Callable[[HessianOperator, int | None], SymmetricOperator]] = {
    "hessian": lambda hessian, _: hessian,
    "weingarten": lambda hessian, _: WeingartenOperator(hessian),
    "norm-weighted": lambda hessian, _: WeightedOperator(
        hessian, filter_norms(hessian.objective.vector)
    ),
    "hessian-minus-gauss-newton": _remainder,
}
