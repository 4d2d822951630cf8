"""Both ends against dense eigenvalues, the stop rules, the verdicts, the scale."""

import math

import pytest
import torch

from saddlescope.curvature.krylov.extreme import extreme_eigenvalues
from saddlescope.curvature.krylov.temple import temple_bounds
from saddlescope.curvature.operators.symmetric import MatrixOperator
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


@pytest.mark.parametrize(
    ("dtype", "factor"),
    [
        *(
            (torch.float64, f)
            for f in (1e-300, 1e-250, 1e-170, 1e-162, 1e-150, 1e150, 1e200, 1e290)
        ),
        *((torch.float32, f) for f in (1e-34, 1e-30, 1e-23, 1e-20, 1e19, 1e30)),
    ],
)
@pytest.mark.parametrize("memory", [None, 25])
def test_entries_whose_squares_are_no_numbers(dtype, factor, memory):
    """A norm that underflows to 0 ended the run at once: an interval of no width, *positive*."""
    plain = with_spectrum(BULK)
    operator = MatrixOperator((factor * plain.matrix).to(dtype))
    memory = None if memory is None else memory * len(BULK) * dtype.itemsize
    ends = extreme_eigenvalues(
        operator, rtol=1e-6, certify=True, basis_memory=memory, eigenvectors=True
    )
    truth = torch.linalg.eigvalsh(operator.matrix.double() / factor)
    assert ends.verdict == "negative-curvature"
    tight = 1e-6 if dtype == torch.float64 else 1e-4
    for end, right in ((ends.lambda_min, truth[0]), (ends.lambda_max, truth[-1])):
        assert end.value / factor == pytest.approx(float(right), rel=tight)
        assert end.lower / factor - 1e-12 <= right <= end.upper / factor + 1e-12
    for bound, right in zip(
        (lambda b: (b.lambda_min, b.lambda_max))(temple_bounds(operator, ends)),
        (truth[0], truth[-1]),
        strict=True,
    ):
        assert bound.gap > 0
        assert bound.lower / factor <= right + 1e-12
        assert bound.upper / factor >= right - 1e-12


def test_a_matrix_of_zeros():
    ends = extreme_eigenvalues(MatrixOperator(torch.zeros(9, 9).double()))
    assert ends.lambda_min.lower == ends.lambda_max.upper == 0.0
    assert ends.verdict == "unresolved"


@pytest.mark.parametrize("rtol", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("certify", [False, True])
def test_the_floor_follows_rtol_and_is_named_where_it_decided(rtol, certify):
    """λ_min is a hundredth of λ_max: a fixed floor of 1e-5·‖H‖ stopped at 1e-3 of it."""
    operator = with_spectrum([*torch.linspace(-0.9, 0.9, 90).tolist(), -1.0, 100.0])
    word = "interval" if certify else "residual"
    fine = extreme_eigenvalues(operator, rtol=rtol, certify=certify, max_matvecs=90)
    assert fine.stop_rule == word
    error = fine.lambda_min.half_width if certify else fine.lambda_min.residual
    assert error <= rtol
    coarse = extreme_eigenvalues(operator, rtol=rtol, atol=0.1, certify=certify, max_matvecs=90)
    assert coarse.stop_rule == f"{word}-floor"
    assert coarse.matvecs < fine.matvecs
    assert coarse.converged


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
