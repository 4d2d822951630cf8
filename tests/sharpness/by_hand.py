"""The step that the tests of SharpnessAware's loops work out by hand, and what they share.

On L = ½|w|² from w = (3, 4) with ρ = 0.5 the ascent is (0.3, 0.4), the gradient there (3.3, 4.4),
and a step of size 0.1 ends at (2.67, 3.56).
"""

import torch
from torch import nn

from saddlescope.sharpness import SharpnessAware

START, SAM = torch.tensor([3.0, 4.0]), torch.tensor([2.67, 3.56])


def weight():
    return nn.Parameter(START.clone())


def sam(*params, rho=0.5, base=torch.optim.SGD, **options):
    return SharpnessAware(params, base, **({"rho": rho, "lr": 0.1} | options))


def half_square(w):
    return 0.5 * w.square().sum()


def same(found, expected, **tolerance):
    torch.testing.assert_close(found.detach(), expected, **tolerance)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def flat(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


X, Y = torch.randn(16, 4, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 3
