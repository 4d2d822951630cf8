"""No step makes a device wait."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from saddlescope.sharpness import Ascent, SharpnessAware, StepOptions

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "is_nonzero")


class Waits(TorchDispatchMode):
    """Collects the operations whose result the host has to read."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.split(".")[0]
        if name in WAITS:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("form", ["step", "micro-batches", "two calls"])
@pytest.mark.parametrize(
    "options",
    [
        {"radii": {"all": 0.0}},
        {"radii": {"all": 0.5}},
        {"radii": {"head": 0.2, "tail": 0.5}},
        {"adaptive": True, "step": {"clip": 1.0}},
        {"ascent": Ascent(friendly=1.0)},
        {"ascent": Ascent(every=2)},
        {"step": {"bn_statistics": "clean"}},
        {"maximize": True},
        {"half": True},
    ],
)
def test_the_host_reads_nothing(options, form):
    options = dict(options)
    dtype = torch.bfloat16 if options.pop("half", False) else torch.float32
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2)).to(dtype)
    step = StepOptions(model=net, **options.pop("step", {}))
    optimizer = SharpnessAware(
        net.parameters(), torch.optim.SGD, step=step, lr=0.1, momentum=0.9, **options
    )
    inputs = torch.randn(8, 4, dtype=dtype)

    def losses():
        outputs = net(inputs).square()
        parts = {"head": outputs[:4].mean(), "tail": outputs[4:].mean()}
        return parts if "head" in optimizer.radii else outputs.mean()

    if form == "two calls" and ("ascent" in options or "head" in optimizer.radii):
        form = "step"
    with Waits() as waits:
        for _ in range(3):
            if form == "two calls":
                for turn in (optimizer.first_step, optimizer.second_step):
                    losses().backward()
                    turn(zero_grad=True)
            else:
                optimizer.step([losses, losses] if form == "micro-batches" else losses)
    assert waits.found == []


def test_the_count_sees_a_wait():
    with Waits() as waits:
        float(torch.ones(()))
    assert waits.found == ["_local_scalar_dense"]
