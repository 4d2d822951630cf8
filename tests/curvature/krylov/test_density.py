"""Density, moments and trace against dense spectra in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from saddlescope.curvature import HessianOperator, MatrixOperator, spectral_density, trace
from saddlescope.curvature.krylov.density import ProbeEstimate, probe_start
from saddlescope.curvature.reference import dense_matrix
from saddlescope.errors import OperatorError, UsageError
from tests.curvature.matrices import network_like, with_spectrum
from tests.curvature.networks import convolutional, images


class TestDensity:
    def test_moments_are_exact_to_the_degree_of_the_gauss_rule(self):
        matrix, steps = with_spectrum(network_like(60)), 6
        density = spectral_density(MatrixOperator(matrix), steps=steps, probes=3, seed=5)
        assert density.nodes.shape == density.weights.shape == (3, steps)
        assert density.matvecs == 3 * steps
        for power in range(2 * steps):
            starts = [probe_start(60, 5, index) for index in range(3)]
            wanted = [(v @ torch.linalg.matrix_power(matrix, power) @ v).item() for v in starts]
            found = density.moment(power)
            assert found.value == pytest.approx(np.mean(wanted), rel=1e-9)
            error = np.std(wanted, ddof=1) / np.sqrt(3)
            assert found.standard_error == pytest.approx(error, rel=1e-8, abs=1e-14)
        # One degree further the rule is only approximate, from below for an even derivative.
        exact = np.mean([(v @ torch.linalg.matrix_power(matrix, 12) @ v).item() for v in starts])
        assert density.moment(2 * steps).value < exact

    def test_the_distribution_function_approaches_the_dense_one(self):
        values = network_like(300)
        matrix = with_spectrum(values)
        # Off the eigenvalues, so that steps of both functions do not compete there.
        grid = np.linspace(-6, 41, 2001)
        truth = (values[None, :] <= grid[:, None]).mean(1)
        distances = []
        for steps, probes in ((5, 2), (20, 8), (60, 64)):
            density = spectral_density(MatrixOperator(matrix), steps=steps, probes=probes)
            distances.append(np.abs(density.cumulative(grid).mean - truth).max())
        assert distances[0] > 2 * distances[1] > 4 * distances[2]
        assert distances[2] < 0.03

    def test_mass_is_one_and_the_density_is_the_slope_of_the_distribution(self):
        matrix = with_spectrum(network_like())
        density = spectral_density(MatrixOperator(matrix), steps=40, probes=5)
        np.testing.assert_allclose(density.weights.sum(1), 1.0, rtol=1e-12)
        grid = np.linspace(-10, 50, 20001)
        for sigma in (None, 0.2):
            curve = density.evaluate(grid, sigma=sigma)
            assert np.trapezoid(curve.mean, grid) == pytest.approx(1.0, rel=1e-6)
        assert curve.mean.shape == curve.spread.shape == grid.shape
        assert (curve.mean >= 0).all()
        slope = np.gradient(density.cumulative(grid, sigma=0.2).mean, grid)
        np.testing.assert_allclose(slope, curve.mean, atol=1e-3)

    def test_the_smoothed_density_matches_the_smoothed_spectrum_within_its_spread(self):
        values = network_like(300)
        density = spectral_density(MatrixOperator(with_spectrum(values)), steps=60, probes=16)
        grid, sigma = np.linspace(-1.5, 1.5, 61), 0.2
        truth = np.exp(-0.5 * ((grid[:, None] - values) / sigma) ** 2).mean(1)
        truth /= sigma * np.sqrt(2 * np.pi)
        curve = density.evaluate(grid, sigma=sigma)
        errors = np.abs(curve.mean - truth) / (curve.spread / np.sqrt(16))
        assert np.median(errors) < 1.5
        assert errors.max() < 4

    @pytest.mark.parametrize("factor", [1e-8, 1e-4, 1e8])
    def test_scaling_the_operator_scales_the_result(self, factor):
        """PyHessian's absolute epsilon put λ_max 14 % low at a scale of 1e-4."""
        matrix = with_spectrum(network_like(80))
        plain = spectral_density(MatrixOperator(matrix), steps=30, probes=4)
        scaled = spectral_density(MatrixOperator(factor * matrix), steps=30, probes=4)
        np.testing.assert_allclose(scaled.nodes, factor * plain.nodes, atol=factor * 1e-9)
        np.testing.assert_allclose(scaled.weights, plain.weights, atol=1e-9)
        assert scaled.trace.value == pytest.approx(factor * plain.trace.value, rel=1e-12)
        assert scaled.trace.standard_error == pytest.approx(factor * plain.trace.standard_error)
        grid = np.linspace(-6, 41, 101)
        np.testing.assert_allclose(
            factor * scaled.evaluate(factor * grid).mean, plain.evaluate(grid).mean, atol=1e-7
        )

    def test_exhausted_probes_are_padded_with_weight_zero(self):
        matrix = with_spectrum([3.0, -1.0, 0.0, 0.0, 0.0, 0.0])
        density = spectral_density(MatrixOperator(matrix), steps=6, probes=40)
        # Three distinct eigenvalues; rounding may grant a probe a fourth step, never a sixth.
        assert density.nodes.shape[1] in (3, 4)
        assert 3 * 40 <= density.matvecs <= 4 * 40
        np.testing.assert_allclose(density.weights.sum(1), 1.0, rtol=1e-12)
        shares = density.cumulative(np.array([-2.0, -0.5, 0.5, 4.0])).mean
        np.testing.assert_allclose(shares, [0, 1 / 6, 5 / 6, 1], atol=0.1)
        mixed = torch.zeros(4, 4, dtype=torch.float64)
        constant = spectral_density(MatrixOperator(mixed), steps=3, probes=2)
        assert constant.moment(1).value == 0.0
        with pytest.raises(UsageError, match="all nodes coincide"):
            constant.evaluate(np.zeros(1))

    def test_more_probes_leave_the_first_ones_as_they_are(self):
        operator = MatrixOperator(with_spectrum(network_like(40)))
        few = spectral_density(operator, steps=10, probes=2, seed=3)
        many = spectral_density(operator, steps=10, probes=5, seed=3)
        np.testing.assert_array_equal(many.nodes[:2], few.nodes)
        other = spectral_density(operator, steps=10, probes=2, seed=4)
        assert not np.allclose(other.nodes, few.nodes)
        assert np.isnan(spectral_density(operator, steps=5, probes=1).trace.standard_error)

    def test_on_a_network(self):
        operator = HessianOperator(convolutional(), nn.CrossEntropyLoss(), [images(20)])
        values = torch.linalg.eigvalsh(dense_matrix(operator)).numpy()
        density = spectral_density(operator, steps=40, probes=10)
        # From one start vector with no zero component the outer nodes are the eigenvalues.
        np.testing.assert_allclose(density.nodes[:, -1], values[-1], rtol=1e-8)
        np.testing.assert_allclose(density.nodes[:, 0], values[0], rtol=1e-8)
        estimate = density.trace
        assert abs(estimate.value - values.sum()) < 4 * estimate.standard_error

    def test_refusals(self):
        operator = MatrixOperator(with_spectrum([1.0, 2.0]))
        with pytest.raises(UsageError, match="probes = 0"):
            spectral_density(operator, probes=0)
        with pytest.raises(UsageError, match="steps = 0"):
            spectral_density(operator, steps=0)
        with pytest.raises(UsageError, match=r"sigma = -1\.0"):
            spectral_density(operator).evaluate(np.zeros(1), sigma=-1.0)


class TestTrace:
    @pytest.mark.parametrize("deflation", [0, 10])
    def test_within_its_standard_error_over_seeds(self, deflation):
        values = network_like()
        operator = MatrixOperator(with_spectrum(values))
        estimates = [
            trace(operator, probes=30, deflation=deflation, seed=seed) for seed in range(60)
        ]
        scores = [(e.value - values.sum()) / e.standard_error for e in estimates]
        # Student's t with 29 degrees of freedom: mean 0 ± 0.13, standard deviation 1.04 ± 0.1.
        assert abs(np.mean(scores)) < 0.5
        assert 0.75 < np.std(scores) < 1.35
        assert np.abs(scores).max() < 4.5

    @pytest.mark.parametrize("spectrum", ["network", "rank one", "normal"])
    def test_few_probes_state_their_error_honestly(self, spectrum):
        """At 5 probes the spread of the estimates alone gave 85 % within two standard errors."""
        values = {
            "network": network_like(60),
            "rank one": np.array([1.0] + [0.0] * 39),
            "normal": np.random.default_rng(0).normal(size=50),
        }[spectrum]
        operator = MatrixOperator(with_spectrum(values))
        found = [trace(operator, probes=5, seed=seed) for seed in range(400)]
        errors = np.array([one.value for one in found]) - values.sum()
        stated = np.array([one.standard_error for one in found])
        # The variance is known in closed form: 2·(‖A‖² − Σ a_ii²)/5.
        squares = operator.matrix.square().sum() - operator.matrix.diagonal().square().sum()
        exact = float((2 * squares / 5).sqrt())
        assert np.sqrt((stated**2).mean()) == pytest.approx(exact, rel=0.1)
        assert (np.abs(errors) <= 2 * stated).mean() > 0.88
        inside = [one.interval(0.95) for one in found]
        truth = values.sum()
        covered = np.mean([low <= truth <= high for low, high in inside])
        assert covered >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 400)

    def test_student_interval(self):
        one = ProbeEstimate(3.0, 0.5, 5)
        assert one.interval(0.95) == pytest.approx((3 - 0.5 * 2.776445, 3 + 0.5 * 2.776445))
        with pytest.raises(UsageError, match="confidence = 95"):
            one.interval(95)

    def test_deflation_removes_the_outliers_share_of_the_error(self):
        operator = MatrixOperator(with_spectrum(network_like()))
        plain = trace(operator, probes=30)
        deflated = trace(operator, probes=30, deflation=15)
        assert deflated.standard_error < 0.3 * plain.standard_error

    def test_exact_where_it_must_be(self):
        diagonal = torch.tensor([3.0, -1.0, 0.5, 8.0], dtype=torch.float64)
        exact = trace(MatrixOperator(torch.diag(diagonal)), probes=2)
        assert exact.value == pytest.approx(10.5, rel=1e-14)
        low_rank = with_spectrum([4.0, -2.0] + [0.0] * 20)
        found = trace(MatrixOperator(low_rank), probes=3, deflation=4)
        assert found.value == pytest.approx(2.0, rel=1e-10)
        assert found.standard_error < 1e-12

    @pytest.mark.parametrize("factor", [1e-200, 1e-8, 1e8])
    @pytest.mark.parametrize("deflation", [0, 5])
    def test_scaling(self, factor, deflation):
        matrix = with_spectrum(network_like(50))
        plain = trace(MatrixOperator(matrix), deflation=deflation)
        scaled = trace(MatrixOperator(factor * matrix), deflation=deflation)
        assert scaled.value == pytest.approx(factor * plain.value, rel=1e-9)
        assert scaled.standard_error == pytest.approx(factor * plain.standard_error, rel=1e-9)

    def test_refusals(self):
        operator = MatrixOperator(with_spectrum([1.0, 2.0]))
        with pytest.raises(UsageError, match="deflation = 2"):
            trace(operator, deflation=2)
        with pytest.raises(OperatorError, match="NaN or Inf"):
            trace(MatrixOperator(operator.matrix * torch.nan))


def test_steps_that_do_not_fit_are_refused_with_the_number_that_does():
    operator = MatrixOperator(torch.eye(100).double())
    with pytest.raises(UsageError, match=r"steps = 30 needs 0\.0237 MiB .* steps = 19 fits"):
        spectral_density(operator, steps=30, basis_memory=20 * 800)
    assert spectral_density(operator, steps=19, probes=1, basis_memory=20 * 800).matvecs == 1


def test_a_sketch_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(
        "saddlescope.curvature.krylov.density.default_budget", lambda device: 40 * 800
    )
    operator = MatrixOperator(torch.eye(100).double())
    with pytest.raises(UsageError, match="deflation = 13 fits"):
        trace(operator, deflation=20)
    assert trace(operator, deflation=13, probes=1).value == pytest.approx(100.0, rel=1e-2)
