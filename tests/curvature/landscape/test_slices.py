"""Slices of quadratics in closed form, alignments, and no trace left."""

import math

import numpy as np
import pytest
import torch

from saddlescope.curvature import (
    alignment,
    alignments,
    extreme_eigenvalues,
    loss_plane,
    loss_slice,
    measured_curvature,
)
from saddlescope.errors import UsageError
from tests.curvature.landscape.objectives import function, network, operator_of, quadratic, vector


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
