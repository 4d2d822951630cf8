"""Objectives over few parameters in closed form, and of the small network."""

import torch
from torch import nn

from saddlescope.curvature import HessianOperator, Objective
from tests.curvature.networks import convolutional, images


class Weights(nn.Module):
    """A model whose output is its parameters, so that any function of w is an objective."""

    def __init__(self, *values, dtype=torch.float64):
        super().__init__()
        self.left = nn.Parameter(torch.tensor(values[:1], dtype=dtype))
        self.right = nn.Parameter(torch.tensor(values[1:], dtype=dtype))

    def forward(self, x):
        return torch.cat([self.left, self.right])


def function(f, *values, dtype=torch.float64):
    data = [(torch.zeros(1, 1, dtype=dtype), torch.zeros(1))]
    return Objective(Weights(*values, dtype=dtype), lambda w, _: f(w), data)


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def quadratic(*values, dtype=torch.float64):
    """½·wᵀ·diag(4, −2, 1)·w + w_0."""
    curvature = torch.tensor([4.0, -2.0, 1.0], dtype=dtype)
    return function(lambda w: 0.5 * (curvature * w * w).sum() + w[0], *values, dtype=dtype)


def network(dtype=torch.float64, n=30, smooth=True):
    model, (inputs, targets) = convolutional(dtype=dtype), images(n)
    if not smooth:
        model[2] = nn.ReLU()
    data = [(inputs[:12].to(dtype), targets[:12]), (inputs[12:].to(dtype), targets[12:])]
    return Objective(model, nn.CrossEntropyLoss(), data)


def operator_of(objective):
    return HessianOperator(objective.model, objective.criterion, objective.source)
