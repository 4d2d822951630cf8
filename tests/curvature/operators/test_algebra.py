"""Combinations of operators against the same combinations of dense matrices."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from saddlescope.curvature import (
    HessianOperator,
    LinearCombination,
    MatrixOperator,
    difference,
    extreme_eigenvalues,
)
from saddlescope.curvature.reference import dense_matrix
from saddlescope.errors import OperatorError, UsageError
from tests.curvature.networks import convolutional, dense_hessian, images


def symmetric(size: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return (matrix + matrix.T) / 2


def test_combination_equals_the_dense_one():
    a, b = symmetric(7, 0), symmetric(7, 1)
    operator = LinearCombination(
        [(2.0, MatrixOperator(a)), (-0.5, MatrixOperator(b)), (1.0, MatrixOperator(a))], shift=0.25
    )
    wanted = 3.0 * a - 0.5 * b + 0.25 * torch.eye(7, dtype=torch.float64)
    torch.testing.assert_close(dense_matrix(operator), wanted, rtol=0, atol=1e-14)
    torch.testing.assert_close(
        dense_matrix(difference(MatrixOperator(a), MatrixOperator(b))), a - b, rtol=0, atol=1e-14
    )


def test_combinations_nest():
    a, b = MatrixOperator(symmetric(5, 0)), MatrixOperator(symmetric(5, 1))
    inner = LinearCombination([(3.0, a)], shift=1.0)
    torch.testing.assert_close(
        dense_matrix(difference(inner, b)),
        3.0 * a.matrix + torch.eye(5, dtype=torch.float64) - b.matrix,
    )


@pytest.mark.parametrize("factor", [-1e-8, 1e-8, 1e8])
def test_ends_scale_and_shift(factor):
    matrix = symmetric(30, 2)
    values = torch.linalg.eigvalsh(matrix)
    operator = LinearCombination([(factor, MatrixOperator(matrix))], shift=factor * 2.0)
    ends = extreme_eigenvalues(operator, rtol=1e-9, atol=0.0)
    wanted = (factor * (values + 2.0)).sort().values
    assert ends.lambda_max.value == pytest.approx(wanted[-1].item(), rel=1e-8)
    assert ends.lambda_min.value == pytest.approx(wanted[0].item(), rel=1e-8)


def test_a_shift_is_an_l2_term():
    model, data = convolutional(), images(12)
    plain = HessianOperator(model, nn.CrossEntropyLoss(), [data])
    decayed = HessianOperator(model, nn.CrossEntropyLoss(), [data], weight_decay=0.1)
    vector = torch.ones(plain.size, dtype=torch.float64)
    torch.testing.assert_close(
        LinearCombination([(1.0, plain)], shift=0.1).matvec(vector), decayed.matvec(vector)
    )


def test_reference_and_verify_are_composed():
    data, model = images(15), convolutional(dtype=torch.float32)
    single = [
        HessianOperator(model, nn.CrossEntropyLoss(), [(data[0][i].float(), data[1][i])])
        for i in (slice(0, 8), slice(8, 15))
    ]
    operator = difference(*single)
    assert operator.gradient_cost == sum(one.gradient_cost for one in single)
    ends = extreme_eigenvalues(operator)

    def loss(f):
        return F.cross_entropy(f(data[0][:8]), data[1][:8]) - F.cross_entropy(
            f(data[0][8:]), data[1][8:]
        )

    truth = torch.linalg.eigvalsh(dense_hessian(model.double(), loss))
    assert ends.noise > 0
    assert ends.lambda_max.lower <= truth[-1] <= ends.lambda_max.upper
    assert ends.lambda_min.lower <= truth[0] <= ends.lambda_min.upper
    # At least both operators' products; a caller may add what it spent on the whole.
    assert sum(one.gradient_cost for one in single) > 4 * ends.matvecs
    before = operator.gradient_cost
    operator.gradient_cost += 2.5
    assert operator.gradient_cost == pytest.approx(before + 2.5)
    assert LinearCombination([(1.0, single[0])] * 2).gradient_cost == single[0].gradient_cost

    class Changed(MatrixOperator):
        def verify(self):
            raise OperatorError("not one matrix")

    with pytest.raises(OperatorError, match="not one matrix"):
        difference(MatrixOperator(symmetric(3, 0)), Changed(symmetric(3, 1))).verify()


def test_reference_is_missing_where_a_term_has_none():
    class Bare:
        size, dtype, device = 3, torch.float32, torch.device("cpu")

        def matvec(self, vector):
            return vector.clone()

    known = MatrixOperator(symmetric(3, 0).float())
    assert difference(known, Bare()).reference() is None
    assert difference(known, known).reference().dtype == torch.float64
    assert difference(known, Bare()).gradient_cost == 0.0


def test_refusals():
    a = MatrixOperator(symmetric(4, 0))
    with pytest.raises(UsageError, match="at least one"):
        LinearCombination([])
    with pytest.raises(UsageError, match="differ in size: 4 in term 0, 5 in term 1"):
        difference(a, MatrixOperator(symmetric(5, 0)))
    with pytest.raises(UsageError, match="differ in dtype"):
        difference(a, MatrixOperator(symmetric(4, 0).float()))
    with pytest.raises(UsageError, match="differ in device"):
        difference(a, MatrixOperator(symmetric(4, 0).to("meta"), exact=symmetric(4, 0)))
    with pytest.raises(UsageError, match="factor or shift nan"):
        LinearCombination([(float("nan"), a)])
