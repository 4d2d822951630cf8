"""Storages are counted once, and graphs are freed: what is metered, what is streamed, all of it."""

import gc

import pytest
import torch
from torch import nn

from saddlescope.curvature import GaussNewtonOperator, HessianOperator, Programs, memory
from saddlescope.curvature.memory import LiveMeter, StorageMeter, available_bytes, storage_bytes
from saddlescope.curvature.operators import hessian
from saddlescope.curvature.products import strategy
from tests.curvature.networks import convolutional, images, split_batches


def live_tensors():
    gc.collect()
    # By type: isinstance asks lazy modules among the objects for their __class__, which warns.
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def test_each_storage_counts_once_and_views_count_whole():
    base = torch.zeros(100, dtype=torch.float64)
    other = torch.zeros(3, dtype=torch.float32)
    assert storage_bytes([base, base[:10], base.view(10, 10), other, "no tensor", None]) == 812
    assert storage_bytes([]) == 0


def test_a_graph_counts_what_it_saves():
    meter, x = StorageMeter(), torch.ones(50, dtype=torch.float64, requires_grad=True)
    with meter.graph():
        y = torch.sin(x)  # saves x
        z = torch.exp(y)  # saves its own output
    after = z.sum()  # outside
    assert meter.nbytes == 2 * 50 * 8
    (slope,) = torch.autograd.grad(after, x, create_graph=True)
    torch.testing.assert_close(slope, torch.cos(x) * torch.exp(torch.sin(x)))
    (second,) = torch.autograd.grad(slope.sum(), x)
    torch.testing.assert_close(second, (torch.cos(x) ** 2 - torch.sin(x)) * torch.exp(torch.sin(x)))


@pytest.mark.parametrize("kind", [HessianOperator, GaussNewtonOperator])
@pytest.mark.parametrize("budget", [None, 0])
def test_products_and_operators_leave_nothing_behind(kind, budget):
    model, data = convolutional(), split_batches(images(12), 6, 6)
    criterion = nn.CrossEntropyLoss()

    def use(products):
        operator = kind(model, criterion, data, memory_budget=budget)
        for _ in range(products):
            operator.matvec(torch.ones(operator.size, dtype=torch.float64))

    use(1)
    before = live_tensors()
    use(3)
    assert live_tensors() <= before  # what another test has left may be collected meanwhile


@pytest.mark.parametrize("sampled_from", [0, 2048])  # some samples, or all, take part
def test_a_row_and_the_check_of_its_rounding_share_one_budget(monkeypatch, sampled_from):
    """Each with a budget of its own would be three budgets, and more memory than there is."""
    monkeypatch.setattr(strategy, "BRANCHES_COUNT_UP_TO", sampled_from)
    made = []

    class Noted(hessian.BatchProducts):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr(hessian, "BatchProducts", Noted)
    model, data = convolutional(dtype=torch.float32), images(64, dtype=torch.float32)
    batches = split_batches(data, *[8] * 8)

    def held(budget):
        made.clear()
        operator = HessianOperator(
            model, nn.CrossEntropyLoss(), batches, memory_budget=budget,
            programs=Programs("double-backward"),
        )  # fmt: skip
        vector = torch.ones(operator.size)
        assert operator.product_error(vector, operator.matvec(vector)) > 0
        return [products.nbytes for products in made]

    alone = held(1 << 40)[0]
    for share in (0.5, 1.0, 1.5):
        budget = int(share * alone)
        found = held(budget)
        assert len(found) == (3 if sampled_from == 0 else 2)
        assert found[0] > 0
        assert sum(found) <= budget


def test_some_memory_is_available():
    assert available_bytes(torch.device("cpu")) > 0


def test_processes_on_one_machine_divide_its_memory(monkeypatch):
    monkeypatch.setattr(memory, "_free_host_bytes", lambda: 1000)
    assert memory.available_bytes(torch.device("cpu")) == 1000
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert memory.available_bytes(torch.device("cpu")) == 250


def test_what_the_allocator_holds_and_nobody_uses_is_free(monkeypatch):
    """Otherwise a large row would leave the next one a small budget."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 8000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 6000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2500)
    assert available_bytes(torch.device("cuda")) == 4500


def test_kept_batches_are_not_prepared_again():
    """Beside batches that are streamed: each would be moved and normalised for every product."""
    data = split_batches(images(12), 4, 4, 4)
    operator = HessianOperator(convolutional(), nn.CrossEntropyLoss(), data)
    whole = operator.matvec(torch.ones(operator.size, dtype=torch.float64))
    first = HessianOperator(convolutional(), nn.CrossEntropyLoss(), data[:1]).products.nbytes
    operator = HessianOperator(
        convolutional(), nn.CrossEntropyLoss(), data, memory_budget=2 * first
    )
    assert operator.retained == pytest.approx(2 / 3)
    prepared, prepare = [], operator.objective.folding.prepare
    operator.objective.folding.prepare = lambda inputs: prepared.append(1) or prepare(inputs)
    again = operator.matvec(torch.ones(operator.size, dtype=torch.float64))
    assert len(prepared) == 1
    torch.testing.assert_close(again, whole, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", [HessianOperator, GaussNewtonOperator])
def test_micro_batches_hold_no_more_than_one_batch_of_all(kind):
    """What is as large as the weights is there once, folded layers and the gradient too."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 64, 3), nn.BatchNorm2d(64), nn.Tanh(), nn.Conv2d(64, 64, 3),
        nn.BatchNorm2d(64), nn.Tanh(), nn.Flatten(), nn.Linear(64 * 4, 3),
    ).eval()  # fmt: skip
    batch = (torch.randn(16, 2, 6, 6), torch.arange(16) % 3)

    def measured(sizes, **options):
        with LiveMeter() as meter:
            operator = kind(model, nn.CrossEntropyLoss(), split_batches(batch, *sizes), **options)
            product = operator.matvec(torch.ones(operator.size))
        assert operator.retained == 1.0
        return max(meter.record), operator.products.nbytes, product

    peak, held, whole = measured([16])
    for sizes, options in (([2] * 8, {}), ([16], {"batch_size": 2})):
        other, less, product = measured(sizes, **options)
        assert other <= peak + 4 * len(product)  # one gradient beside the sum of several
        assert less < 1.05 * held
        torch.testing.assert_close(product, whole, rtol=1e-4, atol=1e-6)


def test_batches_that_grow_beyond_the_budget_are_not_retained_as_one():
    """The first is short: the others take more a sample than it did."""

    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.inner = nn.Linear(4, 3)

        def forward(self, x):
            return torch.tanh(self.inner(x)).sum(1)

    data = [(torch.randn(4, length, 4), torch.arange(4) % 3) for length in (2, 400, 400)]
    model, loss = Sums().eval(), nn.CrossEntropyLoss()
    first, two = (HessianOperator(model, loss, data[:n]).products.nbytes for n in (1, 2))
    operator = HessianOperator(model, loss, data, memory_budget=max(two, 4 * first))
    assert operator.retained == pytest.approx(2 / 3)
    assert operator.products.nbytes <= max(two, 4 * first)
    whole = HessianOperator(model, loss, data)
    assert whole.retained == 1.0
    assert whole.gradient_cost == pytest.approx(1 + 1 / 3)
    vector = torch.ones(whole.size)
    torch.testing.assert_close(operator.matvec(vector), whole.matvec(vector))
