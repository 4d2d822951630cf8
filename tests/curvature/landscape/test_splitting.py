"""H = G + R along an end, against dense matrices; and why λ_min < 0 in a network of ReLUs."""

import numpy as np
import pytest
import torch
from torch import nn

from saddlescope.curvature import (
    BatchLoss,
    GaussNewtonOperator,
    HessianOperator,
    build_operator,
    extreme_eigenvalues,
    split_curvature,
)
from saddlescope.curvature.reference import dense_matrix
from saddlescope.errors import UsageError
from tests.curvature.networks import convolutional, images


def relu_network(*, dtype=torch.float64, seed=0):
    """Convolution, BatchNorm in eval mode, ReLU, twice, and a linear layer."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(4),
        nn.Flatten(), nn.Linear(4, 4),
    ).double()  # fmt: skip
    for layer in (model[1], model[5]):
        layer.running_mean.normal_(std=0.1)
        layer.running_var.uniform_(0.5, 2.0)
    return model.to(dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("network", [convolutional, relu_network])
def test_the_parts_are_those_of_the_dense_matrices(network, dtype):
    data = images(12, dtype=dtype)
    criterion = nn.CrossEntropyLoss()
    H = HessianOperator(network(dtype=dtype), criterion, [data])
    ends = extreme_eigenvalues(H, rtol=1e-4, eigenvectors=True)
    found = split_curvature(ends, H)

    exact = network()
    exact.load_state_dict(H.objective.model.state_dict())  # the very weights that were measured
    wide = [(data[0].double(), data[1])]
    whole = HessianOperator(exact, criterion, wide)
    hessian = dense_matrix(whole)
    convex = dense_matrix(GaussNewtonOperator(exact, criterion, wide))
    gradient = whole.gradient
    assert [part.direction for part in found.parts] == ["v_max", "v_min", "gradient"]
    vectors = (*ends.eigenvectors.double(), -gradient / gradient.norm())
    scale = float(hessian.norm())
    for part, v in zip(found.parts, vectors, strict=True):
        assert part.hessian == pytest.approx(float(v @ hessian @ v), abs=1e-6 * scale)
        assert part.gauss_newton == pytest.approx(float(v @ convex @ v), abs=1e-6 * scale)
        assert part.remainder == pytest.approx(part.hessian - part.gauss_newton)
        cosine = abs(float(v @ gradient)) / float(gradient.norm() * v.norm())
        assert part.cos_gradient == pytest.approx(cosine, abs=1e-6)
        # Downhill ahead: the losses of both sides, from the model itself.
        turned = v if float(v @ gradient) <= 0 else -v
        origin = torch.nn.utils.parameters_to_vector(exact.parameters()).detach()
        for s, ahead, behind, curvature in zip(
            part.distances, part.losses_ahead, part.losses_behind, part.curvatures, strict=True
        ):
            values = []
            for a in (s, -s, 0.0):
                torch.nn.utils.vector_to_parameters(origin + a * turned, exact.parameters())
                values.append(criterion(exact(wide[0][0]), wide[0][1]).item())
            torch.nn.utils.vector_to_parameters(origin, exact.parameters())
            assert (ahead, behind) == pytest.approx(tuple(values[:2]), rel=1e-6)
            second = (values[0] + values[1] - 2 * values[2]) / s**2
            assert curvature == pytest.approx(second, abs=1e-5 * scale)
    assert found.loss == pytest.approx(criterion(exact(wide[0][0]), wide[0][1]).item())
    assert found.gradient_loss_ratio == pytest.approx(float(gradient @ gradient) / found.loss)
    assert found.parts[1].gauss_newton >= 0  # cross-entropy is convex in the logits
    assert found.cost > 5


def test_within_one_tensor_a_relu_network_has_no_remainder():
    """Piecewise linear in each tensor: its block of H is that of G, and R has zero trace."""
    data = images(12)
    model, criterion = relu_network(), nn.CrossEntropyLoss()
    remainder = dense_matrix(
        build_operator("hessian-minus-gauss-newton", model, criterion, [data]).matrix
    )
    hessian = dense_matrix(HessianOperator(model, criterion, [data]))
    start = 0
    for name, tensor in model.named_parameters():
        block = slice(start, start + tensor.numel())
        start += tensor.numel()
        assert remainder[block, block].abs().max() < 1e-12 * hessian.abs().max(), name
    assert float(remainder.abs().max()) > 1e-3 * float(hessian.abs().max())
    assert abs(float(remainder.trace())) < 1e-12 * float(hessian.norm())
    values = torch.linalg.eigvalsh(remainder)
    assert values[0] < 0 < values[-1]
    assert float(torch.linalg.eigvalsh(hessian)[0]) < 0  # untrained and yet no λ_min ≥ 0

    # A smooth activation is not linear in the first layer's weights, and the block is another.
    smooth = dense_matrix(
        build_operator("hessian-minus-gauss-newton", convolutional(), criterion, [data]).matrix
    )
    assert smooth[:27, :27].abs().max() > 1e-6


def test_r_lies_between_its_ends():
    data, criterion = images(12), nn.CrossEntropyLoss()
    model = relu_network()
    H = HessianOperator(model, criterion, [data])
    parts = split_curvature(extreme_eigenvalues(H, eigenvectors=True), H).parts
    rest = build_operator("hessian-minus-gauss-newton", model, criterion, [data]).matrix
    ends = extreme_eigenvalues(rest, certify=True)
    for part in parts:
        assert ends.lambda_min.lower <= part.remainder <= ends.lambda_max.upper


def test_what_cannot_be_split_is_refused():
    data, criterion = images(4), nn.CrossEntropyLoss()
    H = HessianOperator(convolutional(), criterion, [data])
    with pytest.raises(UsageError, match="eigenvectors=True"):
        split_curvature(extreme_eigenvalues(H), H)
    ends = extreme_eigenvalues(H, eigenvectors=True)
    for wrong in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(UsageError, match="positive distances"):
            split_curvature(ends, H, distances=[wrong])
    whole = BatchLoss(lambda model, batch: criterion(model(batch[0]), batch[1]))
    K = HessianOperator(convolutional(), whole, [data])
    with pytest.raises(UsageError, match="outputs apart from the criterion"):
        split_curvature(extreme_eigenvalues(K, eigenvectors=True), K)


def test_at_a_stationary_point_there_is_no_gradient_to_split():
    """½Σ(w·x − 0)² at w = 0 of a linear model: H = XᵀX/n = G, loss and gradient 0."""
    model = nn.Linear(3, 1, bias=False).double().eval()
    nn.init.zeros_(model.weight)
    torch.manual_seed(0)
    inputs = torch.randn(6, 3, dtype=torch.float64)
    H = HessianOperator(model, nn.MSELoss(), [(inputs, torch.zeros(6, 1, dtype=torch.float64))])
    found = split_curvature(extreme_eigenvalues(H, eigenvectors=True), H)
    assert [part.direction for part in found.parts] == ["v_max", "v_min"]
    assert np.isnan(found.gradient_loss_ratio)
    for part in found.parts:
        assert part.remainder == pytest.approx(0.0, abs=1e-12)
        np.testing.assert_allclose(part.curvatures, part.hessian)
