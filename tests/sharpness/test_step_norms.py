"""The radius depends neither on the size of the loss nor on how parameters are kept."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from saddlescope.sharpness import Ascent, SharpnessAware
from saddlescope.sharpness.norms import clip_norm, global_norm, inner_product

X, Y = torch.randn(64, 8, generator=torch.Generator().manual_seed(2)), torch.arange(64) % 3


def flat(net):
    return torch.cat([p.detach().double().flatten() for p in net.parameters()])


def epsilon(net, loss, **options):
    """Where the second pass is, as seen from the first, of a step that goes nowhere."""
    places = []
    optimizer = SharpnessAware(net.parameters(), torch.optim.SGD, rho=0.05, lr=0.0, **options)

    def losses():
        places.append(flat(net))
        return loss()

    optimizer.step(losses)
    return places[1] - places[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e-5, 1e4, 1e-25, 1e30])
def test_the_radius_at_every_scale_and_dtype(dtype, scale):
    if dtype is torch.float16 and not 1e-5 <= scale <= 1e4:
        scale = 1e-3  # whose gradients would be 0 or Inf before any norm
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 3)).to(dtype)
    upper = torch.float64 if dtype is torch.float64 else torch.float32

    def loss():
        return scale * nn.functional.cross_entropy(net(X.to(dtype)).to(upper), Y)

    # Adding ε to weights rounds each by 2^-8 of them at most in bfloat16, hence the tolerance.
    tolerance = 1e-2 if dtype.itemsize == 2 else 1e-5
    assert float(epsilon(net, loss).norm()) == pytest.approx(0.05, rel=tolerance)


def test_float16_gradients_that_overflow_leave_the_weights_finite():
    net = nn.Linear(8, 3).half()
    moved = epsilon(net, lambda: 1e6 * nn.functional.cross_entropy(net(X.half()).float(), Y))
    assert torch.equal(moved, torch.zeros_like(moved))


def test_a_network_in_two_dtypes():
    torch.manual_seed(0)
    first, last = nn.Linear(8, 16).bfloat16(), nn.Linear(16, 3)
    net = nn.ModuleList([first, last])
    moved = epsilon(
        net, lambda: nn.functional.cross_entropy(last(first(X.bfloat16()).tanh().float()), Y)
    )
    assert float(moved.norm()) == pytest.approx(0.05, rel=2e-2)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.SparseAdam])
def test_sparse_gradients_are_the_dense_ones(base, adaptive):
    weights, places = [], []
    for sparse in (True, False):
        torch.manual_seed(0)
        table = nn.Embedding(10, 4, sparse=sparse)
        kind = base if sparse or base is torch.optim.SGD else None
        if kind is None:  # SparseAdam takes no dense gradients: compare where it would go
            places.append(epsilon(table, lambda t=table: t(torch.tensor([1, 3, 3])).square().sum()))
            continue
        optimizer = SharpnessAware(
            table.parameters(), kind, rho=0.1, lr=0.1, ascent=Ascent(adaptive=adaptive)
        )
        for _ in range(2):
            optimizer.step(lambda t=table: t(torch.tensor([1, 3, 3])).square().sum())
        weights.append(table.weight.detach())
    if len(weights) == 2:
        torch.testing.assert_close(*weights)
    assert torch.isfinite(weights[0]).all()


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=8), st.integers(-40, 30))
def test_the_norm_in_float32_at_any_exponent(values, exponent):
    exact = torch.tensor(values, dtype=torch.float64) * 10.0**exponent
    tensors = [exact[:3].float(), exact[3:].float()]
    expected = torch.cat(tensors).double().norm().float()
    assert float(global_norm([t for t in tensors if t.numel()])) == pytest.approx(
        float(expected), rel=1e-6, abs=1e-45
    )


def test_inner_product_and_clipping():
    generator = torch.Generator().manual_seed(0)
    a, b = ([torch.randn(n, generator=generator) for n in (3, 5)] for _ in range(2))
    assert float(inner_product(a, b)) == pytest.approx(float(torch.cat(a) @ torch.cat(b)), rel=1e-5)
    before = torch.cat(a)
    clip_norm(a, 100.0)
    assert torch.equal(torch.cat(a), before)
    clip_norm(a, 0.5)
    torch.testing.assert_close(torch.cat(a), before * 0.5 / before.norm())
    assert float(global_norm([])) == 0.0
