"""What a loop may do besides, in one process: the step is that of the rule, or refused."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from saddlescope.errors import UsageError
from saddlescope.sharpness import Ascent, SharpnessAware

RADII = [{"head": 0.0, "tail": 0.0}, {"head": 0.0, "tail": 0.5}, {"head": 0.2, "tail": 0.5}]


def start(*, dtype=torch.float64):
    return nn.Parameter(torch.tensor([3.0, 4.0], dtype=dtype))


def scaled_calls(optimizer, w, scaler, *, between=lambda: None):
    scaler.scale(w.square().sum()).backward()
    optimizer.first_step()
    scaler.scale(w.square().sum()).backward()
    between()
    optimizer.second_step(scaler=scaler)


def test_friendly_sam_refuses_a_scaler_in_two_calls_as_in_one():
    w, scaler = start(), torch.amp.GradScaler("cpu", init_scale=64.0)
    optimizer = SharpnessAware([w], torch.optim.SGD, lr=0.1, ascent=Ascent(friendly=1.0))
    with pytest.raises(UsageError, match="a GradScaler goes with neither"):
        scaled_calls(optimizer, w, scaler)
    assert torch.equal(w.detach(), start().detach())


@pytest.mark.parametrize("early", [False, True], ids=["at w + ε", "at w"])
def test_gradients_are_not_unscaled_twice(early):
    w, scaler = start(), torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = SharpnessAware([w], torch.optim.SGD, rho=0.5, lr=0.1)
    if early:
        scaler.scale(w.square().sum()).backward()
        scaler.unscale_(optimizer)
        optimizer.zero_grad()
    between = (lambda: None) if early else (lambda: scaler.unscale_(optimizer))
    with pytest.raises(UsageError, match=r"clip by StepOptions\(clip"):
        scaled_calls(optimizer, w, scaler, between=between)
    assert torch.equal(w.detach(), start().detach())
    scaler.update()
    optimizer.zero_grad()
    scaled_calls(optimizer, w, scaler)
    # ∇ = 2(w + 0.5·w/‖w‖), and 0.2 of it is taken.
    assert w.tolist() == pytest.approx([3.0 - 0.2 * 3.3, 4.0 - 0.2 * 4.4])


def halve(parameter):
    parameter.grad.mul_(0.5)


@pytest.mark.parametrize("radii", RADII, ids=str)
def test_hooks_on_accumulated_gradients_act_once_a_group(radii):
    """Head and tail have a coordinate each, so a hook that halves is the same before and after."""
    found = []
    for where in ("leaf", "accumulated"):
        w = start()
        if where == "leaf":
            w.register_hook(lambda g: g * 0.5)
        else:
            w.register_post_accumulate_grad_hook(halve)
        optimizer = SharpnessAware([w], torch.optim.SGD, radii=radii, lr=0.1)
        for _ in range(2):
            optimizer.step(lambda w=w: {"head": w[0].square(), "tail": w[1].square()})
        found.append(w.tolist())
    assert found[0] == pytest.approx(found[1])


class SpentExp(torch.autograd.Function):
    """Right for one backward pass, whose result is written over what the forward saved."""

    @staticmethod
    def forward(ctx, x):
        ctx.kept = x.exp()
        return ctx.kept.clone()

    @staticmethod
    def backward(ctx, grad):
        return ctx.kept.mul_(grad)


@pytest.mark.parametrize("radii", RADII, ids=str)
def test_functions_that_write_over_what_they_saved_are_run_anew(radii):
    found = []
    for function in (torch.exp, SpentExp.apply):
        w = nn.Parameter(torch.tensor([0.3, 0.4], dtype=torch.float64))

        def losses(w=w, function=function):
            e = function(w)
            return {"head": 1.5 * e[0] * e[1], "tail": e[1].square()}

        optimizer = SharpnessAware([w], torch.optim.SGD, radii=radii, lr=0.1)
        for _ in range(2):
            optimizer.step(losses)
        found.append(w.tolist())
    assert found[0] == pytest.approx(found[1])


@pytest.mark.parametrize("form", ["step", "two calls", "without losses"])
def test_hooks_after_a_step_run_once_in_each_form(form):
    w, seen = start(), []
    optimizer = SharpnessAware(
        [w], torch.optim.SGD, rho=0.0 if form == "without losses" else 0.5, lr=0.1
    )
    optimizer.register_step_post_hook(lambda o, *_: seen.append((o is optimizer, w.tolist())))
    if form == "step":
        optimizer.step(lambda: w.square().sum())
    else:
        w.square().sum().backward()
        if form == "two calls":
            optimizer.first_step()
            w.square().sum().backward()
        optimizer.step()
    assert seen == [(True, w.tolist())]


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("adaptive", [False, True])
def test_complex_parameters_are_pairs_of_real_ones(dtype, adaptive):
    """Adaptive lengths are those of the numbers, which their parts do not have."""
    real = torch.tensor([[0.3, -0.2], [0.5, 0.7]], dtype=torch.zeros((), dtype=dtype).real.dtype)
    w, parts = nn.Parameter(torch.view_as_complex(real.clone())), nn.Parameter(real.clone())
    lengths = {w: w.abs, parts: lambda: parts.norm(dim=1)}
    for parameter, length in lengths.items():
        optimizer = SharpnessAware([parameter], torch.optim.SGD, rho=0.1, lr=0.1, adaptive=adaptive)
        optimizer.step(lambda length=length: (length() ** 3).sum())
    assert torch.isfinite(torch.view_as_real(w.detach())).all()
    if not adaptive:
        torch.testing.assert_close(torch.view_as_real(w.detach()), parts.detach())


def test_radii_of_a_parameter_group_are_refused():
    w, b = start(), start()
    optimizer = SharpnessAware([w], torch.optim.SGD, rho=0.5, lr=0.1)
    with pytest.raises(UsageError, match="set_radii"):
        optimizer.add_param_group({"params": [b], "radii": {"all": 0.1}})
    optimizer.add_param_group({"params": [b]})
    optimizer.param_groups[1]["radii"] = {"all": 0.1}
    with pytest.raises(UsageError, match="different radii"):
        optimizer.step(lambda: (w + b).square().sum())
    optimizer.set_radii({"all": 0.1})
    optimizer.step(lambda: (w + b).square().sum())


def test_the_loss_of_another_copy_is_refused():
    net = nn.Linear(2, 1)
    other, before = copy.deepcopy(net), net.weight.detach().clone()
    optimizer = SharpnessAware(net.parameters(), torch.optim.SGD, lr=0.1)
    with pytest.raises(UsageError, match="none of this optimiser's parameters"):
        optimizer.step(lambda: other(torch.ones(3, 2)).square().sum())
    assert torch.equal(net.weight, before)


STRIDED = """
import threading
import torch, torch.distributed as dist
from torch.testing._internal.distributed.multi_threaded_pg import _install_threaded_pg
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.placement_types import _StridedShard
from saddlescope.sharpness.norms import global_norm

_install_threaded_pg()
torch._C._distributed_c10d._set_thread_isolation_mode(True)
store, found = dist.HashStore(), []

def norm(rank):
    dist.init_process_group("threaded", rank=rank, world_size=4, store=store)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("fsdp", "tp"))
    whole = torch.arange(32.0, dtype=torch.float64).reshape(8, 4)
    i, j = mesh.get_coordinate()
    part = whole.chunk(2, 0)[j].chunk(2, 0)[i].contiguous()
    placements = [_StridedShard(0, split_factor=2), Shard(0)]
    gradient = DTensor.from_local(
        part, mesh, placements, run_check=False, shape=whole.shape, stride=whole.stride()
    )
    found.append(abs(float(global_norm([gradient]) - whole.norm())) < 1e-12)

threads = [threading.Thread(target=norm, args=(rank,)) for rank in range(4)]
[thread.start() for thread in threads]
[thread.join(60) for thread in threads]
assert found == [True] * 4, found
"""


@pytest.mark.slow
def test_the_norm_of_shards_of_fsdp_over_tensor_parallelism():
    done = subprocess.run(
        [sys.executable, "-c", STRIDED], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    "ascent", [Ascent(adaptive=True), Ascent(friendly=0.8), Ascent(every=3, reuse=0.4)], ids=str
)
def test_a_checkpoint_brings_its_ascent(ascent):
    """Whoever forgets the option at resuming would go on by another rule."""
    w = start()
    whole = SharpnessAware([w], torch.optim.SGD, rho=0.5, lr=0.01, ascent=ascent)
    for _ in range(4):
        whole.step(lambda: w[0].square() * w[1])
    state, at = copy.deepcopy(whole.state_dict()), w.detach().clone()
    for _ in range(4):
        whole.step(lambda: w[0].square() * w[1])

    v = nn.Parameter(at)
    resumed = SharpnessAware([v], torch.optim.SGD, rho=0.1, lr=0.3)
    resumed.load_state_dict(state)
    assert resumed.ascent == ascent
    for _ in range(4):
        resumed.step(lambda: v[0].square() * v[1])
    assert v.tolist() == w.tolist()
    resumed.add_param_group({"params": [start()]})
    assert resumed.param_groups[1]["ascent"] == resumed.param_groups[0]["ascent"]


def test_a_checkpoint_that_names_no_ascent_leaves_it():
    w = start()
    plain = torch.optim.SGD([w], lr=0.1)
    optimizer = SharpnessAware([w], torch.optim.SGD, rho=0.5, lr=0.1, adaptive=True)
    optimizer.load_state_dict(plain.state_dict())
    assert optimizer.ascent == Ascent(adaptive=True)
    state = optimizer.state_dict()
    state["param_groups"][0]["ascent"]["sideways"] = 1
    with pytest.raises(UsageError, match="sideways"):
        optimizer.load_state_dict(state)


def test_an_ascent_of_a_parameter_group_is_refused():
    w, b = start(), start()
    with pytest.raises(UsageError, match="'ascent'"):
        SharpnessAware([{"params": [w], "ascent": {}}], torch.optim.SGD, rho=0.5, lr=0.1)
    optimizer = SharpnessAware([w], torch.optim.SGD, rho=0.5, lr=0.1)
    with pytest.raises(UsageError, match="'ascent'"):
        optimizer.add_param_group({"params": [b], "ascent": {"adaptive": True}})
    optimizer.param_groups[0]["ascent"]["adaptive"] = True
    with pytest.raises(UsageError, match=r"assign to \.ascent"):
        optimizer.step(lambda: w.square().sum())
    optimizer.ascent = Ascent(adaptive=True)
    optimizer.step(lambda: w.square().sum())
