"""A network of 43 parameters in float64 whose views can be computed densely."""

from dataclasses import replace

import torch
from torch import nn
from torch.func import functional_call

from saddlescope.curvature import StopRule, TensorSamples
from saddlescope.measurement import Settings, SpectrumJob, Target, UpdateRule, ViewSettings

GROUPS = {"head": (0,), "tail": (1, 2)}
QUICK = ViewSettings(steps=6, probes=3, k=2, points=5, plane_points=3, resamples=3, level=0.5)


def target(*, dtype=torch.float64, digest="abc", rule=None, n=41):
    """Class 0 has 30 samples, class 1 has 10, class 2 has one."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(n, 4, generator=generator, dtype=torch.float64).to(dtype)
    classes = torch.tensor([0] * 30 + [1] * 10 + [2])[torch.randperm(41, generator=generator)][:n]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype).eval()
    return Target(
        model=model,
        criterion=nn.CrossEntropyLoss(),
        samples=TensorSamples(inputs, classes, GROUPS),
        identity={
            "run": "small", "method": "sgd", "split": "train", "criterion": "ce", "epoch": 3,
            "checkpoint": "last", "digest": digest,
        },
        rule=rule or UpdateRule(),
    )  # fmt: skip


def job(path, *, on=None, classes=(1,), groups=("all",), view_settings=None, **rest):
    options = {"settings": Settings(StopRule(rtol=1e-8, atol=1e-9))} | rest
    if view_settings:
        options["settings"] = replace(options["settings"], views=view_settings)
    return SpectrumJob.plan(
        on or target(), classes=list(classes), groups=groups, path=path, **options
    )


class Dense:
    """The mean loss over some classes, as a function of a flat w, and its derivatives."""

    def __init__(self, on, classes=(0, 1, 2)):
        chosen = torch.isin(on.samples.targets, torch.tensor(classes))
        inputs, targets = on.samples.values[chosen], on.samples.targets[chosen]
        named = {name: p.detach() for name, p in on.model.named_parameters()}
        sizes = [p.numel() for p in named.values()]
        self.n = len(targets)
        self.w = torch.cat([p.reshape(-1) for p in named.values()])

        def loss(w):
            parts = torch.split(w, sizes)
            parameters = {
                name: part.view(p.shape)
                for part, (name, p) in zip(parts, named.items(), strict=True)
            }
            outputs = functional_call(on.model, parameters, (inputs,))
            return nn.functional.cross_entropy(outputs, targets)

        self.loss = loss

    def gradient(self, w=None):
        return torch.func.grad(self.loss)(self.w if w is None else w)

    @property
    def hessian(self):
        return torch.autograd.functional.hessian(self.loss, self.w)
