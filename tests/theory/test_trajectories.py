"""Trajectories in the eigenbasis against the optimisers of `saddlescope.sharpness`, and by hand."""

import numpy as np
import pytest
import torch

from saddlescope.sharpness import RadiusOptions, SharpnessAware, method_radii
from saddlescope.theory import Part, walk

STEPS = 7
METHODS = ("sgd", "sam", "imbsam", "sam-ext")


def test_one_sam_step_by_hand():
    part = Part(np.array([[3.0, 4.0]]), np.array([[-1.0, 2.0]]), np.array([0.5]))
    (_, (before,)), (moved, (after,)) = walk([part], np.array([0.1]), 1)
    # ε = 0.5·(0.6, 0.8); ∇L(w + ε) = (3 − 0.3, 4 + 0.8)
    np.testing.assert_allclose(moved, [[-0.27, -0.48]], rtol=1e-15)
    np.testing.assert_allclose(before, [[3.0, 4.0]])
    np.testing.assert_allclose(after, [[3.27, 3.04]], rtol=1e-15)


def test_a_part_without_gradient_perturbs_nothing():
    part = Part(np.zeros((1, 2)), np.array([[-1.0, 2.0]]), np.array([0.5]))
    *_, (moved, _) = walk([part], np.array([0.1]), 3)
    assert not moved.any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_the_optimisers_walk_the_same_way(method, seed):
    """In a rotated basis, in float64: SharpnessAware knows nothing of eigenvectors."""
    generator = np.random.default_rng(seed)
    dimension, r = 6, 0.2
    eigenvalues = np.sort(generator.standard_normal(dimension))
    basis = np.linalg.qr(generator.standard_normal((dimension, dimension)))[0]
    g_head, g_tail = generator.standard_normal((2, dimension))
    rho_head, rho_tail, eta = 0.3, 0.5, 0.2
    radii = {
        "sgd": (0.0,), "sam": (rho_head,), "imbsam": (0.0, rho_tail),
        "sam-ext": (rho_head, rho_tail),
    }[method]  # fmt: skip
    shares = [(g_head, (1 - r) * eigenvalues), (g_tail, r * eigenvalues)]
    if len(radii) == 1:
        shares = [(g_head + g_tail, eigenvalues)]
    parts = [
        Part(g[None], e[None], np.array([rho])) for (g, e), rho in zip(shares, radii, strict=True)
    ]
    *_, (wanted, _) = walk(parts, np.array([eta]), STEPS)

    w = torch.nn.Parameter(torch.zeros(dimension, dtype=torch.float64))
    turned = torch.tensor(basis)

    def losses():
        u = turned.T @ w
        found = [torch.tensor(g) @ u + 0.5 * torch.tensor(e) @ u.square() for g, e in shares]
        names = ("all",) if len(radii) == 1 else ("head", "tail")
        return dict(zip(names, found, strict=True))

    of_method = method_radii(
        method, epochs=1, options=RadiusOptions(rho=rho_head, rho_head=rho_head, rho_tail=rho_tail)
    ).at(0)
    optimizer = SharpnessAware([w], torch.optim.SGD, radii=of_method, lr=eta)
    for _ in range(STEPS):
        optimizer.step(losses)
    np.testing.assert_allclose((turned.T @ w).detach().numpy(), wanted[0], rtol=1e-12, atol=1e-13)
