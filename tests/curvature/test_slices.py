"""Slices of quadratics in closed form, second differences against vᵀHv, and no trace left."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import convolutional, images
from torch import nn

from saddlescope.curvature import HessianOperator, Objective, extreme_eigenvalues
from saddlescope.curvature.slices import (
    alignment,
    alignments,
    loss_plane,
    loss_slice,
    measured_curvature,
)
from saddlescope.errors import OperatorError, UsageError


class Weights(nn.Module):
    """A model whose output is its parameters, so that any function of w is an objective."""

    def __init__(self, *values, dtype=torch.float64):
        super().__init__()
        self.left = nn.Parameter(torch.tensor(values[:1], dtype=dtype))
        self.right = nn.Parameter(torch.tensor(values[1:], dtype=dtype))

    def forward(self, x):
        return torch.cat([self.left, self.right])


def function(f, *values, dtype=torch.float64):
    data = [(torch.zeros(1, 1, dtype=dtype), torch.zeros(1))]
    return Objective(Weights(*values, dtype=dtype), lambda w, _: f(w), data)


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def quadratic(*values, dtype=torch.float64):
    """½·wᵀ·diag(4, −2, 1)·w + w_0."""
    curvature = torch.tensor([4.0, -2.0, 1.0], dtype=dtype)
    return function(lambda w: 0.5 * (curvature * w * w).sum() + w[0], *values, dtype=dtype)


def network(dtype=torch.float64, n=30, smooth=True):
    model, (inputs, targets) = convolutional(dtype=dtype), images(n)
    if not smooth:
        model[2] = nn.ReLU()
    data = [(inputs[:12].to(dtype), targets[:12]), (inputs[12:].to(dtype), targets[12:])]
    return Objective(model, nn.CrossEntropyLoss(), data)


def operator_of(objective):
    return HessianOperator(objective.model, objective.criterion, objective._source)


class TestSlices:
    def test_slice_of_a_quadratic_is_a_parabola(self):
        objective, radii = quadratic(0.5, -1.0, 2.0), np.linspace(-2, 2, 9)
        found = loss_slice(objective, vector(0.0, 1.0, 0.0), radii)
        start = 0.5 * (4 * 0.25 - 2 + 4) + 0.5
        # −½·2·((a − 1)² − 1) around w_1 = −1; every number here is a binary fraction.
        np.testing.assert_array_equal(found.losses, start - ((radii - 1) ** 2 - 1))
        np.testing.assert_array_equal(found.radii, radii)

    def test_plane_of_a_quadratic_separates(self):
        objective, radii = quadratic(0.5, -1.0, 2.0), [-1.0, 0.0, 0.5]
        first, second = vector(1.0, 0.0, 0.0), vector(0.0, 0.0, 2.0)
        plane = loss_plane(objective, first, second, radii, second_radii=[0.0, 0.25])
        assert plane.losses.shape == (3, 2)
        along_first = loss_slice(objective, first, radii).losses
        along_second = loss_slice(objective, second, [0.0, 0.25]).losses
        np.testing.assert_array_equal(
            plane.losses, along_first[:, None] + along_second - objective.loss()
        )
        assert loss_plane(objective, first, second, radii).losses.shape == (3, 3)

    def test_a_network_agrees_with_moving_it_by_hand(self):
        objective = network()
        generator = torch.Generator().manual_seed(0)
        size = objective.vector.size
        u, v = (torch.randn(size, generator=generator, dtype=torch.float64) for _ in range(2))
        plane = loss_plane(objective, u, v, [0.1], second_radii=[-0.2])
        moved = network()
        with torch.no_grad():
            step = moved.vector.split(0.1 * u - 0.2 * v)
            for parameter, part in zip(moved.vector.tensors, step, strict=True):
                parameter += part
        assert plane.losses[0, 0] == pytest.approx(moved.loss(), rel=1e-13)
        assert loss_slice(objective, v, [0.0]).losses[0] == pytest.approx(
            objective.loss(), rel=1e-14
        )

    def test_parameters_come_back_bit_by_bit_and_operators_stay_valid(self):
        objective = network()
        operator = operator_of(objective)
        probe = torch.ones(operator.size, dtype=torch.float64)
        product = operator.matvec(probe)
        before = [(p.data_ptr(), p._version, p.detach().clone()) for p in objective.vector.tensors]
        loss_slice(objective, probe, [0.3, -0.7])
        loss_plane(objective, probe, probe, [0.3])
        measured_curvature(objective, probe)
        for parameter, (address, version, content) in zip(
            objective.vector.tensors, before, strict=True
        ):
            assert parameter.data_ptr() == address
            assert parameter._version == version
            assert torch.equal(parameter, content)
        assert torch.equal(operator.matvec(probe), product)

    def test_parameters_come_back_after_an_exception(self):
        def fails(w):
            if float(w[0].detach()) != 0.5:
                raise RuntimeError("on purpose")
            return w.sum()

        objective = function(fails, 0.5, 1.0, 2.0)
        left = objective.model.left
        before = left.data_ptr(), left._version
        for call in (
            lambda: loss_slice(objective, vector(1.0, 1.0, 1.0), [0.0, 1.0]),
            lambda: loss_plane(objective, vector(1.0, 1.0, 1.0), vector(0.0, 1.0, 0.0), [1.0]),
            lambda: measured_curvature(objective, vector(1.0, 1.0, 1.0)),
        ):
            with pytest.raises(RuntimeError, match="on purpose"):
                call()
            assert (left.data_ptr(), left._version) == before
            assert left.item() == 0.5

    def test_refusals(self):
        objective = quadratic(1.0, 1.0, 1.0)
        with pytest.raises(UsageError, match=r"expected \(3,\)"):
            loss_slice(objective, torch.ones(2), [0.0])
        with pytest.raises(UsageError, match="NaN or Inf"):
            loss_slice(objective, vector(1.0, math.nan, 0.0), [0.0])


class TestMeasuredCurvature:
    @pytest.mark.parametrize("step", [None, 1e-3])
    def test_of_a_quadratic(self, step):
        objective = quadratic(0.5, -1.0, 2.0)
        for index, wanted in enumerate((4.0, -2.0, 1.0)):
            direction = 7.0 * torch.eye(3, dtype=torch.float64)[index]  # the length is divided out
            found = measured_curvature(objective, direction, step=step)
            assert abs(found.value - wanted) <= found.error
            assert found.error < (1e-11 if step is None else 1e-7)
            assert found.step == (step or found.step)

    @pytest.mark.parametrize("seed", range(5))
    def test_of_the_network_in_random_directions(self, seed):
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
    def test_of_the_ends_equals_the_eigenvalues(self, dtype, float64):
        objective = network(dtype)
        ends = extreme_eigenvalues(operator_of(objective), rtol=1e-6, eigenvectors=True)
        for v, estimate in zip(ends.eigenvectors, (ends.lambda_max, ends.lambda_min), strict=True):
            found = measured_curvature(objective, v, float64=float64)
            assert abs(found.value - estimate.value) <= found.error + ends.noise
            limit = 1e-6 if float64 or dtype == torch.float64 else 0.1
            assert found.error < limit * abs(estimate.value)
        assert objective.vector.dtype == dtype

    def test_between_the_kinks_of_a_relu_network(self):
        objective = network(torch.float32, smooth=False)
        ends = extreme_eigenvalues(operator_of(objective), rtol=1e-6, eigenvectors=True)
        for v, estimate in zip(ends.eigenvectors, (ends.lambda_max, ends.lambda_min), strict=True):
            found = measured_curvature(objective, v)
            assert abs(found.value - estimate.value) <= found.error + ends.noise
            assert found.error < 1e-2 * abs(estimate.value)

    def test_a_model_that_cannot_be_copied(self):
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

    def test_the_error_is_honest_at_steps_too_long_and_too_short(self):
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
    def test_scaling_the_loss(self, exponent):
        factor, objective = 10.0**exponent, network()
        ones = torch.ones(objective.vector.size, dtype=torch.float64)
        plain = measured_curvature(objective, ones)
        objective.criterion = lambda z, y: factor * F.cross_entropy(z, y)
        found = measured_curvature(objective, ones)
        assert abs(found.value - factor * plain.value) <= found.error + factor * plain.error
        assert found.error < 1e-6 * abs(found.value)

    def test_noise_is_seen(self):
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

    def test_kinks_show_as_error(self):
        objective = function(lambda w: w[1].abs() + w.sum(), 1.0, 1e-3, 1.0)
        found = measured_curvature(objective, vector(0.0, 1.0, 0.0), step=0.01)
        assert found.value > 50
        assert found.error > 20
        assert measured_curvature(objective, vector(0.0, 1.0, 0.0)).value == pytest.approx(
            0.0, abs=1e-6
        )

    def test_at_the_origin_and_on_a_plain(self):
        found = measured_curvature(
            function(lambda w: torch.cosh(w).sum(), 0.0, 0.0, 0.0), vector(1.0, 0.0, 0.0)
        )
        assert abs(found.value - 1.0) <= found.error < 1e-6
        flat = measured_curvature(function(lambda w: 0 * w.sum(), 1.0, 1.0), vector(1.0, 0.0))
        assert (flat.value, flat.error) == (0.0, 0.0)

    def test_refusals(self):
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


class TestAlignment:
    def test_is_a_cosine_at_any_length(self):
        v, u = vector(1.0, 0.0, 0.0), vector(1.0, 1.0, 0.0)
        assert alignment(v, u) == pytest.approx(math.sqrt(0.5))
        assert alignment(1e-30 * v, -1e30 * u) == pytest.approx(-math.sqrt(0.5))
        assert alignment(v.float(), v) == 1.0
        assert math.isnan(alignment(v, 0 * u))
        with pytest.raises(UsageError, match="one length"):
            alignment(v, u[:2])

    def test_of_gradient_and_updates_with_the_ends(self):
        objective = network()
        operator = operator_of(objective)
        ends = extreme_eigenvalues(operator, eigenvectors=True)
        gradient = operator.gradient
        v_max, v_min = ends.eigenvectors
        rows = alignments(ends, gradient, {"sgd": -0.1 * gradient, "escape": 3 * v_min})
        assert [row.name for row in rows] == ["gradient", "sgd", "escape"]
        norm = gradient.norm().item()
        assert rows[0].norm == pytest.approx(norm)
        assert rows[0].v_min == pytest.approx(abs((v_min @ gradient).item()) / norm)
        assert rows[0].v_max == pytest.approx(abs((v_max @ gradient).item()) / norm)
        assert (rows[1].v_max, rows[1].v_min) == pytest.approx((-rows[0].v_max, -rows[0].v_min))
        assert rows[2].norm == pytest.approx(3.0)
        assert abs(rows[2].v_min) == pytest.approx(1.0)
        assert rows[2].v_max == pytest.approx(0.0, abs=1e-10)
        with pytest.raises(UsageError, match="eigenvectors=True"):
            alignments(extreme_eigenvalues(operator), gradient)
