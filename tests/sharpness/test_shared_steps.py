"""Two gloo ranks against one process on the whole batch, in float64: what differs is wrong."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from saddlescope.errors import UsageError
from saddlescope.sharpness import Ascent, SharpnessAware, StepOptions
from tests.curvature.processes import on_ranks

N, STEPS = 32, 4
RADII = {
    "one": {"all": 0.5},
    "two": {"head": 0.2, "tail": 0.5},
    "imbsam": {"head": 0.0, "tail": 0.5},
}


def data(*, lone=False):
    """Samples of three classes; `lone` sorts them, so that one rank has no sample of class 2."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (N,), generator=generator)
    order = torch.argsort(y) if lone else torch.arange(N)
    return x[order], y[order]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()


class Sometimes(nn.Module):
    """Uses a layer only for samples of class 2, and another never."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.extra, self.never = (nn.Linear(4, 3).double() for _ in range(3))

    def forward(self, x, y):
        found = self.trunk(x)
        return found + self.extra(x) * (y == 2).double()[:, None] if bool((y == 2).any()) else found


def losses(net, x, y, radii, divisor):
    outputs = net(x, y) if isinstance(net, Sometimes) else net(x)
    values = F.cross_entropy(outputs, y, reduction="none") / divisor
    if "all" in radii:
        return values.sum()
    parts = {"head": values[y < 2], "tail": values[y == 2]}
    return {name: part.sum() for name, part in parts.items() if len(part)}


def trained(net, runs, x, y, kind, divisor, *, micro=1, two_calls=False, ascent=None, **step):
    optimizer = SharpnessAware(
        net.parameters(), torch.optim.SGD, radii=RADII[kind], lr=0.1, momentum=0.9,
        weight_decay=0.01, ascent=ascent, step=StepOptions(**step),
    )  # fmt: skip
    parts = list(zip(x.chunk(micro), y.chunk(micro), strict=True))
    calls = [lambda a=a, b=b: losses(runs, a, b, RADII[kind], divisor) for a, b in parts]
    for _ in range(STEPS):
        if two_calls:
            for turn in (optimizer.first_step, optimizer.second_step):
                for call in calls:
                    call().backward()
                turn(zero_grad=True)
        else:
            optimizer.step(calls)
    return torch.cat([
        (p.full_tensor() if hasattr(p, "full_tensor") else p).detach().flatten()
        for p in net.parameters()
    ])  # fmt: skip


def cases():
    for kind in RADII:
        for lone in (False, True):
            yield f"total {kind} lone={lone}", {"kind": kind, "lone": lone, "how": "total"}
            yield f"ddp {kind} lone={lone}", {"kind": kind, "lone": lone, "how": "ddp"}
    yield "ddp two calls", {"kind": "one", "how": "ddp", "two_calls": True}
    yield "ddp, not named", {"kind": "one", "how": "ddp, not named"}
    for kind in ("one", "two"):
        yield f"ddp micro {kind}", {"kind": kind, "how": "ddp", "micro": 2, "views": True}
    yield "total, clipped", {"kind": "two", "how": "total", "clip": 0.1}
    yield "ddp, clipped", {"kind": "one", "how": "ddp", "clip": 0.1}
    yield "total, unused layers", {"kind": "one", "how": "total", "lone": True, "sometimes": True}
    yield "total, adaptive", {"kind": "two", "how": "total", "ascent": Ascent(adaptive=True)}
    yield "ddp, looksam", {"kind": "one", "how": "ddp", "ascent": Ascent(every=2)}
    yield "fsdp", {"kind": "one", "how": "fsdp"}
    yield "fsdp two", {"kind": "two", "how": "fsdp"}
    yield "fsdp, clipped, adaptive", {
        "kind": "one", "how": "fsdp", "clip": 0.1, "ascent": Ascent(adaptive=True)
    }  # fmt: skip
    yield "fsdp, friendly", {"kind": "one", "how": "fsdp", "ascent": Ascent(friendly=1.0)}


def differences(ranks):
    """By case, how far this rank ends from one process."""
    found = {}
    for name, case in cases():
        case = dict(case)
        kind, how = case.pop("kind"), case.pop("how")
        lone, views = case.pop("lone", False), case.pop("views", False)
        make = Sometimes if case.pop("sometimes", False) else network
        x, y = data(lone=lone)
        alone = make()
        one = trained(alone, alone, x, y, kind, N, **case)
        mine = slice(ranks.rank * N // 2, (ranks.rank + 1) * N // 2)
        net = make()
        model, divisor, options = net, N // 2, dict(case)
        if how == "total":
            divisor, options["total"] = N, dist.all_reduce
        elif how == "fsdp":
            from torch.distributed.fsdp import fully_shard

            fully_shard(net[0])
            fully_shard(net)
        else:
            model = DistributedDataParallel(net, gradient_as_bucket_view=views)
            if how == "ddp":
                options["model"] = model
        found[name] = float(
            (trained(net, model, x[mine], y[mine], kind, divisor, **options) - one).norm()
        )
    return found | {"local": local_ascent(ranks), "refused": refusals()}


def local_ascent(ranks):
    """m-sharpness by hand: each rank ascends along its own gradient; the mean is descended."""
    x, y = data()
    worst = 0.0
    for how in ("ddp", "total"):
        net = network()
        model = DistributedDataParallel(net) if how == "ddp" else net
        options = {"model": model} if how == "ddp" else {"total": dist.all_reduce}
        mine = slice(ranks.rank * N // 2, (ranks.rank + 1) * N // 2)
        divisor = N // 2 if how == "ddp" else N
        found = trained(
            net, model, x[mine], y[mine], "one", divisor, ascent=Ascent(ranks="local"), **options
        )
        expected = network()
        sgd = torch.optim.SGD(expected.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        for _ in range(STEPS):
            total = [torch.zeros_like(p) for p in expected.parameters()]
            for half in (slice(0, N // 2), slice(N // 2, N)):
                there = copy.deepcopy(expected)
                slopes = gradients(there, x[half], y[half])
                norm = torch.cat([s.flatten() for s in slopes]).norm()
                with torch.no_grad():
                    for p, s in zip(there.parameters(), slopes, strict=True):
                        p += 0.5 * s / norm
                total = [t + s / 2 for t, s in
                         zip(total, gradients(there, x[half], y[half]), strict=True)]  # fmt: skip
            for p, t in zip(expected.parameters(), total, strict=True):
                p.grad = t
            sgd.step()
        flat = torch.cat([p.detach().flatten() for p in expected.parameters()])
        worst = max(worst, float((found - flat).norm()))
    return worst


def gradients(net, x, y):
    return torch.autograd.grad(F.cross_entropy(net(x), y), list(net.parameters()))


def refusals():
    """Texts of what cannot be honoured."""
    net = network()
    model = DistributedDataParallel(net)
    x, y = data()
    texts = []
    for action in (
        lambda: trained(net, model, x, y, "two", N),
        lambda: trained(net, model, x, y, "one", N, model=model, total=dist.all_reduce),
        lambda: trained(net, net, x, y, "one", N, ascent=Ascent(ranks="local")),
        lambda: trained(net, model, x, y, "two", N, model=model, ascent=Ascent(every=2)),
    ):
        try:
            action()
            texts.append("")
        except UsageError as error:
            texts.append(str(error))
    return texts


@pytest.fixture(scope="module")
def ends():
    return on_ranks(2, differences)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, _ in cases()])
def test_two_ranks_are_one_process(ends, name):
    assert [end[name] for end in ends] == pytest.approx([0.0, 0.0], abs=1e-12)


@pytest.mark.slow
def test_a_local_ascent_is_m_sharpness(ends):
    assert [end["local"] for end in ends] == pytest.approx([0.0, 0.0], abs=1e-12)


@pytest.mark.slow
def test_refusals(ends):
    for end in ends:
        for text, expected in zip(
            end["refused"], ["model=", "leave total out", "a local ascent needs", "LookSAM"],
            strict=True,
        ):  # fmt: skip
            assert expected in text
