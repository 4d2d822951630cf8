"""Loops on two ranks that differ from the plain one: the step is one process's, or refused."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from saddlescope.errors import UsageError
from saddlescope.sharpness import Ascent, SharpnessAware, StepOptions
from tests.curvature.processes import on_ranks
from tests.sharpness.test_shared_steps import RADII, N, data, losses, network, trained


def half(ranks):
    x, y = data()
    mine = slice(ranks.rank * N // 2, (ranks.rank + 1) * N // 2)
    return x[mine], y[mine]


def flat(net):
    return torch.cat([
        (p.full_tensor() if hasattr(p, "full_tensor") else p).detach().flatten()
        for p in net.parameters()
    ])  # fmt: skip


def sharded(net):
    from torch.distributed.fsdp import fully_shard

    fully_shard(net[0])
    fully_shard(net[2])
    return fully_shard(net)


def own_micro_batches(net, runs, x, y, divisor, *, model=None, clears=False, every=1):
    """Each micro-batch's function calls `backward()`; some clear `.grad` before."""
    optimizer = SharpnessAware(
        net.parameters(), torch.optim.SGD, rho=0.5, lr=0.1, ascent=Ascent(every=every),
        step=StepOptions(model=model),
    )  # fmt: skip

    def call(a, b):
        if clears:
            optimizer.zero_grad()
        loss = losses(runs, a, b, RADII["one"], divisor)
        loss.backward()
        return loss

    for _ in range(3):
        parts = zip(x.chunk(2), y.chunk(2), strict=True)
        optimizer.step([lambda a=a, b=b: call(a, b) for a, b in parts])
    return flat(net)


def two_optimizers(net, runs, x, y, kind, divisor, *, model=None):
    """The last layer is another optimiser's: it descends by the update's gradient."""
    one = SharpnessAware(
        net[0].parameters(), torch.optim.SGD, radii=RADII[kind], lr=0.1,
        step=StepOptions(model=model),
    )  # fmt: skip
    other = torch.optim.SGD(net[2].parameters(), lr=0.1)
    for _ in range(3):
        other.zero_grad()
        one.step(lambda: losses(runs, x, y, RADII[kind], divisor))
        other.step()
    return flat(net)


def ignored_by_ddp(x, y, radii):
    """One step of a network whose last layer, another optimiser's, DDP was told to leave alone."""
    net = network()
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(net, ["2.weight", "2.bias"])
    model = DistributedDataParallel(net)
    one = SharpnessAware(
        net[0].parameters(), torch.optim.SGD, radii=radii, lr=0.1, step=StepOptions(model=model)
    )
    other = torch.optim.SGD(net[2].parameters(), lr=0.1)
    one.step(lambda: losses(model, x, y, radii, N // 2))
    other.step()
    return flat(net)


def late_sync(net, runs, x, y, divisor):
    """`fully_shard` that sends gradients after the last micro-batch alone."""
    optimizer = SharpnessAware(net.parameters(), torch.optim.SGD, rho=0.5, lr=0.1)
    parts = list(zip(x.chunk(2), y.chunk(2), strict=True))

    def call(index):
        if runs is not None:
            runs.set_requires_gradient_sync(index == 1)
        return losses(net, *parts[index], RADII["one"], divisor)

    optimizer.step([lambda: call(0), lambda: call(1)])
    return flat(net)


def normalised(*, model=None):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).double()
    return net if model is None else model(net)


def refused(action):
    try:
        action()
    except UsageError as error:
        return str(error)
    return ""


def ends(ranks):
    whole, (x, y) = data(), half(ranks)
    found, texts = {}, {}

    def against(name, mine, alone):
        found[name] = float((mine - alone).norm())

    for clears in (False, True):
        alone = network()
        expected = own_micro_batches(alone, alone, *whole, N, clears=clears)
        for named in (True, False):
            mine = network()
            runs = DistributedDataParallel(mine)
            against(
                f"own micro-batches, named {named}, cleared {clears}",
                own_micro_batches(
                    mine, runs, x, y, N // 2, model=runs if named else None, clears=clears
                ),
                expected,
            )
    for kind in RADII:
        net, alone = network(), network()
        expected = two_optimizers(alone, alone, *whole, kind, N)
        model = DistributedDataParallel(net)
        against(
            f"two optimisers, ddp, {kind}",
            two_optimizers(net, model, x, y, kind, N // 2, model=model),
            expected,
        )
        shards = sharded(network())
        against(
            f"two optimisers, fsdp, {kind}",
            two_optimizers(shards, shards, x, y, kind, N // 2, model=shards),
            expected,
        )
    net, alone = network(), network()
    views = DistributedDataParallel(net, gradient_as_bucket_view=True)
    ascent = {"ascent": Ascent(every=2)}
    against(
        "looksam, views",
        trained(net, views, x, y, "one", N // 2, model=views, **ascent),
        trained(alone, alone, *whole, "one", N, **ascent),
    )
    shards = sharded(network())
    against(
        "late sync, fsdp",
        late_sync(shards, shards, x, y, N // 2),
        late_sync(network(), None, *whole, N),
    )
    against(
        "left alone by ddp",
        ignored_by_ddp(x, y, {"head": 0.0, "tail": 0.0}),
        ignored_by_ddp(x, y, {"all": 0.0}),
    )
    net = normalised()
    model = DistributedDataParallel(net)
    trained(net, model, x, y, "two", N // 2, model=model, bn_statistics="clean")
    model.eval()(x)
    statistics = net[1].running_mean.clone()
    dist.broadcast(statistics, 0)
    against("buffers, several groups", net[1].running_mean, statistics)

    net = network()
    hooked = DistributedDataParallel(net)
    hooked.register_comm_hook(None, lambda _, bucket: dist.all_reduce(
        bucket.buffer(), async_op=True).get_future().then(lambda f: f.value()[0]))  # fmt: skip
    texts["a communication hook"] = refused(
        lambda: trained(net, hooked, x, y, "two", N // 2, model=hooked)
    )
    static = DistributedDataParallel(network(), static_graph=True)
    texts["static_graph"] = refused(
        lambda: trained(static.module, static, x, y, "two", N // 2, model=static)
    )
    local = DistributedDataParallel(network())
    texts["your own backward()"] = refused(lambda: trained(
        local.module, local, x, y, "one", N // 2, model=local, two_calls=True,
        ascent=Ascent(ranks="local"),
    ))  # fmt: skip
    texts["LookSAM over processes"] = refused(
        lambda: own_micro_batches(local.module, local, x, y, N // 2, model=local, every=2)
    )
    texts["parameters of another optimiser"] = refused(
        lambda: two_optimizers(shards, shards, x, y, "one", N // 2)
    )
    silent = sharded(network())
    silent.set_requires_gradient_sync(False)
    texts["sync switched off"] = refused(
        lambda: trained(silent, silent, x, y, "two", N // 2, model=silent)
    )
    within = DistributedDataParallel(Within())
    texts["manual_backward"] = refused(lambda: within(x, y))
    texts["look whole on each process"] = refused(lambda: trained(
        (old := flattened()), old, x, y, "one", N // 2
    ))  # fmt: skip
    return found, texts


class Within(nn.Module):
    """Steps inside DDP's forward pass, as Lightning's manual optimisation does."""

    def __init__(self):
        super().__init__()
        self.net = network()
        self.optimizer = SharpnessAware(self.net.parameters(), torch.optim.SGD, rho=0.5, lr=0.1)

    def forward(self, x, y):
        return self.optimizer.step(lambda: losses(self.net, x, y, RADII["one"], N // 2))


def flattened():
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(network(), use_orig_params=True, device_id="cpu")


@pytest.mark.slow
def test_two_ranks_are_one_process_or_are_refused():
    for found, texts in on_ranks(2, ends):
        assert len(found) == 4 + 6 + 4
        for name, apart in found.items():
            assert apart == pytest.approx(0.0, abs=1e-12), name
        for words, text in texts.items():
            assert words in text, (words, text)
