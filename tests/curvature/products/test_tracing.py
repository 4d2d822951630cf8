"""The traced product against double backward and dense Hessians, at batch sizes never traced."""

import logging
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from saddlescope.curvature import HessianOperator, Programs, class_spectra
from saddlescope.curvature.products import strategy
from saddlescope.curvature.products.graphs import _multiple
from saddlescope.curvature.products.linearisations import Traced
from saddlescope.curvature.products.replay import Replayed
from saddlescope.curvature.products.tracing import PRIMES
from saddlescope.curvature.reference import dense_matrix
from saddlescope.errors import UsageError
from saddlescope.longtail import make_loss
from saddlescope.models import build_model
from tests.curvature.networks import convolutional, dense_hessian, images, split_batches
from tests.curvature.products.test_replay import rerun


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.body, self.last = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 4)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        y = torch.relu(self.norm(self.stem(x)))
        y = torch.tanh(self.body(y) + y).mean((2, 3))
        return self.last(self.frozen(y))


MODELS = {
    "convolutional": convolutional,
    "residual": Residual,
    "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.GELU(), nn.Linear(5, 4)),
    "layernorm": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(64, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 4)
    ),
}


def traced_operator(model, data, criterion, **options):
    return HessianOperator(model, criterion, data, programs=Programs("traced"), **options)


def is_traced(operator):
    return all(isinstance(made, Traced) for made in operator.products._kept)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_dense_hessian_at_any_batch_size(name, n):
    torch.manual_seed(0)
    model, (inputs, targets) = MODELS[name]().double().eval(), images(n)
    operator = traced_operator(model, [(inputs, targets)], nn.CrossEntropyLoss())
    assert is_traced(operator)
    truth = dense_hessian(model, lambda f: F.cross_entropy(f(inputs), targets))
    torch.testing.assert_close(dense_matrix(operator), truth, rtol=1e-8, atol=1e-11)
    assert operator.loss == pytest.approx(F.cross_entropy(model(inputs), targets).item())


@pytest.mark.parametrize("budget", [None, 0])
def test_ragged_batches_and_streaming(budget):
    model, (inputs, targets) = convolutional(), images(23)
    batches = list(zip(inputs.split([10, 10, 3]), targets.split([10, 10, 3]), strict=True))
    operator = traced_operator(
        model, batches, nn.CrossEntropyLoss(label_smoothing=0.1), memory_budget=budget
    )
    truth = dense_hessian(model, lambda f: F.cross_entropy(f(inputs), targets, label_smoothing=0.1))
    torch.testing.assert_close(dense_matrix(operator), truth, rtol=1e-8, atol=1e-11)


def test_one_program_serves_every_class_and_new_weights(monkeypatch):
    traces = []
    real = strategy.TracedProgram
    monkeypatch.setattr(
        strategy, "TracedProgram", lambda *a, **k: traces.append(1) or real(*a, **k), raising=True
    )
    model, data = build_model("resnet8", num_classes=4, in_channels=1, seed=0), images(30)
    model, programs = model.double().eval(), Programs("traced")
    for label in range(4):
        keep = data[1] == label
        batch = [(data[0][keep], data[1][keep])]
        criterion = CRITERION
        one = HessianOperator(model, criterion, batch, programs=programs)
        two = HessianOperator(model, criterion, batch)
        probe = torch.randn(one.size, dtype=torch.float64)
        torch.testing.assert_close(one.matvec(probe), two.matvec(probe), rtol=1e-9, atol=1e-10)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
            for name, buffer in model.named_buffers():
                buffer.add_(0.1 if name.endswith("mean") else 0)
    assert len(traces) == 1


CRITERION = nn.CrossEntropyLoss()


def test_models_of_one_class_and_shape_do_not_share_a_program():
    data, programs = images(6), Programs("traced")
    for activation in (nn.Tanh(), nn.Softplus()):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), activation, nn.Linear(5, 4)).double()
        shared = HessianOperator(model, CRITERION, [data], programs=programs)
        alone = HessianOperator(model, CRITERION, [data])
        probe = torch.ones(alone.size, dtype=torch.float64)
        torch.testing.assert_close(shared.matvec(probe), alone.matvec(probe), rtol=1e-9, atol=1e-10)


def test_a_program_of_few_images_serves_many(monkeypatch):
    """Few stay as they are, many go channels-last: `Flatten` is a view of the ones only."""
    # A float64 forward pass knows one layout.
    monkeypatch.setattr(strategy, "BRANCHES_COUNT_UP_TO", 0)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 5, padding=2), nn.Tanh(), nn.Flatten(), nn.Linear(64, 4)
    ).eval()  # fmt: skip
    inputs, targets = torch.randn(12, 3, 4, 4), torch.arange(12) % 4
    programs = Programs("traced")
    for count in (3, 12):
        data = [(inputs[:count], targets[:count])]
        traced = HessianOperator(model, CRITERION, data, programs=programs)
        assert isinstance(traced.products._kept[0], Traced)
        alone = HessianOperator(model, CRITERION, data)
        probe = torch.ones(alone.size)
        torch.testing.assert_close(traced.matvec(probe), alone.matvec(probe), rtol=1e-4, atol=1e-5)
    assert len(programs._programs) == 1


def test_tables_agree_whatever_the_strategy():
    options = {"classes": [0, 1], "rtol": 1e-7}
    tables = [
        class_spectra(convolutional(), nn.CrossEntropyLoss(), images(40), strategy=s, **options)
        for s in ("traced", "double-backward", "auto")
    ]
    for column in ("lambda_max", "lambda_min", "lambda_min_lower", "loss"):
        for other in tables[1:]:
            assert tables[0][column].to_numpy() == pytest.approx(other[column].to_numpy(), rel=1e-8)


class SizeDependent(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(64, 4)

    def forward(self, x):
        out = self.last(x.flatten(1))
        return out * float(len(x) ** 2) if len(x) > 1 else torch.tanh(out)


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(64, 4)

    def forward(self, x):
        return self.last(x.flatten(1)) * (1.0 if float(x.sum()) > 0 else 2.0)


@pytest.mark.parametrize("make", [SizeDependent, Reader])
def test_what_cannot_be_traced_falls_back_and_says_why(make, caplog):
    torch.manual_seed(0)
    model, data = make().double().eval(), images(6)
    with caplog.at_level(logging.WARNING, "saddlescope.curvature"):
        operator = traced_operator(model, [data], nn.CrossEntropyLoss())
    assert not is_traced(operator)
    assert "tracing was refused" in caplog.text
    plain = HessianOperator(model, nn.CrossEntropyLoss(), [data])
    probe = torch.ones(plain.size, dtype=torch.float64)
    assert torch.equal(operator.matvec(probe), plain.matvec(probe))


class Coincident(nn.Module):
    """A dimension that is a multiple of the size a batch is recorded at."""

    def __init__(self):
        super().__init__()
        self.wide, self.narrow = nn.Linear(64, PRIMES[0]), nn.Linear(PRIMES[0], 4)

    def forward(self, x):
        # The number enters the graph only where a tensor is reshaped to it.
        hidden = torch.tanh(self.wide(x.flatten(1))).reshape(-1, PRIMES[0])
        return self.narrow(hidden)


class MeanOverBatch(nn.Module):
    """Divides by the batch size, as one number: right at every size, or the product is not."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 4)

    def forward(self, x):
        return self.linear(x.flatten(1)) * (3.0 / len(x))


class PrimeFactor(nn.Module):
    """A constant that is the size a batch is recorded at: wrong at any other, if taken for it."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 4, bias=False)  # which the factor would saturate

    def forward(self, x):
        return self.linear(0.01 * x.flatten(1)) * float(PRIMES[0])


@pytest.mark.parametrize(
    ("make", "recordings"), [(Coincident, 2), (MeanOverBatch, 1), (PrimeFactor, 2)]
)
def test_numbers_that_look_like_the_batch_size(make, recordings, monkeypatch):
    """One recording is enough, or is found out and made anew; the product is right either way."""
    primes = []
    real = strategy.TracedProgram
    monkeypatch.setattr(
        strategy, "TracedProgram", lambda *a, **k: primes.append(k["prime"]) or real(*a, **k)
    )
    torch.manual_seed(0)
    model, (inputs, targets) = make().double().eval(), images(7)
    one = traced_operator(model, [(inputs, targets)], CRITERION)
    two = HessianOperator(model, CRITERION, [(inputs, targets)])
    probe = torch.randn(one.size, dtype=torch.float64)
    torch.testing.assert_close(one.matvec(probe), two.matvec(probe), rtol=1e-9, atol=1e-12)
    assert is_traced(one)
    assert primes == list(PRIMES[:recordings])


@pytest.mark.parametrize(
    "number", [1, 7, 0.5, 1.0, -1, 2**63 - 1, True, 0, "same", None, 1e-5, -math.inf, math.nan]
)
def test_numbers_that_do_not_follow_the_batch_size(number):
    assert _multiple(number, PRIMES[0]) is None


@given(
    size=st.integers(1, 4096),
    count=st.integers(1, 4096).filter(lambda k: k % PRIMES[0]),
)
def test_numbers_that_do(size, count):
    """k·n and k/n, recorded at the prime, are k·m and k/m at every other size m."""
    prime = PRIMES[0]
    rule, factor = _multiple(prime * count, prime)
    assert rule(size, factor) == size * count
    assert isinstance(rule(size, factor), int)
    rule, factor = _multiple(count / prime, prime)
    assert rule(factor, size) == pytest.approx(count / size, rel=1e-12)


class Knife(nn.Module):
    """A ReLU whose input is 1e-9 in exact arithmetic and 0 in float32: 1 + 1e-9 - 1."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 1, bias=False), nn.Linear(1, 4)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([[1.0, 1e-9, -1.0]]))

    def forward(self, x):
        return self.last(torch.relu(self.first(x)))


def test_branches_are_those_of_exact_arithmetic():
    torch.manual_seed(0)
    model, data = Knife().eval(), (torch.ones(4, 3), torch.tensor([0, 1, 2, 3]))
    traced = traced_operator(model, [data], nn.CrossEntropyLoss())
    exact = traced.reference()
    probe = torch.ones(traced.size)
    truth = exact.matvec(probe.double())
    assert traced.products.exact
    torch.testing.assert_close(traced.matvec(probe).double(), truth, rtol=1e-6, atol=1e-7)
    plain = HessianOperator(model, nn.CrossEntropyLoss(), [data])
    assert not plain.products.exact
    assert float((plain.matvec(probe).double() - truth).norm()) > 1e-2 * float(truth.norm())


def test_large_sets_are_not_run_in_double(monkeypatch):
    monkeypatch.setattr(strategy, "BRANCHES_COUNT_UP_TO", 7)
    model = convolutional(dtype=torch.float32)
    for n, exact in ((7, True), (8, False)):
        operator = traced_operator(model, [images(n, dtype=torch.float32)], nn.CrossEntropyLoss())
        assert is_traced(operator)
        assert operator.products.exact is exact


CRITERIA = {
    "mean": nn.CrossEntropyLoss(),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "none": nn.CrossEntropyLoss(reduction="none"),
    "weights": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5, 3.0]).double()),
    "ignored": nn.CrossEntropyLoss(ignore_index=1, label_smoothing=0.1),
    "elementwise": nn.MSELoss(),
    "margins": make_loss("ldam", [50, 20, 10, 5], reduction="mean").double(),
    "function": F.cross_entropy,
    "per-sample function": lambda o, t: F.cross_entropy(o, t, reduction="none"),
}


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("filled", [False, True])
def test_every_reduction_and_batches_filled_up(name, filled, monkeypatch):
    """Traced, recorded on buffers at a larger size, and differentiated twice: one product."""
    model, (inputs, targets), criterion = convolutional(), images(11), CRITERIA[name]
    if name == "elementwise":
        targets = F.one_hot(targets, 4).double()
    if filled:
        size = lambda program, *_: 16 if program.elements else None  # noqa: E731
        monkeypatch.setattr(strategy, "replayed_size", size)
        monkeypatch.setattr(strategy, "CudaGraphs", lambda: rerun)
    batches = [(inputs, targets)] if filled else split_batches((inputs, targets), 8, 3)
    traced = traced_operator(model, batches, criterion)
    plain = HessianOperator(model, criterion, batches)
    assert is_traced(traced)
    assert traced.loss == pytest.approx(plain.loss, rel=1e-12)
    torch.testing.assert_close(traced.gradient, plain.gradient, rtol=1e-9, atol=1e-12)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        probe = torch.randn(plain.size, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(traced.matvec(probe), plain.matvec(probe), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("replays", "kind"), [(True, Replayed), (False, Traced)])
def test_replay_can_be_left_out(replays, kind, monkeypatch):
    """For benchmarks: the same product, launched kernel by kernel."""
    model, batch = convolutional(), images(11)
    monkeypatch.setattr(strategy, "replayed_size", lambda *_: 16)
    monkeypatch.setattr(strategy, "CudaGraphs", lambda: rerun)
    programs = Programs("traced", replay=replays)
    operator = HessianOperator(model, CRITERION, [batch], programs=programs)
    probe = torch.ones(operator.size, dtype=torch.float64)
    plain = HessianOperator(model, CRITERION, [batch])
    torch.testing.assert_close(operator.matvec(probe), plain.matvec(probe), rtol=1e-9, atol=1e-10)
    assert [type(made) for made in operator.products._kept] == [kind]


def test_auto_counts_operations(caplog):
    with caplog.at_level(logging.INFO, "saddlescope.curvature"):
        class_spectra(convolutional(), nn.CrossEntropyLoss(), images(9), classes="none")
    assert "double backward (tracing would save about" in caplog.text
    from saddlescope.curvature import Objective

    model = build_model("resnet32", num_classes=100, in_channels=3, seed=0).eval()
    batch = (torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.long))
    objective = Objective(model, nn.CrossEntropyLoss(), [batch])

    def traces(rows):
        programs = Programs()
        programs.expect(objective, rows)
        return programs._traces

    assert traces([2 * 10847])
    # Of 16 samples all are checked against float64 either way: nothing is saved there.
    assert traces([160])
    assert not traces([16] * 10)
    assert not traces([77])


def test_unknown_strategy():
    with pytest.raises(UsageError, match="strategy 'fast'"):
        Programs("fast")
