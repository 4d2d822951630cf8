"""The check finds what it must: all tools agree on a right instrument, and a wrong one is named."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from saddlescope.curvature import StopRule, TensorSamples, extreme_eigenvalues
from saddlescope.curvature.operators.hessian import HessianOperator
from saddlescope.curvature.reference import Reference
from saddlescope.errors import DataError, UsageError
from saddlescope.measurement import Target, check_target, contradictions, smallest_class
from saddlescope.measurement.check import checking as module
from saddlescope.measurement.check.agreement import INSTRUMENT, compared

TOOLS = [
    INSTRUMENT, "dense", "scipy eigsh", "pyhessian", "second difference", "second difference",
    "symmetry", "same product twice", "double-backward product", "traced product",
]  # fmt: skip


def target(*, dtype=torch.float32, width=5, make=nn.Tanh):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, width), make(), nn.Linear(width, 3)).to(dtype).eval()
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(40, 4, generator=generator, dtype=dtype)
    classes = torch.tensor([0] * 20 + [1] * 12 + [2] * 8)
    samples = TensorSamples(inputs, classes, groups={"tail": [1, 2]})
    return Target(model=model, criterion=nn.CrossEntropyLoss(), samples=samples, identity={})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", [nn.Tanh, nn.ReLU])
def test_all_agree_on_a_right_instrument(dtype, make):
    rows = check_target(target(dtype=dtype, make=make), classes=[2], groups=("tail",))
    assert [row.tool for row in rows] == 2 * TOOLS
    assert [(row.kind, row.name, row.n) for row in rows[:: len(TOOLS)]] == [
        ("group", "tail", 20), ("class", "2", 8),
    ]  # fmt: skip
    assert not contradictions(rows)
    for row in rows:
        assert row.agrees is (None if row.tool == INSTRUMENT else True), row
    measured, dense, scipy, power = rows[:4]
    assert measured.converged
    assert measured.lambda_max_upper - measured.lambda_max_lower <= 0.02 * measured.lambda_max
    assert dense.products == 43
    assert scipy.lambda_min == pytest.approx(dense.lambda_min, rel=1e-6)
    assert power.lambda_min is None
    assert power.lambda_min_inside is None
    assert "no λ_min" in power.note


def test_the_first_samples_take_part():
    few = target()
    rows = check_target(few, classes=[0], samples=3)
    batch = (few.samples.values[:3], few.samples.targets[:3])
    truth = extreme_eigenvalues(
        HessianOperator(few.model, few.criterion, [batch]), rtol=1e-2, certify=True
    )
    assert rows[0].n == 3
    assert rows[0].lambda_min == pytest.approx(truth.lambda_min.value, rel=1e-3)


@pytest.mark.parametrize("seed", [-1, 1 << 63])
def test_a_seed_out_of_range_is_refused_before_the_work(monkeypatch, seed):
    monkeypatch.setattr(module, "extreme_eigenvalues", None)
    with pytest.raises(UsageError, match=r"seed = .*: expected a whole number from 0"):
        check_target(target(), classes=[2], seed=seed)


def test_the_largest_seed_serves_every_tool():
    rows = check_target(target(), classes=[2], seed=(1 << 63) - 1)
    assert all(row.agrees for row in rows[1:])


def test_smallest_class():
    assert smallest_class(target()) == 2


def test_what_cannot_be_used_says_why_and_contradicts_nothing():
    rows = check_target(target(width=500), classes=[2])
    (dense,) = (row for row in rows if row.tool == "dense")
    assert dense.agrees is None
    assert "4,003 parameters" in dense.note
    assert not contradictions(rows)


def test_a_shifted_spectrum_is_contradicted_by_every_reference(monkeypatch):
    def shifted(operator, stop, **options):
        ends = extreme_eigenvalues(operator, stop, **options)
        high, low = (
            replace(e, value=1.1 * e.value, lower=1.1 * e.lower, upper=1.1 * e.upper)
            for e in (ends.lambda_max, ends.lambda_min)
        )
        return replace(ends, lambda_max=high, lambda_min=low)

    monkeypatch.setattr(module, "extreme_eigenvalues", shifted)
    found = contradictions(check_target(target(), classes=[2]))
    assert found == [
        "class 2: dense lies outside the interval of λ_max and λ_min",
        "class 2: scipy eigsh lies outside the interval of λ_max and λ_min",
        "class 2: pyhessian lies outside the interval of λ_min",
        "class 2: second difference lies outside the interval of λ_max",
        "class 2: second difference lies outside the interval of λ_min",
    ]


@pytest.mark.parametrize(
    ("wrong", "tools"),
    [
        # One percent of another matrix: not symmetric, or another one each time.
        (lambda hv, v, n: hv + 0.01 * hv.norm() * v.roll(1), "symmetry double-backward traced"),
        (lambda hv, v, n: hv * (1 + 1e-3 * n), "same symmetry double-backward traced"),
    ],
)
def test_wrong_products_are_named(monkeypatch, wrong, tools):
    class Wrong(HessianOperator):
        calls = 0

        def matvec(self, vector):
            self.calls += 1
            return wrong(super().matvec(vector), vector, self.calls)

        def product_error(self, vector, product):
            return 0.0

    def honest(operator, stop, **options):
        plain = HessianOperator.from_objective(operator.objective)
        return extreme_eigenvalues(plain, stop, **options)

    monkeypatch.setattr(module, "HessianOperator", Wrong)
    monkeypatch.setattr(module, "extreme_eigenvalues", honest)
    found = contradictions(check_target(target(), classes=[2]))
    assert {sentence.split(": ")[1].split()[0] for sentence in found} == set(tools.split())
    assert "is allowed" in found[0]


def test_a_reference_is_held_to_its_own_error():
    ends = extreme_eigenvalues(
        HessianOperator(
            target().model, nn.CrossEntropyLoss(), [(torch.ones(2, 4), torch.tensor([0, 1]))]
        )
    )
    step = 0.05 * ends.lambda_max.value
    above = ends.lambda_max.upper + step
    for error, inside in ((0.5 * step, False), (1.1 * step, True)):
        columns = compared(Reference("x", above, None, error, 1, 0.0), ends)
        assert columns["lambda_max_inside"] is inside
        assert columns["agrees"] is inside
        assert "lambda_min" not in columns
    assert np.isclose(columns["lambda_max_lower"], above - 1.1 * step)


def ends_of_two():
    plain = HessianOperator(
        target().model, nn.CrossEntropyLoss(), [(torch.ones(2, 4), torch.tensor([0, 1]))]
    )
    return extreme_eigenvalues(plain)


def test_a_tool_that_has_not_converged_agrees_with_nothing():
    """A power iteration that stops at a twentieth of λ_max has a residual of about λ_max."""
    ends = ends_of_two()
    most = ends.lambda_max.value
    columns = compared(Reference("x", 0.05 * most, None, most, 1, 0.0, "a note"), ends)
    assert columns["agrees"] is None
    assert columns["lambda_max_inside"] is None
    assert columns["note"] == f"a note; not converged: its own error is ±{most:.2g} on λ_max"
    # Short of the interval it may have met another eigenvalue; beyond it there is one too many.
    short, far = (compared(Reference("x", k * most, None, 0.3 * most, 1, 0.0), ends)
                  for k in (0.2, 2.0))  # fmt: skip
    assert (short["agrees"], far["agrees"]) == (None, False)


def test_a_tiny_eigenvalue_is_known_to_a_share_of_the_largest():
    ends = ends_of_two()
    error = 1e-4 * ends.lambda_max.value
    low = replace(ends.lambda_min, value=-1e-9, lower=-2e-9, upper=0.0)
    columns = compared(Reference("x", None, 1e-8, error, 1, 0.0), replace(ends, lambda_min=low))
    assert columns["agrees"] is True


def test_not_converged_is_said():
    rows = check_target(target(), classes=[2], stop=StopRule(max_matvecs=2))
    assert rows[0].converged is False
    assert "not converged" in rows[0].note
    assert not contradictions(rows)


def test_tracing_refused_is_said():
    class Reads(nn.Linear):
        def forward(self, x):
            return super().forward(x) * (1.0 if float(x.sum()) > -1e9 else 2.0)

    unusual = replace(target(), model=Reads(4, 3).eval())
    (traced,) = (r for r in check_target(unusual, classes=[2]) if r.tool == "traced product")
    assert traced.agrees
    assert "tracing was refused" in traced.note


class TestRefusals:
    def test_samples(self):
        with pytest.raises(UsageError, match="samples = 0"):
            check_target(target(), classes=[2], samples=0)

    def test_class_without_samples(self):
        with pytest.raises(DataError, match="class 7"):
            check_target(target(), classes=[7])

    def test_a_model_that_cannot_be_copied(self):
        class Stuck(nn.Linear):
            def __deepcopy__(self, memo):
                raise TypeError("holds a handle")

        stuck = replace(target(), model=Stuck(4, 3).eval())
        with pytest.raises(UsageError, match="no float64 copy of Stuck"):
            check_target(stuck, classes=[2])
