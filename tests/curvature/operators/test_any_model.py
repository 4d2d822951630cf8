"""Networks of every kind against dense Hessians, through double backward and, traced or not, as
tracing is asked for."""

import logging
from collections import UserDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from saddlescope.curvature import HessianOperator, Programs
from saddlescope.curvature.reference import dense_matrix
from tests.curvature.networks import convolutional, dense_hessian, images, split_batches


class Encoder(nn.Module):
    """torch's own transformer, with its fused attention."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            4, 2, dim_feedforward=5, dropout=0.1, activation="gelu", batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.last = nn.Linear(4, 4)

    def forward(self, x):
        return self.last(self.encoder(x.reshape(len(x), 16, 4)[:, :5]).mean(1))


class Causal(nn.Module):
    """Causal attention written by hand, after a LayerNorm."""

    def __init__(self):
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(4), nn.Linear(4, 12)
        self.mix, self.last = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = x.reshape(len(x), 16, 4)[:, :5]
        q, k, v = (
            part.reshape(len(x), 5, 2, 2).transpose(1, 2)
            for part in self.qkv(self.norm(x)).chunk(3, -1)
        )
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.last(x + self.mix(seen.transpose(1, 2).reshape(len(x), 5, 4)))[:, -1]


class Odd(nn.Module):
    """Tied modules and a tied matrix, frozen and unused parameters."""

    def __init__(self):
        super().__init__()
        self.tied = nn.Linear(6, 6)
        self.again = self.tied
        self.unused = nn.Linear(2, 3)
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.transposed = nn.Linear(6, 6, bias=False)
        self.transposed.weight = self.tied.weight
        self.last = nn.Linear(6, 4)
        self.frozen_bias = nn.Linear(4, 4)
        self.frozen_bias.bias.requires_grad_(False)

    def forward(self, x):
        y = torch.tanh(self.tied(x.flatten(1)[:, :6]))
        y = self.last(torch.tanh(self.frozen(self.transposed(self.again(y)))))
        return self.frozen_bias(y)


def groupnorm():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2),
        nn.GroupNorm(2, 4),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 4),
    )


def rms():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 3), nn.RMSNorm(3), nn.ELU(), nn.PReLU(), nn.Linear(3, 4)
    )


def recurrent():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.last = nn.GRU(8, 3, batch_first=True), nn.Linear(3, 4)

        def forward(self, x):
            return self.last(self.inner(x[:, 0])[0][:, -1])

    return Last()


# Name: (how to make it, parameters in w, whether it can be traced).
MODELS = {
    "encoder": (Encoder, 165, True),
    "causal": (Causal, 108, True),
    "odd": (Odd, 42 + 9 + 28 + 16, True),
    "batchnorm": (convolutional, 88, True),
    "groupnorm": (groupnorm, 68, False),  # torch records its gradient in one memory layout only
    "rmsnorm": (rms, 215, True),
    "recurrent": (recurrent, 133, False),
}


@pytest.mark.parametrize("budget", [None, 0])
@pytest.mark.parametrize("strategy", ["double-backward", "traced"])
@pytest.mark.parametrize("name", MODELS)
def test_dense_hessian(name, strategy, budget, caplog):
    make, size, traceable = MODELS[name]
    torch.manual_seed(0)
    model, data = make().double().eval(), images(7)
    before = list(model.parameters())
    programs = Programs(strategy)
    with caplog.at_level(logging.WARNING, "saddlescope.curvature"):
        operator = HessianOperator(
            model, nn.CrossEntropyLoss(), split_batches(data, 3, 4),
            memory_budget=budget, programs=programs,
        )  # fmt: skip
    assert operator.size == size
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        truth = dense_hessian(model, lambda f: F.cross_entropy(f(data[0]), data[1]))
    torch.testing.assert_close(dense_matrix(operator), truth, rtol=1e-8, atol=1e-11)
    assert programs.traced is (traceable and strategy == "traced")
    assert ("tracing was refused" in caplog.text) is (strategy == "traced" and not traceable)
    assert all(now is then for now, then in zip(model.parameters(), before, strict=True))
    operator.verify()


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, x, y, scale=1.0):
        return torch.tanh(self.left(x)) * self.right(y) * scale


@pytest.mark.parametrize("kind", [tuple, list, dict, UserDict])
@pytest.mark.parametrize("strategy", ["double-backward", "traced"])
def test_several_inputs(kind, strategy):
    torch.manual_seed(0)
    model = TwoInputs().double()
    x, y, targets = torch.randn(7, 3).double(), torch.randn(7, 2).double(), torch.arange(7) % 4

    def batch(some):
        if kind in (dict, UserDict):
            return kind({"x": x[some], "y": y[some], "scale": 0.5}), targets[some]
        return kind((x[some], y[some])), targets[some]

    batches = [batch(slice(0, 2)), batch(slice(2, 7))]
    operator = HessianOperator(model, nn.CrossEntropyLoss(), batches, programs=Programs(strategy))
    scale = 0.5 if kind in (dict, UserDict) else 1.0
    truth = dense_hessian(model, lambda f: F.cross_entropy(f(x, y, scale), targets))
    torch.testing.assert_close(dense_matrix(operator), truth, rtol=1e-9, atol=1e-12)
