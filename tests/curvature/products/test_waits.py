"""A product never waits for the device, and a Lanczos step once, for its three scalars."""

import pytest
import torch
from torch import nn

from benchmarks.calls import DeviceCalls
from saddlescope.curvature import GaussNewtonOperator, HessianOperator, Programs
from saddlescope.curvature.krylov import lanczos
from saddlescope.curvature.products import strategy
from tests.curvature.networks import convolutional, images


def hessian(kind="double-backward", **options):
    """On a device that is not there; numbers are read from it while it is watched."""
    model = convolutional(dtype=torch.float32)
    inputs, targets = images(8, dtype=torch.float32)
    batch = (inputs.to("meta"), targets.to("meta"))
    return HessianOperator(
        model.to("meta"), nn.CrossEntropyLoss(), [batch], programs=Programs(kind), **options
    )


@pytest.fixture(autouse=True)
def without_numbers(monkeypatch):
    """Every number read is 1, which neither a trace's check nor symmetry survives."""
    monkeypatch.setattr(strategy, "_difference", lambda *_: 0.0)
    monkeypatch.setattr(lanczos, "ASYMMETRY_LIMIT", 10.0)


@pytest.mark.parametrize("kind", ["double-backward", "traced"])
def test_a_product_never_waits(kind):
    with DeviceCalls():
        operator = hessian(kind)
    assert operator._programs.traced == (kind == "traced")
    with DeviceCalls() as calls:
        operator.matvec(torch.ones(operator.size, device="meta"))
    assert calls.waits == []
    assert calls.launches > 30


def test_a_streamed_batch_waits_for_the_number_of_its_targets_that_count():
    """One wait a batch, whose linearisation takes many launches: known, and not worth a cache."""
    with DeviceCalls():
        operator = hessian(memory_budget=0)
    with DeviceCalls() as calls:
        operator.matvec(torch.ones(operator.size, device="meta"))
    assert calls.waits == ["index"]


def test_a_step_waits_once():
    with DeviceCalls():
        process = lanczos.Lanczos(hessian(), torch.ones(hessian().size).double(), capacity=9)
        process.step()
    for _ in range(2):
        with DeviceCalls() as calls:
            process.step()
        assert calls.waits == ["_to_copy"]


def test_the_weights_are_asked_once_whether_they_are_finite():
    """Not once a parameter: a ResNet-32 has 95 of them."""
    with DeviceCalls():
        objective = hessian().objective
    with DeviceCalls() as calls:
        HessianOperator.from_objective(objective)
    assert len(objective.vector.tensors) > 5
    # All parameters; the batch's weight; loss and gradient.
    assert calls.waits == ["_to_copy", "index", "_local_scalar_dense", "_local_scalar_dense"]


def test_gauss_newton_products_wait_no_more():
    with DeviceCalls():
        base = hessian()
        operator = GaussNewtonOperator.from_objective(base.objective)
    with DeviceCalls() as calls:
        operator.matvec(torch.ones(operator.size, device="meta"))
    assert calls.waits == []
