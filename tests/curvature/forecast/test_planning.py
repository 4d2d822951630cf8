"""The memory plan against what operators keep, and against a count of all that is alive."""

import math

import pytest
import torch
from torch import nn

from saddlescope.curvature import HessianOperator, Programs, extreme_eigenvalues, measure_footprint
from saddlescope.curvature.memory import LiveMeter
from saddlescope.curvature.products.strategy import checked_samples
from saddlescope.errors import UsageError
from tests.curvature.networks import convolutional, images, split_batches

CRITERION = nn.CrossEntropyLoss()


class Wide(nn.Module):
    """Few parameters beside many activations, as a network on real images has."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1), nn.Softplus(), nn.AvgPool2d(4), nn.Flatten(),
            nn.Linear(32, 4),
        )  # fmt: skip

    def forward(self, x):
        return self.layers(x)


def network(dtype=torch.float32):
    return Wide().to(dtype).eval()


def data(n, dtype=torch.float32):
    return images(n, dtype=dtype)


def test_the_meter_counts_storages_while_they_live():
    before = torch.zeros(1000)
    with LiveMeter() as meter:
        view = before[:10]  # was there before
        made = before * 2.0
        other = made.view(10, 100)  # shares
        assert meter.live == 4000
        del made
        assert meter.live == 4000
        del other
        assert meter.live == 0
        made = before + view.sum()  # the sum is gone again
        made.add_(1.0)
        assert meter.live == 4000
    assert max(meter.record) == 4004


@pytest.mark.parametrize("strategy", ["double-backward", "traced"])
@pytest.mark.parametrize(
    ("n", "batch_size", "budget"),
    [(40, 256, None), (40, 256, 0), (40, 16, None), (40, 16, 0), (100, 16, 1_500_000)],
)
def test_predicted_against_counted_peak(strategy, n, batch_size, budget):
    """Everything the row allocates, counted: within 10 % (measured when written: within 5 %)."""
    model, (inputs, targets) = network(), data(n)
    programs, products = Programs(strategy), 6
    footprint = measure_footprint(model, CRITERION, (inputs, targets), programs=programs)
    plan = footprint.plan(
        n, batch_size=batch_size, memory_budget=budget, max_matvecs=products, products=products
    )
    whole, rest = divmod(n, batch_size)
    batches = split_batches((inputs, targets), *[batch_size] * whole, *([rest] if rest else []))
    with LiveMeter() as meter:
        operator = HessianOperator(
            model, CRITERION, batches, memory_budget=budget, programs=programs
        )
        extreme_eigenvalues(operator, max_matvecs=products, rtol=1e-9, atol=0.0)
    assert plan.kept == pytest.approx(operator.retained)
    assert plan.peak == pytest.approx(max(meter.record), rel=0.10)


@pytest.mark.parametrize("batch_size", [2, 6])
@pytest.mark.parametrize("budget", [math.inf, 0.0])
def test_a_product_where_parameters_are_many(batch_size, budget):
    """A sum beside the terms, if there are several, and no gradient beside what is made anew."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3000), nn.Tanh(), nn.Linear(3000, 4)).eval()
    inputs, targets = data(6)
    sizes = [batch_size] * (6 // batch_size)
    held = measure_footprint(model, CRITERION, (inputs, targets)).working.hold(sizes, budget)
    batches = split_batches((inputs, targets), *sizes)
    kept = 1 << 40 if budget else 0
    with LiveMeter() as meter:
        operator = HessianOperator(model, CRITERION, batches, memory_budget=kept)
        vector = torch.ones(operator.size)
        before, live = len(meter.record), meter.live
        operator.matvec(vector)
    assert operator.retained == held.share == (1.0 if budget else 0.0)
    during = max(meter.record[before:]) - live
    assert held.product == pytest.approx(during, abs=0.2 * 4 * operator.size)


@pytest.mark.parametrize("strategy", ["double-backward", "traced"])
def test_what_is_retained_is_what_the_operator_counts(strategy):
    """`nbytes` also counts the parameters that a graph holds, which were there before."""
    model, programs = network(), Programs(strategy)
    samples = data(60)
    plan = measure_footprint(model, CRITERION, samples, programs=programs).plan(60)
    operator = HessianOperator(model, CRITERION, [samples], programs=programs)
    there = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    there += samples[0].numel() * 4 + samples[1].numel() * 8
    # The meter also sees the loss and the batch's gradient, which hardly weigh here.
    size = sum(p.numel() * 4 for p in model.parameters())
    assert operator.products.nbytes - there <= plan.retained <= operator.products.nbytes + size
    assert plan.kept == 1.0


def test_basis_follows_the_products_and_the_limit():
    model = network()
    size = sum(p.numel() for p in model.parameters())
    footprint = measure_footprint(model, CRITERION, data(4))
    assert footprint.plan(10, products=20).basis == 21 * 4 * size
    assert footprint.plan(10, products=20).vectors == 201
    short = footprint.plan(10, products=30, basis_memory=12 * 4 * size)
    assert (short.vectors, short.basis) == (12, 12 * 4 * size)
    with pytest.raises(UsageError, match="at least 9 vectors"):
        footprint.plan(10, basis_memory=5 * 4 * size)


def test_float64_needs_no_reference():
    plan = measure_footprint(network(torch.float64), CRITERION, data(4, torch.float64)).plan(8)
    # The gradient and the start vector are counted on either side.
    assert plan.reference < plan.work


def test_a_model_that_does_more_with_more_samples_is_planned_by_its_peaks():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = convolutional(dtype=torch.float32)

        def forward(self, x):
            return self.inner(x + 0.0 if len(x) > 2 else x)

    assert measure_footprint(Branching(), CRITERION, data(4)).plan(8).peak > 0


@pytest.mark.parametrize(
    ("samples", "exact", "checked"),
    [
        (12, False, 12),
        (12, True, 12),
        (16, True, 16),
        (17, True, 8),
        (3, True, 3),
        (100, True, 9),
        (3000, True, 54),
        (3000, False, 189),
    ],
)
def test_samples_that_the_rounding_is_measured_on(samples, exact, checked):
    assert checked_samples(samples, exact=exact) == checked
