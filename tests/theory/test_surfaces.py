"""Smooth saddles: derivatives, infima and walks, against torch, SciPy and by hand."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from saddlescope.errors import UsageError
from saddlescope.sharpness import SharpnessAware
from saddlescope.theory import SurfaceShare, escape_steps, walk
from saddlescope.theory.surfaces import (
    double_well,
    matrix_factorisation,
    monkey_saddle,
    two_layer_linear,
)

TARGET = np.array([[2.0, 0.3, 0.0], [0.0, 1.0, -0.5]])
SYMMETRIC = np.diag([2.0, 0.7, 0.1]) + 0.05
SURFACES = [
    double_well(up=3.0, down=0.8, depth=0.4),
    monkey_saddle(),
    two_layer_linear(TARGET, 1),
    two_layer_linear(TARGET, 4),
    matrix_factorisation(SYMMETRIC, 2),
]


def torch_loss(surface, w):
    """The loss again, written with torch and for one point."""
    if surface.name == "double well":
        return 1.5 * w[0] ** 2 - 0.4 * w[1] ** 2 + 0.25 * (0.64 / 1.6) * w[1] ** 4
    if surface.name == "monkey saddle":
        return w[0] ** 3 - 3 * w[0] * w[1] ** 2
    if surface.name == "matrix factorisation":
        factor = w.reshape(3, 2)
        return 0.25 * (factor @ factor.T - torch.tensor(SYMMETRIC)).square().sum()
    hidden = len(w) // 5
    first, second = w[: 3 * hidden].reshape(hidden, 3), w[3 * hidden :].reshape(2, hidden)
    return 0.5 * (second @ first - torch.tensor(TARGET)).square().sum()


@pytest.mark.parametrize("surface", SURFACES, ids=lambda s: f"{s.name} {len(s.saddle)}")
def test_derivatives(surface):
    points = np.random.default_rng(0).standard_normal((3, len(surface.saddle)))
    for index, point in enumerate(points):
        w = torch.tensor(point, requires_grad=True)

        def loss(x):
            return torch_loss(surface, x)

        assert surface.loss(points)[index] == pytest.approx(loss(w).item(), rel=1e-12)
        (gradient,) = torch.autograd.grad(loss(w), w)
        np.testing.assert_allclose(surface.gradient(points)[index], gradient, rtol=1e-11)
        wanted = torch.autograd.functional.hessian(loss, w)
        np.testing.assert_allclose(surface.hessian(points)[index], wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("surface", SURFACES, ids=lambda s: f"{s.name} {len(s.saddle)}")
def test_a_saddle_is_one(surface):
    """No gradient, something lower nearby, and the infimum is reached by minimisation."""
    saddle = surface.saddle[None]
    assert np.abs(surface.gradient(saddle)).max() < 1e-14
    generator = np.random.default_rng(1)
    near = saddle + 1e-2 * generator.standard_normal((200, saddle.shape[1]))
    assert surface.loss(near).min() < surface.loss(saddle)[0]
    if np.isinf(surface.lowest):
        return
    found = min(
        minimize(
            lambda w: surface.loss(w[None])[0],
            start,
            jac=lambda w: surface.gradient(w[None])[0],
            tol=1e-12,
        ).fun
        for start in generator.standard_normal((5, saddle.shape[1]))
    )
    assert found == pytest.approx(surface.lowest, abs=1e-8)


def test_curvatures_at_the_saddles():
    assert double_well(up=3.0, down=0.8).ends_at(np.zeros(2))[:2] == (3.0, -0.8)
    assert monkey_saddle().ends_at(np.zeros(2))[:2] == (0.0, 0.0)
    first = np.linalg.svd(TARGET, compute_uv=False)[0]
    linear = two_layer_linear(TARGET, 4)
    assert linear.ends_at(linear.saddle)[:2] == pytest.approx((first, -first))
    factors = matrix_factorisation(SYMMETRIC, 2)
    values = np.linalg.eigvalsh(SYMMETRIC)
    assert factors.ends_at(factors.saddle)[:2] == pytest.approx((2 * values[2], -values[1]))


def test_the_optimisers_walk_the_same_way_through_a_switch():
    """SSE-SAM on a network's loss, the tail being a share of it; SharpnessAware in float64."""
    surface, steps, switch = two_layer_linear(TARGET, 2), 6, 4
    start = 0.3 * np.random.default_rng(2).standard_normal((1, len(surface.saddle)))
    radii, weights = {"head": 0.2, "tail": 0.4}, {"head": 0.75, "tail": 0.25}
    shares = [
        SurfaceShare(surface, start, np.array([radii[name]]), weights[name]) for name in radii
    ]
    *_, (wanted, _) = walk(shares, np.array([0.1]), steps, switch=switch)
    w = torch.nn.Parameter(torch.tensor(start[0]))
    optimizer = SharpnessAware([w], torch.optim.SGD, radii=radii, lr=0.1)
    for step in range(steps):
        if step == switch:
            optimizer.set_radii({"head": 0.0, "tail": 0.4})
        optimizer.step(lambda: {name: weights[name] * torch_loss(surface, w) for name in weights})
    np.testing.assert_allclose(w.detach().numpy() - start[0], wanted[0], rtol=1e-12)


def test_in_one_dimension_sam_never_leaves():
    """facts.md: with η|λ| < 1 and |w_0 − w*| < ρ SAM stays within ρ while SGD escapes."""
    surface = double_well(up=1.0, down=1.0, depth=4.0)  # wells at ±4
    start = np.stack([np.zeros(20), np.linspace(0.01, 0.3, 20)], axis=1)
    for rho, leaves in ((0.0, True), (0.5, False)):
        shares = [SurfaceShare(surface, start, np.full(20, rho))]
        found = escape_steps(surface, shares, start, 0.1, drop=0.5, most=500)
        assert np.isfinite(found).all() == leaves
        assert np.isnan(found).all() != leaves
        for moved, _ in walk(shares, np.full(20, 0.1), 500):
            assert leaves or np.abs(start[:, 1] + moved[:, 1]).max() <= rho


def test_steps_are_counted_by_hand():
    """y doubles at every step where the quartic is negligible: 1/8, 1/4, 1/2; L = −½y²."""
    surface = double_well(up=1.0, down=1.0, depth=1e9)
    start = np.array([[0.0, 0.125], [0.0, 0.5], [0.0, 0.0]])
    shares = [SurfaceShare(surface, start, np.zeros(3))]
    found = escape_steps(surface, shares, start, 1.0, drop=0.1, most=5)
    np.testing.assert_array_equal(found, [2, 0, np.nan])
    with pytest.raises(UsageError, match="drop"):
        escape_steps(surface, shares, start, 1.0, drop=0.0, most=5)
