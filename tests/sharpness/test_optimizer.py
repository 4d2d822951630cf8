"""Every method's step against one worked out by hand, its pass count, and its state."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from saddlescope.errors import UsageError
from saddlescope.sharpness import RadiusOptions, SharpnessAware, group_losses, method_radii

METHODS = ("sgd", "sam", "imbsam", "sam-ext", "sse-sam")


class Quadratics:
    """L_head and L_tail with their own Hessians and slopes; their gradients are written down."""

    def __init__(self, seed=0, size=6):
        generator = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
        self.hessians = {name: (m := draw(size, size)) + m.T for name in ("head", "tail")}
        self.slopes = {name: draw(size) for name in ("head", "tail")}
        self.start = draw(size)

    def gradient(self, name, w):
        if name == "all":
            return self.gradient("head", w) + self.gradient("tail", w)
        return self.hessians[name] @ w + self.slopes[name]

    def losses(self, w, names):
        parts = {
            name: 0.5 * w @ self.hessians[name] @ w + self.slopes[name] @ w
            for name in ("head", "tail")
        }
        parts["all"] = parts["head"] + parts["tail"]
        return {name: parts[name] for name in names}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("epoch", [0, 7])
def test_step_on_a_quadratic_by_hand(method, epoch):
    problem, lr = Quadratics(), 0.05
    radii = method_radii(
        method, epochs=10, options=RadiusOptions(rho=0.3, rho_head=0.2, rho_tail=0.4)
    ).at(epoch)
    w = nn.Parameter(problem.start.clone())
    optimizer = SharpnessAware([w], torch.optim.SGD, radii=radii, lr=lr)
    expected = problem.start.clone()
    for _ in range(3):
        update = torch.zeros_like(expected)
        for name, rho in radii.items():
            slope = problem.gradient(name, expected)
            update += problem.gradient(name, expected + rho * slope / slope.norm())
        expected -= lr * update
        optimizer.step(lambda: problem.losses(w, radii))
        torch.testing.assert_close(w.detach(), expected, rtol=1e-13, atol=1e-13)


def two_layer(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def two_layer_gradient(weights, inputs, targets, keep, divisor):
    """Backpropagation by hand for softmax cross-entropy of W₂·tanh(W₁x + b₁) + b₂."""
    w1, b1, w2, b2 = weights
    hidden = torch.tanh(inputs @ w1.T + b1)
    error = torch.softmax(hidden @ w2.T + b2, 1) - F.one_hot(targets, 3).double()
    error = error * keep[:, None] / divisor
    inner = (error @ w2) * (1 - hidden**2)
    return [inner.T @ inputs, inner.sum(0), error.T @ hidden, error.sum(0)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reduction", ["batch", "group", "batch-tail-x2"])
def test_step_on_a_two_layer_network_by_hand(method, reduction):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(9, 5, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 3, (9,), generator=generator)
    tail = targets == 2
    radii = method_radii(
        method, epochs=10, options=RadiusOptions(rho=0.3, rho_head=0.2, rho_tail=0.4)
    ).at(8)
    model, lr, decay, momentum = two_layer(), 0.1, 0.01, 0.9
    optimizer = SharpnessAware(
        model.parameters(), torch.optim.SGD, radii=radii, lr=lr, momentum=momentum,
        weight_decay=decay,
    )  # fmt: skip

    def losses():
        values = F.cross_entropy(model(inputs), targets, reduction="none")
        if "all" in radii:
            return {"all": values.mean()}
        return group_losses(values, tail, group_reduction=reduction)

    weights = [p.detach().clone() for p in model.parameters()]
    buffers = [torch.zeros_like(p) for p in weights]
    for step in range(3):
        update = [torch.zeros_like(p) for p in weights]
        for name, rho in radii.items():
            keep = {"all": torch.ones(9), "head": ~tail, "tail": tail}[name].double()
            divisor = float(keep.sum()) if reduction == "group" and name != "all" else 9.0
            divisor /= 2.0 if (reduction, name) == ("batch-tail-x2", "tail") else 1.0
            slope = two_layer_gradient(weights, inputs, targets, keep, divisor)
            norm = torch.sqrt(sum(s.square().sum() for s in slope))
            moved = [p + rho * s / norm for p, s in zip(weights, slope, strict=True)]
            there = two_layer_gradient(moved, inputs, targets, keep, divisor)
            update = [u + t for u, t in zip(update, there, strict=True)]
        for index, (p, u) in enumerate(zip(weights, update, strict=True)):
            direction = u + decay * p
            buffers[index] = direction if step == 0 else momentum * buffers[index] + direction
            weights[index] = p - lr * buffers[index]
        optimizer.step(losses)
    for found, expected in zip(model.parameters(), weights, strict=True):
        torch.testing.assert_close(found.detach(), expected, rtol=1e-11, atol=1e-12)


class Counter:
    """Counts forward passes and backward passes."""

    def __init__(self, monkeypatch, names):
        self.forwards = self.backwards = 0
        self.problem, self.names = Quadratics(), names
        self.w = nn.Parameter(self.problem.start.clone())
        real = torch.autograd.backward

        def counted(*args, **kwargs):
            self.backwards += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(torch.autograd, "backward", counted)

    def losses(self):
        self.forwards += 1
        return self.problem.losses(self.w, self.names)


@pytest.mark.parametrize(
    ("method", "epoch", "passes"),
    [
        ("sgd", 0, (1, 1)),
        ("sam", 0, (2, 2)),
        ("imbsam", 0, (2, 3)),
        ("sam-ext", 0, (3, 4)),
        ("sse-sam", 6, (3, 4)),
        ("sse-sam", 7, (2, 3)),
    ],
)
def test_the_fewest_passes(monkeypatch, method, epoch, passes):
    radii = method_radii(method, epochs=10).at(epoch)
    counter = Counter(monkeypatch, radii)
    SharpnessAware([counter.w], torch.optim.SGD, radii=radii, lr=0.1).step(counter.losses)
    assert (counter.forwards, counter.backwards) == passes


@pytest.mark.parametrize("absent", ["head", "tail"])
def test_a_batch_without_one_group(monkeypatch, absent):
    present = {"head", "tail"} - {absent}
    counter = Counter(monkeypatch, present)
    radii = {"head": 0.0, "tail": 0.1}
    SharpnessAware([counter.w], torch.optim.SGD, radii=radii, lr=0.1).step(counter.losses)
    assert (counter.forwards, counter.backwards) == ((1, 1) if absent == "tail" else (2, 2))
    assert torch.isfinite(counter.w).all()


def test_zero_gradient_moves_nothing_and_makes_no_nan():
    w = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = SharpnessAware([w], torch.optim.SGD, radii={"all": 0.5}, lr=0.1)
    optimizer.step(lambda: {"all": w.square().sum()})
    assert torch.equal(w.detach(), torch.zeros(3, dtype=torch.float64))


def test_weights_are_restored_exactly_before_the_base_step():
    """w + ε − ε is not w in floating point; a step of size 0 must leave every bit."""
    model = two_layer().float()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = SharpnessAware(model.parameters(), torch.optim.SGD, radii={"all": 0.37}, lr=0.0)
    optimizer.step(lambda: {"all": model(torch.ones(2, 5)).square().sum()})
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(("epoch", "other"), [(6, "sam-ext"), (7, "imbsam")])
def test_sse_sam_equals_its_stages_to_the_bit(epoch, other):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(16, 5, generator=generator)
    targets = torch.randint(0, 3, (16,), generator=generator)
    results = []
    for method in ("sse-sam", other):
        model = two_layer().float()
        radii = method_radii(method, epochs=10).at(epoch)
        optimizer = SharpnessAware(
            model.parameters(), torch.optim.SGD, radii=radii, lr=0.1, momentum=0.9
        )

        def losses(model=model):
            values = F.cross_entropy(model(inputs), targets, reduction="none")
            return group_losses(values, targets == 2)

        for _ in range(5):
            optimizer.step(losses)
        results.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
    assert torch.equal(*results)


@pytest.mark.parametrize(("bn_statistics", "updates"), [("clean", 1), ("every-pass", 3)])
def test_batchnorm_statistics(bn_statistics, updates):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    optimizer = SharpnessAware(
        model.parameters(), torch.optim.SGD, radii={"head": 0.1, "tail": 0.1}, model=model,
        bn_statistics=bn_statistics, lr=0.1,
    )  # fmt: skip
    inputs = torch.randn(8, 4)

    def losses():
        outputs = model(inputs)
        return {"head": outputs[:4].square().sum(), "tail": outputs[4:].abs().sum()}

    reference = copy.deepcopy(model)
    reference(inputs)
    optimizer.step(losses)
    assert model[1].num_batches_tracked == updates
    same = torch.equal(model[1].running_mean, reference[1].running_mean)
    assert same == (bn_statistics == "clean")
    assert model[1].track_running_stats


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.Adam])
def test_state_dict_continues_to_the_bit(base):
    problem = Quadratics()
    options = {"lr": 0.05} | ({"momentum": 0.9} if base is torch.optim.SGD else {})

    def make(start):
        w = nn.Parameter(start.clone())
        return w, SharpnessAware([w], base, radii={"head": 0.1, "tail": 0.2}, **options)

    w, optimizer = make(problem.start)
    for _ in range(3):
        optimizer.step(lambda: problem.losses(w, ("head", "tail")))
    optimizer.set_radii({"head": 0.0, "tail": 0.2})
    saved, point = copy.deepcopy(optimizer.state_dict()), w.detach().clone()
    other, resumed = make(point)
    resumed.load_state_dict(saved)
    assert resumed.radii == {"head": 0.0, "tail": 0.2}
    for _ in range(3):
        optimizer.step(lambda: problem.losses(w, ("head", "tail")))
        resumed.step(lambda: problem.losses(other, ("head", "tail")))
    assert torch.equal(w, other)


def test_schedulers_reach_the_base_optimiser():
    w = nn.Parameter(torch.ones(1))
    optimizer = SharpnessAware([w], torch.optim.SGD, radii={"all": 0.1}, lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
    for _ in range(2):
        optimizer.step(lambda: {"all": w.square().sum()})
        scheduler.step()
    assert optimizer.base.param_groups[0]["lr"] == pytest.approx(0.5)


def test_parameter_groups_frozen_and_unused_parameters():
    used, frozen, unused = (nn.Parameter(torch.ones(2)) for _ in range(3))
    frozen.requires_grad_(False)
    optimizer = SharpnessAware(
        [{"params": [used], "lr": 0.5}, {"params": [frozen, unused]}],
        torch.optim.SGD, radii={"all": 0.1}, lr=0.1,
    )  # fmt: skip
    optimizer.step(lambda: {"all": used.sum()})
    assert torch.equal(used.detach(), torch.full((2,), 0.5))
    assert torch.equal(frozen, torch.ones(2))
    assert torch.equal(unused.detach(), torch.ones(2))


class TestRefusals:
    w = nn.Parameter(torch.ones(1))

    def make(self, **options):
        options = {"radii": {"all": 0.1}, "lr": 0.1} | options
        return SharpnessAware([self.w], torch.optim.SGD, **options)

    def test_negative_radius(self):
        with pytest.raises(UsageError, match="radius of group 'all' is -1"):
            self.make(radii={"all": -1.0})

    def test_unknown_statistics(self):
        with pytest.raises(UsageError, match="bn_statistics"):
            self.make(bn_statistics="never")

    def test_clean_without_a_model(self):
        with pytest.raises(UsageError, match="needs model"):
            self.make(bn_statistics="clean")

    def test_group_without_radius(self):
        with pytest.raises(UsageError, match="'other', which has no radius"):
            self.make().step(lambda: {"other": self.w.sum()})

    def test_no_group(self):
        with pytest.raises(UsageError, match="no group"):
            self.make().step(dict)
