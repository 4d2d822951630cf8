"""D·A·D against the dense product, and its invariance under BatchNorm's rescaling."""

import pytest
import torch
from torch import nn

from saddlescope.curvature import (
    HessianOperator,
    MatrixOperator,
    WeightedOperator,
    build_operator,
    extreme_eigenvalues,
    filter_norms,
)
from saddlescope.curvature.reference import dense_matrix
from saddlescope.errors import UsageError
from tests.curvature.landscape.test_splitting import relu_network
from tests.curvature.networks import images


def test_it_is_the_dense_product():
    torch.manual_seed(0)
    matrix = torch.randn(7, 7, dtype=torch.float64)
    matrix = matrix + matrix.T
    weights = torch.rand(7, dtype=torch.float64)
    operator = WeightedOperator(MatrixOperator(matrix), weights)
    torch.testing.assert_close(
        dense_matrix(operator), torch.diag(weights) @ matrix @ torch.diag(weights)
    )


def test_filter_norms_are_those_of_slices_and_of_whole_vectors():
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(3, 2)).double()
    H = HessianOperator(
        model, nn.CrossEntropyLoss(), [(torch.randn(4, 2, 2, 2).double(), torch.arange(4) % 2)]
    )
    expected = torch.cat(
        [
            model[0].weight.reshape(3, -1).norm(dim=1).repeat_interleave(8),
            model[0].bias.norm().expand(3),
            model[2].weight.norm(dim=1).repeat_interleave(3),
            model[2].bias.norm().expand(2),
        ]
    ).detach()
    torch.testing.assert_close(filter_norms(H.objective.vector), expected)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_rescaling_before_batch_norm_changes_the_hessian_and_not_this(factor):
    """The same function, written otherwise: H's ends move, those of D·H·D stay."""
    data, criterion = images(12), nn.CrossEntropyLoss()
    model, other = relu_network(), relu_network()
    with torch.no_grad():
        for conv, norm in ((other[0], other[1]), (other[4], other[5])):
            conv.weight *= factor
            conv.bias *= factor
            norm.running_mean *= factor
            norm.running_var.copy_((norm.running_var + norm.eps) * factor**2 - norm.eps)
    torch.testing.assert_close(model(data[0]), other(data[0]))
    found = {}
    for name in ("hessian", "norm-weighted"):
        ends = [
            extreme_eigenvalues(build_operator(name, m, criterion, [data]).matrix, rtol=1e-8)
            for m in (model, other)
        ]
        found[name] = [(e.lambda_min.value, e.lambda_max.value) for e in ends]
    assert found["norm-weighted"][0] == pytest.approx(found["norm-weighted"][1], rel=1e-6)
    assert found["hessian"][0] != pytest.approx(found["hessian"][1], rel=0.02)


def test_in_float32_the_interval_holds_the_dense_ends():
    data, criterion = images(12, dtype=torch.float32), nn.CrossEntropyLoss()
    model = relu_network(dtype=torch.float32)
    built = build_operator("norm-weighted", model, criterion, [data])
    ends = extreme_eigenvalues(built.matrix, certify=True)
    dense = dense_matrix(built.matrix.reference())
    values = torch.linalg.eigvalsh(dense)
    assert ends.lambda_min.lower <= float(values[0]) <= ends.lambda_min.upper
    assert ends.lambda_max.lower <= float(values[-1]) <= ends.lambda_max.upper
    assert built.matrix.gradient_cost > 0


@pytest.mark.parametrize("wrong", [torch.ones(3), -torch.ones(2), torch.tensor([1.0, torch.inf])])
def test_weights_that_are_none_are_refused(wrong):
    with pytest.raises(UsageError, match="weights"):
        WeightedOperator(MatrixOperator(torch.eye(2)), wrong)
