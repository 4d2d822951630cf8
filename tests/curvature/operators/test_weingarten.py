"""The Weingarten map against principal curvatures from the two fundamental forms, in float64."""

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from saddlescope.curvature import (
    HessianOperator,
    MatrixOperator,
    WeingartenOperator,
    extreme_eigenvalues,
)
from saddlescope.curvature.reference import dense_matrix
from saddlescope.errors import OperatorError, UsageError
from tests.curvature.networks import convolutional, dense_hessian, images


def random_pair(size, seed, *, gradient_norm=1.0):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(size, size, generator=generator, dtype=torch.float64)
    gradient = torch.randn(size, generator=generator, dtype=torch.float64)
    return (matrix + matrix.T) / 2, gradient * gradient_norm / gradient.norm()


def principal_curvatures(hessian, gradient):
    """(κ, directions) of the graph of a function: II·v = κ·I·v, nothing of Eq. 5 used."""
    first = np.eye(len(gradient)) + np.outer(gradient, gradient)
    second = hessian.numpy() / np.sqrt(1 + float(gradient @ gradient))
    return scipy.linalg.eigh(second, first)


def printed(hessian, gradient):
    """W as Eq. 5 prints it."""
    squared = 1 + gradient @ gradient
    identity = torch.eye(len(gradient), dtype=torch.float64)
    return (identity - torch.outer(gradient, gradient) / squared) @ hessian / squared.sqrt()


@given(st.integers(2, 12), st.integers(0, 10**6), st.sampled_from([1e-6, 0.1, 1.0, 30.0]))
def test_eigenvalues_are_the_principal_curvatures(size, seed, norm):
    hessian, gradient = random_pair(size, seed, gradient_norm=norm)
    dense = dense_matrix(WeingartenOperator(MatrixOperator(hessian), gradient))
    curvatures, _ = principal_curvatures(hessian, gradient)
    scale = hessian.norm().item()
    torch.testing.assert_close(dense, dense.T, rtol=0, atol=1e-13 * scale)
    np.testing.assert_allclose(torch.linalg.eigvalsh(dense), curvatures, atol=1e-10 * scale)
    np.testing.assert_allclose(
        np.sort(torch.linalg.eigvals(printed(hessian, gradient)).real), curvatures, atol=1e-9
    )


def test_principal_directions_are_eigenvectors_of_the_printed_matrix():
    hessian, gradient = random_pair(8, 0, gradient_norm=3.0)
    operator = WeingartenOperator(MatrixOperator(hessian), gradient)
    values, vectors = torch.linalg.eigh(dense_matrix(operator))
    directions = operator.principal_directions(vectors.T)
    torch.testing.assert_close(
        printed(hessian, gradient) @ directions.T, directions.T * values, rtol=0, atol=1e-12
    )
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(8).double())
    torch.testing.assert_close(operator.principal_directions(vectors[:, 2]), directions[2])


def test_ends_on_a_small_network():
    model, data = convolutional(), images(23)
    hessian = dense_hessian(model, lambda f: F.cross_entropy(f(data[0]), data[1]))
    operator = WeingartenOperator(HessianOperator(model, nn.CrossEntropyLoss(), [data]))
    loss = F.cross_entropy(model(data[0]), data[1])
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    gradient = torch.cat([g.reshape(-1) for g in gradients])
    curvatures, directions = principal_curvatures(hessian, gradient)
    ends = extreme_eigenvalues(operator, rtol=1e-10, atol=0.0, eigenvectors=True)
    assert ends.lambda_max.value == pytest.approx(curvatures[-1], rel=1e-10)
    assert ends.lambda_min.value == pytest.approx(curvatures[0], rel=1e-10)
    assert ends.lambda_min.value < 0
    mapped = operator.principal_directions(ends.eigenvectors).numpy()
    for row, column in ((0, -1), (1, 0)):
        wanted = directions[:, column] / np.linalg.norm(directions[:, column])
        assert abs(mapped[row] @ wanted) == pytest.approx(1.0, abs=1e-10)


def test_at_a_critical_point_it_is_the_hessian():
    hessian, gradient = random_pair(6, 1)
    operator = WeingartenOperator(MatrixOperator(hessian), 0 * gradient)
    assert operator.alpha == 1.0
    assert torch.equal(dense_matrix(operator), hessian)
    assert torch.equal(operator.principal_directions(torch.eye(6)[2].double()), torch.eye(6)[2])


@pytest.mark.parametrize("exponent", [-8, -4, 4, 8])
def test_no_cancellation_or_overflow_at_any_gradient_norm(exponent):
    hessian, gradient = random_pair(6, 2, gradient_norm=10.0**exponent)
    dense = dense_matrix(WeingartenOperator(MatrixOperator(hessian), gradient))
    alpha = np.hypot(1.0, 10.0**exponent)
    # In a basis that starts with the gradient, C = diag(1/α, 1, …, 1).
    basis = torch.linalg.qr(
        torch.cat([gradient[:, None], torch.eye(6, dtype=torch.float64)[:, 1:]], 1)
    ).Q
    corrected = basis.T @ hessian @ basis
    corrected[0, :] /= alpha
    corrected[:, 0] /= alpha
    torch.testing.assert_close(alpha * dense, basis @ corrected @ basis.T, rtol=0, atol=1e-12)
    huge = WeingartenOperator(MatrixOperator(hessian.float()), gradient.float() * 1e20)
    assert bool(torch.isfinite(huge.matvec(torch.ones(6))).all())


@pytest.mark.parametrize("factor", [1e-8, 1e-3, 1e3])
def test_scaling_the_loss(factor):
    """Up to where the oracle's own I + ggᵀ is too ill-conditioned to be trusted."""
    hessian, gradient = random_pair(7, 3)
    hessian, gradient = factor * hessian, factor * gradient
    ends = extreme_eigenvalues(
        WeingartenOperator(MatrixOperator(hessian), gradient), rtol=1e-10, atol=0.0
    )
    curvatures, _ = principal_curvatures(hessian, gradient)
    assert ends.lambda_max.value == pytest.approx(curvatures[-1], rel=1e-9)
    assert ends.lambda_min.value == pytest.approx(curvatures[0], rel=1e-9)


def test_the_direction_of_least_curvature_tends_to_v_min_with_order_two():
    hessian, gradient = random_pair(9, 4)
    v_min = torch.linalg.eigh(hessian).eigenvectors[:, 0]
    sines = []
    for norm in (1e-1, 1e-2, 1e-3):
        operator = WeingartenOperator(MatrixOperator(hessian), norm * gradient)
        vector = torch.linalg.eigh(dense_matrix(operator)).eigenvectors[:, 0]
        direction = operator.principal_directions(vector)
        sines.append((direction - (direction @ v_min) * v_min).norm().item())
    orders = np.log10(np.array(sines[:-1]) / np.array(sines[1:]))
    np.testing.assert_allclose(orders, 2.0, atol=0.05)


def test_float32_is_measured_against_the_reference_with_its_own_gradient():
    model, (inputs, targets) = convolutional(dtype=torch.float32), images(23)
    inner = HessianOperator(model, nn.CrossEntropyLoss(), [(inputs.float(), targets)])
    operator = WeingartenOperator(inner)
    reference = operator.reference()
    assert reference.dtype == torch.float64
    assert 0 < abs(reference.gradient_norm - operator.gradient_norm) < 1e-5
    before = inner.gradient_cost
    ends = extreme_eigenvalues(operator)
    truth = torch.linalg.eigvalsh(dense_matrix(reference))
    assert ends.lambda_max.lower <= truth[-1] <= ends.lambda_max.upper
    assert ends.lambda_min.lower <= truth[0] <= ends.lambda_min.upper
    assert operator.gradient_cost > inner.gradient_cost > before


def test_a_given_gradient_is_kept_by_the_reference():
    hessian, gradient = random_pair(5, 5)
    single = WeingartenOperator(MatrixOperator(hessian.float(), exact=hessian), gradient)
    double = WeingartenOperator(MatrixOperator(hessian), gradient)
    vector = torch.ones(5, dtype=torch.float64)
    torch.testing.assert_close(single.reference().matvec(vector), double.matvec(vector))
    assert double.reference() is double
    assert single.gradient_cost == 0.0
    single.verify()  # a matrix has nothing to verify


def test_verify_passes_through():
    class Changed(MatrixOperator):
        def verify(self):
            raise OperatorError("not one matrix")

    hessian, gradient = random_pair(4, 6)
    with pytest.raises(OperatorError, match="not one matrix"):
        extreme_eigenvalues(WeingartenOperator(Changed(hessian), gradient))


def test_refusals():
    hessian, gradient = random_pair(4, 7)
    with pytest.raises(UsageError, match="MatrixOperator has no gradient of its own"):
        WeingartenOperator(MatrixOperator(hessian))
    with pytest.raises(UsageError, match=r"gradient of shape \(3,\)"):
        WeingartenOperator(MatrixOperator(hessian), gradient[:3])
    with pytest.raises(UsageError, match="norm nan"):
        WeingartenOperator(MatrixOperator(hessian), gradient * torch.nan)
