"""Both ends against dense eigenvalues, the stop rules, the verdicts, the scale."""

import math

import pytest
import torch

from saddlescope.curvature.krylov.extreme import extreme_eigenvalues
from saddlescope.curvature.symmetric import MatrixOperator
from saddlescope.errors import UsageError


def with_spectrum(values, *, seed=0, dtype=torch.float64):
    values = torch.as_tensor(values, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(values), len(values), generator=generator, dtype=torch.float64)
    basis, _ = torch.linalg.qr(noise)
    matrix = (basis * values) @ basis.T
    matrix = (matrix + matrix.T) / 2
    return MatrixOperator(matrix.to(dtype), exact=matrix)


BULK = [*torch.linspace(-0.1, 0.1, 90).tolist(), -5.0, -3.0, 10.0, 20.0, 120.0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_both_ends_and_their_eigenvectors(dtype):
    operator = with_spectrum(BULK, dtype=dtype)
    ends = extreme_eigenvalues(operator, rtol=1e-4, eigenvectors=True)
    assert ends.converged
    assert ends.lambda_max.value == pytest.approx(120.0, rel=1e-5)
    assert ends.lambda_min.value == pytest.approx(-5.0, rel=1e-4)
    assert ends.lambda_ratio.value == pytest.approx(24.0, rel=1e-4)
    assert ends.verdict == "negative-curvature"
    for vector, value in zip(ends.eigenvectors, (120.0, -5.0), strict=True):
        assert vector.norm() == pytest.approx(1.0, rel=1e-5)
        assert (operator.matvec(vector) - value * vector).norm() < 1e-2


def test_smaller_magnitude_end_is_found_where_power_iteration_fails():
    """Trap 1 of power iteration: +1 and −0.95 are nearly equal in magnitude."""
    ends = extreme_eigenvalues(with_spectrum([1.0, -0.95, *([0.01] * 40)]))
    assert ends.lambda_max.value == pytest.approx(1.0, rel=1e-6)
    assert ends.lambda_min.value == pytest.approx(-0.95, rel=1e-6)


@pytest.mark.parametrize("exponent", range(-8, 9, 2))
@pytest.mark.parametrize("certify", [False, True])
def test_scaling_the_operator_scales_the_results_and_nothing_else(exponent, certify):
    factor = 10.0**exponent
    plain = with_spectrum(BULK)
    scaled = MatrixOperator(plain.matrix * factor)
    one = extreme_eigenvalues(plain, certify=certify)
    two = extreme_eigenvalues(scaled, certify=certify)
    assert (two.matvecs, two.stop_rule, two.verdict) == (one.matvecs, one.stop_rule, one.verdict)
    for field in ("value", "lower", "upper", "residual"):
        for end in ("lambda_max", "lambda_min"):
            expected = getattr(getattr(one, end), field) * factor
            # The residual of a converged end is rounding itself: compare on the matrix's scale.
            assert getattr(getattr(two, end), field) == pytest.approx(
                expected, rel=1e-8, abs=1e-11 * factor
            )
    assert two.lambda_ratio.value == pytest.approx(one.lambda_ratio.value, rel=1e-9)


def test_certified_stop_reaches_the_asked_interval():
    ends = extreme_eigenvalues(with_spectrum(BULK), certify=True, rtol=1e-3)
    assert ends.stop_rule == "interval"
    assert ends.lambda_min.half_width <= 1e-3 * 5.0 * 1.01
    assert ends.lambda_min.lower <= -5.0 + 1e-9
    assert ends.lambda_min.upper >= -5.0 - 1e-9


def test_running_out_of_products_is_a_result():
    values = torch.cos(torch.linspace(0, math.pi, 400, dtype=torch.float64))
    ends = extreme_eigenvalues(with_spectrum(values), max_matvecs=5, rtol=1e-6)
    assert not ends.converged
    assert (ends.stop_rule, ends.verdict, ends.matvecs) == ("max-matvecs", "not-converged", 5)
    assert ends.lambda_min.lower <= -1 <= ends.lambda_min.upper


def test_semidefinite_operator_stops_and_is_not_called_negative():
    values = [0.0] * 80 + torch.linspace(1, 5, 20).tolist()
    ends = extreme_eigenvalues(with_spectrum(values), certify=True)
    assert ends.converged
    assert ends.verdict == "unresolved"
    assert math.isnan(ends.lambda_ratio.value)
    assert ends.lambda_ratio.upper == math.inf
    assert ends.lambda_ratio.lower > 1e3


def test_positive_definite_operator():
    ends = extreme_eigenvalues(with_spectrum(torch.linspace(1, 3, 20)), rtol=1e-6)
    assert ends.verdict == "positive"
    assert ends.lambda_ratio.value == pytest.approx(3.0, rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 2.5, -2.5])
def test_multiple_of_the_identity_is_exhausted_at_once(value):
    ends = extreme_eigenvalues(with_spectrum([value] * 10))
    assert ends.matvecs == 1
    assert ends.stop_rule == "exhausted"
    assert ends.lambda_max.value == pytest.approx(value, abs=1e-12)


def test_one_dimension():
    ends = extreme_eigenvalues(MatrixOperator(torch.tensor([[-3.0]]).double()))
    assert ends.lambda_max.value == ends.lambda_min.value == -3.0
    assert ends.lambda_ratio.value == 1.0


def test_repeating_gives_the_same_bits():
    one = extreme_eigenvalues(with_spectrum(BULK, dtype=torch.float32), seed=5)
    two = extreme_eigenvalues(with_spectrum(BULK, dtype=torch.float32), seed=5)
    assert one == two


@pytest.mark.parametrize(
    "options",
    [{"rtol": 0}, {"rtol": 1}, {"atol": -1}, {"confidence": 1}, {"max_matvecs": 0}],
)
def test_options_out_of_range_are_named(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        extreme_eigenvalues(with_spectrum(BULK), **options)


@pytest.mark.parametrize("end", ["lambda_max", "lambda_min"])
def test_an_error_along_one_eigenvector_alone_is_covered(end):
    matrix = with_spectrum(BULK).matrix
    values, vectors = torch.linalg.eigh(matrix)
    index = -1 if end == "lambda_max" else 0
    error = 1e-3 * torch.outer(vectors[:, index], vectors[:, index])
    for sign in (1.0, -1.0):
        operator = MatrixOperator((matrix + sign * error).float(), exact=matrix)
        ends = extreme_eigenvalues(operator, rtol=1e-4, certify=True)
        estimate = getattr(ends, end)
        assert estimate.lower <= values[index].item() <= estimate.upper
        assert 1e-3 <= ends.noise < 1.2e-3
