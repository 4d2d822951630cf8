"""The cases: the same samples for every tool, and stand-ins of the real shapes."""

import pytest
import torch
from torch import nn

from benchmarks.compare import ALL_CASES, Cases, Problem
from benchmarks.compare.cases import TABLE_CLASSES, fit
from benchmarks.compare.precision import refusal
from saddlescope.errors import UsageError
from saddlescope.longtail import class_counts


def test_small_cases_are_the_same_every_time():
    for name, fitted in (("mlp", True), ("transformer", False)):
        one, two = (Cases(fitted=fitted).problem(name) for _ in range(2))
        assert torch.equal(one.inputs, two.inputs)
        for left, right in zip(one.model.parameters(), two.model.parameters(), strict=True):
            assert torch.equal(left, right)
        assert not one.model.training


def test_a_stand_in_has_the_counts_of_the_real_set():
    cases = Cases(fitted=False)
    counts = class_counts(num_classes=100, largest=500, imbalance_factor=100.0)
    sizes = []
    for number in TABLE_CLASSES:
        problem = cases.problem(f"resnet32-class-{number}")
        assert problem.inputs.shape == (counts[number], 3, 32, 32)
        assert (problem.targets == number).all()
        assert "random images" in problem.source
        sizes.append(len(problem.targets))
    assert sizes == [197, 123, 77, 48, 30, 19, 12, 7, 6, 5]
    # One network and one criterion for all its classes, or nothing traced could be shared.
    one, two = cases.problem("resnet32-class-0"), cases.problem("resnet32-class-99")
    assert one.model is two.model
    assert one.criterion is two.criterion


def test_unknown_cases_are_named():
    for name in ("resnet32-class-100", "resnet8-class-1", "resnet32-class-x", "nothing"):
        with pytest.raises(UsageError, match="expected one of mlp"):
            Cases().problem(name)
    assert all("class" in name or name in ("mlp", "digits", "transformer") for name in ALL_CASES)


def test_batches_are_of_one_size():
    model = nn.Linear(3, 2)
    problem = Problem("x", model, nn.CrossEntropyLoss(), torch.zeros(10, 3),
                      torch.zeros(10, dtype=torch.int64), "zeros", batch_size=5)  # fmt: skip
    assert [len(targets) for _, targets in problem.batches()] == [5, 5]
    assert len(problem.take(4).targets) == 4
    assert problem.double().dtype == torch.float64
    assert problem.dtype == torch.float32
    own = problem.fresh()
    with torch.no_grad():
        own.model.weight.zero_()
    assert problem.model.weight.abs().sum() > 0


def test_fitting_lowers_the_loss():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 4, generator=generator)
    targets = (inputs[:, 0] > 0).long()
    model = nn.Linear(4, 2)
    before = nn.functional.cross_entropy(model(inputs), targets).item()
    fit(model, inputs, targets, steps=50, eta=0.1)
    assert nn.functional.cross_entropy(model(inputs), targets).item() < 0.8 * before


def test_a_bfloat16_model_is_refused_with_the_reason():
    message = refusal(Cases().problem("mlp"))
    assert "bfloat16" in message
    assert "convert the model with .float()" in message
