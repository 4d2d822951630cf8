"""The relatives of SAM: three steps of each against its published formula, written out.

ASAM: Kwon et al., ICML 2021, Eq. 7 with T = |w|. Friendly-SAM: Li et al., CVPR 2024, and the
authors' code. LookSAM: Liu et al., CVPR 2022, Algorithm 1. Focal-SAM: Li et al., ICML 2025, and
the authors' code. CC-SAM: Zhou et al., CVPR 2023, a radius for each class.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from saddlescope.errors import UsageError
from saddlescope.sharpness import Ascent, SharpnessAware, class_losses, focal_losses

SIZE, LR, RHO = 5, 0.05, 0.3
generator = torch.Generator().manual_seed(4)
SQUARE = torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)
HESSIAN, SLOPE = SQUARE + SQUARE.T, torch.randn(SIZE, generator=generator, dtype=torch.float64)
START = torch.randn(SIZE, generator=generator, dtype=torch.float64)


def gradient(w):
    return HESSIAN @ w + SLOPE


def loss(parts):
    w = torch.cat(list(parts))
    return 0.5 * w @ HESSIAN @ w + SLOPE @ w


def trained(steps, *, two_calls=False, **options):
    """Where so many steps end; in two parameters, so that norms are over both."""
    parts = [nn.Parameter(START[:2].clone()), nn.Parameter(START[2:].clone())]
    optimizer = SharpnessAware(parts, torch.optim.SGD, rho=RHO, lr=LR, **options)
    for _ in range(steps):
        if two_calls:
            for turn in (optimizer.first_step, optimizer.second_step):
                loss(parts).backward()
                turn(zero_grad=True)
        else:
            optimizer.step(lambda: loss(parts))
    return torch.cat([p.detach() for p in parts])


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("two_calls", [False, True])
@pytest.mark.parametrize("options", [{"adaptive": True}, {"ascent": Ascent(adaptive=True)}])
def test_asam(options, two_calls):
    w = START.clone()
    for _ in range(3):
        g, t = gradient(w), w.abs()
        w = w - LR * gradient(w + RHO * t**2 * g / (t * g).norm())
    same(trained(3, two_calls=two_calls, **options), w)


def test_asam_does_not_change_with_the_scale_of_weights():
    """L(aw) has the ascent of L at w, divided by a: what the plain rule lacks."""
    ends = []
    for scale in (1.0, 10.0):
        w, places = nn.Parameter(START.clone() / scale), []
        optimizer = SharpnessAware([w], torch.optim.SGD, rho=RHO, adaptive=True, lr=0.0)

        def scaled(w=w, scale=scale, places=places):
            places.append(w.detach() * scale)
            return loss([w * scale])

        optimizer.step(scaled)
        ends.append(places[1])
    same(*ends)


@pytest.mark.parametrize("two_calls", [False, True])
@pytest.mark.parametrize(("sigma", "decay"), [(1.0, 0.9), (0.4, 0.6)])
def test_friendly_sam(sigma, decay, two_calls):
    w, mean = START.clone(), None
    for _ in range(4):
        g = gradient(w)
        direction = g if mean is None else g - sigma * mean
        mean = g if mean is None else decay * mean + (1 - decay) * g
        w = w - LR * gradient(w + RHO * direction / direction.norm())
    ascent = Ascent(friendly=sigma, decay=decay)
    same(trained(4, two_calls=two_calls, ascent=ascent), w)


@pytest.mark.parametrize(("every", "reuse"), [(2, 0.7), (3, 0.5)])
def test_looksam(every, reuse):
    w = START.clone()
    for step in range(5):
        g = gradient(w)
        if step % every == 0:
            update = gradient(w + RHO * g / g.norm())
            cosine = (update @ g) / (update.norm() * g.norm())
            orthogonal = update - update.norm() * cosine * g / g.norm()
        else:
            update = g + reuse * g.norm() / orthogonal.norm() * orthogonal
        w = w - LR * update
    same(trained(5, ascent=Ascent(every=every, reuse=reuse)), w)


def test_looksam_leaves_passes_out_and_needs_the_function():
    w, calls = nn.Parameter(START.clone()), []
    optimizer = SharpnessAware([w], torch.optim.SGD, rho=RHO, lr=LR, ascent=Ascent(every=3))
    for _ in range(6):
        optimizer.step(lambda: calls.append(1) or loss([w]))
    assert len(calls) == 2 * 2 + 4
    loss([w]).backward()
    with pytest.raises(UsageError, match=r"needs step\(closure\)"):
        optimizer.first_step()


class TestClasses:
    INPUTS = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    LABELS = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
    COUNTS = (60, 40, 20)

    @staticmethod
    def slope(w, weights):
        """∇ of Σ_i weights_i·CE_i for the linear classifier w, shape (3, 4)."""
        cls = TestClasses
        error = torch.softmax(cls.INPUTS @ w.T, 1) - F.one_hot(cls.LABELS, 3).double()
        return (error * weights[:, None]).T @ cls.INPUTS

    def train(self, radii, split):
        w = nn.Parameter(torch.eye(3, 4, dtype=torch.float64))
        optimizer = SharpnessAware([w], torch.optim.SGD, radii=radii, lr=LR)

        def losses():
            return split(F.cross_entropy(self.INPUTS @ w.T, self.LABELS, reduction="none"))

        for _ in range(3):
            optimizer.step(losses)
        return w.detach()

    def test_a_radius_for_each_class(self):
        radii = {0: 0.05, 1: 0.1, 2: 0.4}
        found = self.train(radii, lambda values: class_losses(values, self.LABELS))
        w = torch.eye(3, 4, dtype=torch.float64)
        for _ in range(3):
            update = torch.zeros_like(w)
            for label, rho in radii.items():
                weights = (label == self.LABELS).double() / len(self.LABELS)
                g = self.slope(w, weights)
                update += self.slope(w + rho * g / g.norm(), weights)
            w = w - LR * update
        same(found, w)

    def test_focal_sam(self):
        gamma, sharpness = 1.5, 0.8
        found = self.train(
            {"plain": 0.0, "focal": RHO},
            lambda values: focal_losses(
                values, self.LABELS, self.COUNTS, gamma=gamma, sharpness=sharpness
            ),
        )
        shares = torch.tensor(self.COUNTS, dtype=torch.float64) / sum(self.COUNTS)
        focal = (sharpness * (1 - shares) ** gamma)[self.LABELS] / len(self.LABELS)
        plain = torch.full_like(focal, 1 / len(self.LABELS)) - focal
        w = torch.eye(3, 4, dtype=torch.float64)
        for _ in range(3):
            g = self.slope(w, focal)
            w = w - LR * (self.slope(w, plain) + self.slope(w + RHO * g / g.norm(), focal))
        same(found, w)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"every": 0}, "every = 0"),
        ({"decay": 1.0}, "decay = 1.0"),
        ({"friendly": -1.0}, "friendly"),
        ({"ranks": "some"}, "ranks = 'some'"),
        ({"ranks": "local", "friendly": 1.0}, "local ascent"),
    ],
)
def test_options_of_the_ascent(options, text):
    with pytest.raises(UsageError, match=text):
        Ascent(**options)
