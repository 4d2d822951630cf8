"""Second differences of the loss against closed forms and vᵀHv."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from saddlescope.curvature import Objective, extreme_eigenvalues, measured_curvature
from saddlescope.errors import OperatorError, UsageError
from tests.curvature.landscape.objectives import function, network, operator_of, quadratic, vector
from tests.curvature.networks import convolutional, images


@pytest.mark.parametrize("step", [None, 1e-3])
def test_of_a_quadratic(step):
    objective = quadratic(0.5, -1.0, 2.0)
    for index, wanted in enumerate((4.0, -2.0, 1.0)):
        direction = 7.0 * torch.eye(3, dtype=torch.float64)[index]  # the length is divided out
        found = measured_curvature(objective, direction, step=step)
        assert abs(found.value - wanted) <= found.error
        assert found.error < (1e-11 if step is None else 1e-7)
        assert found.step == (step or found.step)


@pytest.mark.parametrize("seed", range(5))
def test_of_the_network_in_random_directions(seed):
    objective = network()
    operator = operator_of(objective)
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(operator.size, generator=generator, dtype=torch.float64)
    v = v / v.norm()
    wanted = float(v @ operator.matvec(v))
    found = measured_curvature(objective, v)
    assert abs(found.value - wanted) <= found.error
    assert found.error < 1e-5 * abs(wanted)
    assert found.evaluations < 80


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("float64", [True, False])
def test_of_the_ends_equals_the_eigenvalues(dtype, float64):
    objective = network(dtype)
    ends = extreme_eigenvalues(operator_of(objective), rtol=1e-6, eigenvectors=True)
    for v, estimate in zip(ends.eigenvectors, (ends.lambda_max, ends.lambda_min), strict=True):
        found = measured_curvature(objective, v, float64=float64)
        assert abs(found.value - estimate.value) <= found.error + ends.noise
        limit = 1e-6 if float64 or dtype == torch.float64 else 0.1
        assert found.error < limit * abs(estimate.value)
    assert objective.vector.dtype == dtype


def test_between_the_kinks_of_a_relu_network():
    objective = network(torch.float32, smooth=False)
    ends = extreme_eigenvalues(operator_of(objective), rtol=1e-6, eigenvectors=True)
    for v, estimate in zip(ends.eigenvectors, (ends.lambda_max, ends.lambda_min), strict=True):
        found = measured_curvature(objective, v)
        assert abs(found.value - estimate.value) <= found.error + ends.noise
        assert found.error < 1e-2 * abs(estimate.value)


def test_a_model_that_cannot_be_copied():
    class Stuck(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = convolutional(dtype=torch.float32)

        def forward(self, x):
            return self.inner(x)

        def __deepcopy__(self, memo):
            raise TypeError("holds a handle")

    inputs, targets = images(10)
    data = [(inputs.float(), targets)]
    objective = Objective(Stuck().eval(), nn.CrossEntropyLoss(), data)
    ones = torch.ones(objective.vector.size)
    with pytest.raises(UsageError, match=r"Stuck cannot be copied.*float64=False"):
        measured_curvature(objective, ones)
    assert math.isfinite(measured_curvature(objective, ones, float64=False).value)


def test_the_error_is_honest_at_steps_too_long_and_too_short():
    objective = network()
    operator = operator_of(objective)
    v = torch.ones(operator.size, dtype=torch.float64) / math.sqrt(operator.size)
    wanted = float(v @ operator.matvec(v))
    for step in 10.0 ** np.arange(-7.0, 0.0, 0.5):
        found = measured_curvature(objective, v, step=float(step))
        assert abs(found.value - wanted) <= found.error, step
    automatic = measured_curvature(objective, v)
    assert automatic.error < 1e-6 * abs(wanted)


@pytest.mark.parametrize("exponent", [-8, -3, 3, 8])
def test_scaling_the_loss(exponent):
    factor, objective = 10.0**exponent, network()
    ones = torch.ones(objective.vector.size, dtype=torch.float64)
    plain = measured_curvature(objective, ones)
    objective.criterion = lambda z, y: factor * F.cross_entropy(z, y)
    found = measured_curvature(objective, ones)
    assert abs(found.value - factor * plain.value) <= found.error + factor * plain.error
    assert found.error < 1e-6 * abs(found.value)


def test_noise_is_seen():
    """A loss known to 1e-6 only: the stated noise and error must say so."""
    generator = torch.Generator().manual_seed(0)

    def noisy(w):
        rounding = torch.randn((), generator=generator, dtype=torch.float64)
        return torch.cosh(w).sum() + 1e-6 * rounding

    objective = function(noisy, 0.1, 0.2, 0.3)
    found = measured_curvature(objective, vector(0.0, 1.0, 0.0))
    assert 0.3e-6 < found.noise < 3e-6
    assert abs(found.value - math.cosh(0.2)) <= found.error
    assert 1e-6 < found.error < 0.1


def test_kinks_show_as_error():
    objective = function(lambda w: w[1].abs() + w.sum(), 1.0, 1e-3, 1.0)
    found = measured_curvature(objective, vector(0.0, 1.0, 0.0), step=0.01)
    assert found.value > 50
    assert found.error > 20
    assert measured_curvature(objective, vector(0.0, 1.0, 0.0)).value == pytest.approx(
        0.0, abs=1e-6
    )


def test_at_the_origin_and_on_a_plain():
    found = measured_curvature(
        function(lambda w: torch.cosh(w).sum(), 0.0, 0.0, 0.0), vector(1.0, 0.0, 0.0)
    )
    assert abs(found.value - 1.0) <= found.error < 1e-6
    flat = measured_curvature(function(lambda w: 0 * w.sum(), 1.0, 1.0), vector(1.0, 0.0))
    assert (flat.value, flat.error) == (0.0, 0.0)


def test_refusals():
    objective = quadratic(1.0, 1.0, 1.0)
    with pytest.raises(UsageError, match="direction is zero"):
        measured_curvature(objective, vector(0.0, 0.0, 0.0))
    with pytest.raises(UsageError, match=r"step = 0\.0"):
        measured_curvature(objective, vector(1.0, 0.0, 0.0), step=0.0)
    edge = function(lambda w: torch.sqrt(w).sum(), 0.0, 1.0)
    with pytest.raises(OperatorError, match="a step away from w"):
        measured_curvature(edge, vector(1.0, 0.0))
    with pytest.raises(OperatorError, match="loss is nan at w"):
        measured_curvature(function(lambda w: w.log().sum(), -1.0, 1.0), vector(1.0, 0.0))
