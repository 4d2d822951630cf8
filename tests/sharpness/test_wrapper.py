"""SharpnessAware is whatever a torch.optim.Optimizer is: copied, stored, loaded, scheduled."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from saddlescope.errors import UsageError
from saddlescope.sharpness import Ascent, SharpnessAware

START = torch.tensor([3.0, 4.0])
KINDS = [{}, {"ascent": Ascent(friendly=0.5)}, {"ascent": Ascent(every=3)}]


def make(base=torch.optim.SGD, **options):
    w = nn.Parameter(START.clone())
    if base is torch.optim.SGD:
        options = {"momentum": 0.9} | options
    return w, SharpnessAware([w], base, **({"rho": 0.5, "lr": 0.1} | options))


def take(optimizer, steps=1):
    (w,) = optimizer.param_groups[0]["params"]
    for _ in range(steps):
        optimizer.step(lambda: 0.01 * w.square().square().sum())
    return w.detach().clone()


def stored(optimizer):
    file = io.BytesIO()
    torch.save(optimizer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o)), stored],
    ids=["deepcopy", "pickle", "torch.save"],
)  # fmt: skip
def test_copies_go_on_alike(copied, base, options):
    _, optimizer = make(base, **options)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)  # which puts a method into the instance
    take(optimizer, 4)
    optimizer.set_radii({"all": 0.3})
    other = copied(optimizer)
    assert other.radii == {"all": 0.3}
    assert other.param_groups is other.base.param_groups
    assert other.state is other.base.state
    assert torch.equal(take(optimizer, 4), take(other, 4))


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.Adam])
def test_a_checkpoint_goes_on_to_the_bit(base, options):
    w, optimizer = make(base, **options)
    take(optimizer, 4)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other_w, other = make(base, **(options | {"rho": 0.1}))
    other_w.data.copy_(w.detach())
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.radii == {"all": 0.5}
    assert torch.equal(take(optimizer, 4), take(other, 4))


def test_the_state_is_torch_s():
    w, optimizer = make()
    take(optimizer)
    content = optimizer.state_dict()
    assert set(content) == {"state", "param_groups"}
    assert set(content["state"][0]) == {"momentum_buffer"}
    assert content["param_groups"][0]["radii"] == {"all": 0.5}
    assert optimizer.state[w] is optimizer.base.state[w]


def test_a_checkpoint_of_the_base_keeps_the_radii_and_the_schedule():
    plain = nn.Parameter(START.clone())
    sgd = torch.optim.SGD([plain], lr=0.2, momentum=0.9)
    plain.grad = torch.ones(2)
    sgd.step()
    for load in ("load_state_dict", "base.load_state_dict"):
        w, optimizer = make()
        loader = optimizer.base if load.startswith("base") else optimizer
        loader.load_state_dict(copy.deepcopy(sgd.state_dict()))
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1)
        assert optimizer.radii == {"all": 0.5}
        assert torch.equal(optimizer.state[w]["momentum_buffer"], torch.ones(2))
        take(optimizer)
        scheduler.step()
        assert optimizer.base.param_groups[0]["lr"] == pytest.approx(0.02)


def test_the_format_of_older_run_folders_is_read():
    w, optimizer = make()
    take(optimizer, 3)
    old = {"base": optimizer.base.state_dict(), "radii": {"all": 0.2}}
    other_w, other = make()
    other_w.data.copy_(w.detach())
    other.load_state_dict(copy.deepcopy(old))
    assert other.radii == {"all": 0.2}
    optimizer.set_radii({"all": 0.2})
    assert torch.equal(take(optimizer, 3), take(other, 3))


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("flatten", [False, True])
def test_distributed_checkpoint(flatten, options):
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    torch.manual_seed(0)
    nets, weights = [nn.Linear(4, 3), nn.Linear(4, 3)], []
    optimizers = [
        SharpnessAware(net.parameters(), torch.optim.SGD, rho=rho, lr=0.1, momentum=0.9, **options)
        for net, rho in zip(nets, (0.1, 0.7), strict=True)
    ]
    how = StateDictOptions(flatten_optimizer_state_dict=flatten)

    def step(index):
        inputs = torch.arange(8.0).reshape(2, 4)
        optimizers[index].step(lambda: nets[index](inputs).square().mean())

    for _ in range(2):
        step(0)
    content = get_optimizer_state_dict(nets[0], optimizers[0], options=how)
    nets[1].load_state_dict(nets[0].state_dict())
    # As through a file: what is handed over is the live state.
    set_optimizer_state_dict(nets[1], optimizers[1], copy.deepcopy(content), options=how)
    assert optimizers[1].radii == {"all": 0.1}
    for index in range(2):
        for _ in range(2):
            step(index)
        weights.append(nets[index].weight.detach())
    assert torch.equal(*weights)


def test_hooks_run():
    _, optimizer = make()
    seen = []
    optimizer.register_step_pre_hook(lambda o, *_: seen.append(("pre", o is optimizer)))
    optimizer.register_step_post_hook(lambda o, *_: seen.append(("post", o is optimizer)))
    optimizer.register_state_dict_post_hook(lambda o, _: seen.append(("save", o is optimizer)))
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append(("load", o is optimizer)))
    take(optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == [("pre", True), ("post", True), ("save", True), ("load", True)]


def test_maximize_climbs_where_minimising_the_negative_descends():
    up, down = make(maximize=True), make()
    for sign, (w, optimizer) in ((-1, up), (1, down)):
        for _ in range(3):
            optimizer.step(lambda w=w, sign=sign: sign * 0.5 * w.square().sum())
    torch.testing.assert_close(up[0], down[0])
    _, mixed = make()
    (w,) = mixed.param_groups[0]["params"]
    v = nn.Parameter(START.clone())
    mixed.add_param_group({"params": [v], "maximize": True})
    assert mixed.radii == {"all": 0.5}
    mixed.step(lambda: 0.5 * w.square().sum() - 0.5 * v.square().sum())
    # ε has norm ρ over both parts; each moves as if the other's sign were its own.
    expected = START - 0.1 * (START + 0.5 * START / START.norm() / 2**0.5)
    torch.testing.assert_close(w.detach(), expected)
    torch.testing.assert_close(v.detach(), expected)


def test_schedulers_do_not_miss_a_step():
    w, optimizer = make()
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 0.5, total_iters=2)
    for _ in range(2):
        w.square().sum().backward()
        optimizer.first_step()
        w.square().sum().backward()
        optimizer.second_step(zero_grad=True)
        warm_up.step()  # warns, hence fails, where it sees no step
    assert optimizer.base.param_groups[0]["lr"] == pytest.approx(0.1)


@pytest.mark.parametrize("key", ["rho", "adaptive", "radii"])
def test_what_a_parameter_group_cannot_say_is_refused(key):
    w = nn.Parameter(START.clone())
    with pytest.raises(UsageError, match=f"holds '{key}', which is not read from there"):
        SharpnessAware([{"params": [w], key: 2.0}], torch.optim.SGD, lr=0.1)


def test_a_radius_written_into_a_group_later_is_refused():
    w, optimizer = make()
    optimizer.param_groups[0]["rho"] = 0.9
    with pytest.raises(UsageError, match="set_radii"):
        take(optimizer)
    w.square().sum().backward()
    with pytest.raises(UsageError, match="set_radii"):
        optimizer.first_step()
    assert torch.equal(w.detach(), START)


def test_a_base_whose_own_option_is_called_rho():
    _, optimizer = make(torch.optim.Adadelta)
    assert optimizer.param_groups[0]["rho"] == 0.9
    take(optimizer, 2)


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
def test_a_tied_parameter_that_is_listed_twice_counts_once_on_the_way_up():
    """torch's SGD steps twice with its gradient, which must be that of SAM all the same."""
    w, v = (nn.Parameter(torch.tensor([a, b])) for a, b in ((3.0, 4.0), (1.0, 2.0)))
    optimizer = SharpnessAware([w, v, w], torch.optim.SGD, rho=0.5, lr=0.1)
    optimizer.step(lambda: 0.5 * (w.square().sum() + v.square().sum()))
    norm = (25.0 + 5.0) ** 0.5
    assert torch.allclose(v.detach(), torch.tensor([1.0, 2.0]) * (1 - 0.1 * (1 + 0.5 / norm)))
    assert torch.allclose(w.detach(), START * (1 - 0.2 * (1 + 0.5 / norm)))
