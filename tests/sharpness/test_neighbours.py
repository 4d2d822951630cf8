"""SharpnessAware beside other optimisers and hooks, and what it says of a loop that is wrong."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from saddlescope.errors import UsageError
from saddlescope.sharpness import SharpnessAware, StepOptions
from tests.sharpness.by_hand import START, X, Y, flat, half_square, network, sam, same, weight


class TestOtherOptimisers:
    """In one graph with others, only the update's passes reach their parameters."""

    @pytest.mark.parametrize(
        ("radii", "expected"),
        [
            # L = s·½|w|²: ∂L/∂s is ½|w|² at the point of the pass.
            ({"all": 0.0}, 12.5),
            ({"all": 0.5}, 0.5 * 5.5**2),
            ({"head": 0.0, "tail": 0.5}, 0.5 * 12.5 + 0.5 * 0.5 * 5.5**2),
        ],
    )
    @pytest.mark.parametrize("gathered", [None, 1.0])
    def test_they_get_the_final_gradient(self, radii, expected, gathered):
        w, scale = weight(), nn.Parameter(torch.ones(()))
        if gathered is not None:
            scale.grad = torch.tensor(gathered)
        optimizer = sam(w, rho=None, radii=radii)
        optimizer.step(lambda: {k: scale * half_square(w) / len(radii) for k in radii})
        assert float(scale.grad) == pytest.approx(expected + (gathered or 0.0))


class TestListeners:
    def test_hooks_of_tensors_and_of_accumulation(self):
        w, fired = weight(), []
        w.register_hook(lambda gradient: gradient.clamp(-3.2, 3.2))
        w.register_post_accumulate_grad_hook(lambda p: fired.append(1))
        sam(w).step(lambda: half_square(w))
        slope = torch.tensor([3.0, 3.2])
        same(w, START - 0.1 * (START + 0.5 * slope / slope.norm()).clamp(-3.2, 3.2))
        assert len(fired) == 2

    @pytest.mark.parametrize("reentrant", [False, True])
    @pytest.mark.parametrize("radii", [{"all": 0.5}, {"head": 0.2, "tail": 0.5}])
    def test_activation_checkpointing(self, reentrant, radii):
        from torch.utils.checkpoint import checkpoint

        weights = []
        for saving in (False, True):
            net = network()
            optimizer = SharpnessAware(net.parameters(), torch.optim.SGD, radii=radii, lr=0.1)
            inputs = X.clone().requires_grad_()

            def losses(net=net, saving=saving, inputs=inputs):
                hidden = checkpoint(net[:2], inputs, use_reentrant=reentrant) if saving else (
                    net[:2](inputs)
                )  # fmt: skip
                values = F.cross_entropy(net[2](hidden), Y, reduction="none")
                if "all" in radii:
                    return values.mean()
                return {"head": values[Y < 2].sum(), "tail": values[Y == 2].sum()}

            for _ in range(3):
                optimizer.step(losses)
            weights.append(flat(net))
        same(*weights, rtol=1e-6, atol=1e-7)


class TestMessages:
    @pytest.mark.parametrize(
        ("closure", "text"),
        [
            (lambda w: None, "returned NoneType"),
            (lambda w: w.square(), r"shape \(2,\): reduce it"),
            (lambda w: {"all": 1.0}, "is float, not a tensor"),
            (lambda w: half_square(w).detach(), "depends on no parameter"),
            (lambda w: {"ALL": half_square(w)}, "'ALL', which has no radius"),
        ],
    )
    def test_what_a_function_may_return(self, closure, text):
        w = weight()
        with pytest.raises(UsageError, match=text):
            sam(w).step(lambda: closure(w))
        assert torch.equal(w, START)

    def test_a_plain_loss_of_several_groups(self):
        w = weight()
        with pytest.raises(UsageError, match="one loss for the groups head, tail"):
            sam(w, rho=None, radii={"head": 0.1, "tail": 0.1}).step(lambda: half_square(w))

    def test_no_function(self):
        w = weight()
        optimizer = sam(w)
        with pytest.raises(UsageError, match="without gradients"):
            optimizer.step()
        half_square(w).backward()
        with pytest.raises(UsageError, match="needs another pass"):
            optimizer.step()
        with pytest.raises(UsageError, match="got Tensor"):
            sam(weight()).step(half_square(w))
        with pytest.raises(UsageError, match="call backward"):
            sam(w).first_step()

    def test_everything_frozen(self):
        w = weight().requires_grad_(False)
        with pytest.raises(UsageError, match="every parameter of this optimiser is frozen"):
            sam(w).step(lambda: half_square(w))

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"base": torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)}, "optimiser's class"),
            ({"base": torch.optim.LBFGS}, "LBFGS"),
            ({"radii": {"all": 0.1}}, "radii and rho"),
            ({"rho": None, "radii": {}}, "radii is empty"),
        ],
    )
    def test_options(self, options, text):
        with pytest.raises(UsageError, match=text):
            sam(weight(), **options)

    def test_no_clipping_to_nothing(self):
        with pytest.raises(UsageError, match=r"clip = 0\.0"):
            StepOptions(clip=0.0)
