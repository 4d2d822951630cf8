"""Symmetric matrices as products: those of an objective, and what is made from others."""

from saddlescope.curvature.operators.algebra import LinearCombination, difference
from saddlescope.curvature.operators.gauss_newton import GaussNewtonOperator
from saddlescope.curvature.operators.hessian import (
    HessianOperator,
    ObjectiveOperator,
    objective_of,
)
from saddlescope.curvature.operators.named import NamedOperator, build_operator, specified_operator
from saddlescope.curvature.operators.spec import MatrixOptions, MatrixSpec
from saddlescope.curvature.operators.symmetric import (
    Congruence,
    MatrixOperator,
    OperatorLike,
    SymmetricOperator,
    as_operator,
)
from saddlescope.curvature.operators.weighted import WeightedOperator, filter_norms
from saddlescope.curvature.operators.weingarten import WeingartenOperator
