"""SharpnessAware in other people's loops: what each does is worked out by hand.

On L = ½|w|² from w = (3, 4) with ρ = 0.5 the ascent is (0.3, 0.4), the gradient there (3.3, 4.4),
and a step of size 0.1 ends at (2.67, 3.56).
"""

import weakref
from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from saddlescope.errors import UsageError
from saddlescope.sharpness import SharpnessAware, StepOptions

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


class TestForms:
    """Every way of handing over the loss is the same step."""

    def test_a_plain_loss(self):
        w = weight()
        answer = sam(w).step(lambda: half_square(w))
        assert (float(answer), answer.requires_grad) == (12.5, False)
        same(w, SAM)

    def test_groups_and_an_only_group_of_any_name(self):
        w = weight()
        answer = sam(w, rho=None, radii={"x": 0.5}).step(closure=lambda: {"x": half_square(w)})
        assert {k: float(v) for k, v in answer.items()} == {"x": 12.5}
        same(w, SAM)

    def test_losses_that_are_computed_when_asked_for(self):
        """One pass for each group and point: no perturbed pass computes the others' loss."""
        w, asked = weight(), []

        class Lazy(Mapping):
            def __getitem__(self, name):
                if name not in ("head", "tail"):
                    raise KeyError(name)
                asked.append(name)
                return half_square(w) / 2

            def __iter__(self):
                return iter(("head", "tail"))

            def __len__(self):
                return 2

        sam(w, rho=None, radii={"head": 0.5, "tail": 0.5}).step(Lazy)
        same(w, SAM)
        assert asked == ["head", "tail"] * 2

    @pytest.mark.parametrize("clears", [True, False])
    def test_an_ordinary_closure(self, clears):
        w = weight()
        optimizer = sam(w)

        def closure():
            if clears:
                optimizer.zero_grad()
            loss = half_square(w)
            loss.backward()
            return loss

        assert float(optimizer.step(closure)) == 12.5
        same(w, SAM)
        optimizer.step(closure)
        same(w, SAM * 0.89 - 0.1 * (0.5 * SAM / SAM.norm() - 0.1 * SAM), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("zero_grad", [True, False])
    def test_two_calls(self, zero_grad):
        w = weight()
        optimizer = sam(w)
        half_square(w).backward()
        optimizer.first_step(zero_grad=zero_grad)
        same(w, torch.tensor([3.3, 4.4]))
        half_square(w).backward()
        optimizer.second_step(zero_grad=True)
        same(w, SAM)
        assert w.grad is None

    def test_step_without_a_function_ends_a_first_step(self):
        w = weight()
        optimizer = sam(w)
        half_square(w).backward()
        optimizer.first_step()
        half_square(w).backward()
        optimizer.step()
        same(w, SAM)

    def test_it_takes_what_davda54_takes(self):
        w = weight()
        optimizer = SharpnessAware([w], torch.optim.SGD, rho=0.5, adaptive=False, lr=0.1)
        optimizer.step(lambda: half_square(w))
        same(w, SAM)
        assert SharpnessAware([w], torch.optim.SGD, lr=0.1).radii == {"all": 0.05}

    def test_without_a_radius_it_is_the_base(self):
        w = weight()
        optimizer = sam(w, rho=0.0)
        half_square(w).backward()
        optimizer.step()
        same(w, START * 0.9)


@pytest.mark.parametrize("rho", [0.0, 0.05])
@pytest.mark.parametrize(
    ("base", "options"),
    [
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2}),
        (torch.optim.AdamW, {"lr": 0.01}),
    ],
)
def test_what_has_no_gradient_in_a_step_stands_still(rho, base, options):
    net = network()
    optimizer = SharpnessAware(net.parameters(), base, rho=rho, **options)
    for _ in range(3):
        optimizer.step(lambda: F.cross_entropy(net(X), Y))
    net[0].requires_grad_(False)
    frozen, unused = net[0].weight.clone(), net[2].weight.clone()
    for _ in range(5):
        optimizer.step(lambda: net[2].bias.square().sum() + 0 * net[0](X).sum())
    assert torch.equal(net[0].weight, frozen)
    assert torch.equal(net[2].weight, unused)


def test_gradients_from_before_the_optimiser_move_nothing():
    net = network()
    F.cross_entropy(net(X), Y).backward()
    net[0].requires_grad_(False)
    before = net[0].weight.clone()
    optimizer = sam(*net.parameters())
    optimizer.step(lambda: F.cross_entropy(net(X), Y))
    assert torch.equal(net[0].weight, before)


class TestWayBack:
    @pytest.mark.parametrize("error", [torch.OutOfMemoryError, KeyboardInterrupt, SystemExit])
    @pytest.mark.parametrize("groups", [("all",), ("head", "tail")])
    @pytest.mark.parametrize("bad_call", [2, 3])
    def test_an_exception_leaves_w_and_buffers_as_they_were(self, error, groups, bad_call):
        net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        radii = dict.fromkeys(groups, 0.5)
        optimizer = SharpnessAware(
            net.parameters(),
            torch.optim.SGD,
            radii=radii,
            step=StepOptions(model=net, bn_statistics="clean"),
            lr=0.1,
        )
        calls = 0

        def losses():
            nonlocal calls
            calls += 1
            outputs = net(X)
            if calls == 1:
                after_w.update({k: v.clone() for k, v in net.state_dict().items()})
            if calls == bad_call:
                raise error
            return {name: (i + 1) * outputs.square().mean() for i, name in enumerate(groups)}

        after_w: dict[str, torch.Tensor] = {}
        if bad_call > 1 + len(groups):
            bad_call = 2
        with pytest.raises(error):
            optimizer.step(losses)
        for name, value in net.state_dict().items():
            assert torch.equal(value, after_w[name]), name
        assert all(p.grad is None for p in net.parameters())
        optimizer.step(losses)  # and it goes on

    def test_a_group_that_is_missing_at_the_ascent(self):
        w = weight()
        optimizer = sam(w, rho=None, radii={"head": 0.1, "tail": 0.1})
        names = iter([("head", "tail"), ("head",), ("head",)])
        with pytest.raises(UsageError, match=r"no group 'tail' at w \+ ε"):
            optimizer.step(lambda: dict.fromkeys(next(names), half_square(w)))
        assert torch.equal(w, START)

    def test_two_calls_can_be_given_up(self):
        w = weight()
        optimizer = sam(w)
        half_square(w).backward()
        optimizer.first_step()
        optimizer.restore()
        assert torch.equal(w, START)
        with pytest.raises(UsageError, match="second_step without first_step"):
            optimizer.second_step()

    @pytest.mark.parametrize("call", ["first_step", "step"])
    def test_a_second_step_that_never_came(self, call):
        w = weight()
        optimizer = sam(w)
        half_square(w).backward()
        optimizer.first_step()
        half_square(w).backward()
        with pytest.raises(UsageError, match="second_step"):
            optimizer.first_step() if call == "first_step" else optimizer.step(
                lambda: half_square(w)
            )
        assert torch.equal(w, START)


class TestMicroBatches:
    PARTS = (slice(0, 3), slice(3, 10), slice(10, 16))

    @staticmethod
    def losses(net, part, grouped):
        inputs = X[part].to(net[0].weight.dtype)
        values = F.cross_entropy(net(inputs), Y[part], reduction="none") / len(X)
        if not grouped:
            return values.sum()
        tail = Y[part] == 2
        groups = {"head": values[~tail].sum(), "tail": values[tail].sum()}
        return {k: v for k, v in groups.items() if k == "head" or bool(tail.any())}

    @pytest.mark.parametrize(
        ("radii", "own"),
        [
            ({"all": 0.5}, False),
            ({"all": 0.5}, True),
            ({"head": 0.0, "tail": 0.5}, False),
            ({"head": 0.2, "tail": 0.5}, False),
        ],
    )
    def test_they_are_the_whole_batch(self, radii, own):
        grouped = "all" not in radii
        nets = [network().double(), network().double()]
        answers = []
        for net, parts in zip(nets, ([slice(None)], self.PARTS), strict=True):
            optimizer = SharpnessAware(
                net.parameters(), torch.optim.SGD, radii=radii, lr=0.1, momentum=0.9
            )

            def call(part, net=net, optimizer=optimizer):
                loss = self.losses(net, part, grouped)
                if own:
                    optimizer.zero_grad()
                    loss.backward()
                return loss

            for _ in range(3):
                answer = optimizer.step([lambda part=part: call(part) for part in parts])
            answers.append(torch.stack(list(answer.values())) if grouped else answer)
        same(flat(nets[0]), flat(nets[1]), rtol=1e-12, atol=1e-13)
        same(*answers)

    def test_one_graph_is_alive_at_a_time(self):
        net, alive, sizes = network(), weakref.WeakSet(), []

        class Saved:
            def __init__(self, tensor):
                self.tensor = tensor
                alive.add(self)

        def call(part):
            with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
                loss = self.losses(net, part, False)
            sizes.append(len(alive))
            return loss

        sam(*net.parameters()).step([lambda part=part: call(part) for part in self.PARTS])
        assert len(sizes) == 6
        assert len(set(sizes)) == 1

    def test_two_calls_after_several_backwards(self):
        nets = [network().double(), network().double()]
        sam(*nets[0].parameters()).step(lambda: self.losses(nets[0], slice(None), False))
        optimizer = sam(*nets[1].parameters())
        for turn in (optimizer.first_step, optimizer.second_step):
            for part in self.PARTS:
                self.losses(nets[1], part, False).backward()
            turn()
        same(flat(nets[0]), flat(nets[1]), rtol=1e-12, atol=1e-13)

    def test_gathered_gradients_are_not_dropped_in_silence(self):
        net = network()
        optimizer = sam(*net.parameters())
        optimizer.step(lambda: self.losses(net, slice(None), False))
        self.losses(net, self.PARTS[0], False).backward()
        with pytest.raises(UsageError, match="list of functions"):
            optimizer.step(lambda: self.losses(net, self.PARTS[1], False))
        optimizer.zero_grad(set_to_none=False)
        optimizer.step(lambda: self.losses(net, self.PARTS[1], False))


class TestClipping:
    def test_the_final_gradient_is_clipped(self):
        w = weight()
        sam(w, step=StepOptions(clip=1.0)).step(lambda: half_square(w))
        same(w, START - 0.1 * START / 5)

    def test_it_is_torch_s_clipping(self):
        nets = [network(), network()]
        sam(*nets[0].parameters(), step=StepOptions(clip=0.1)).step(
            lambda: F.cross_entropy(nets[0](X), Y)
        )
        optimizer = sam(*nets[1].parameters())
        F.cross_entropy(nets[1](X), Y).backward()
        optimizer.first_step()
        F.cross_entropy(nets[1](X), Y).backward()
        nn.utils.clip_grad_norm_(nets[1].parameters(), 0.1)
        optimizer.second_step()
        same(flat(nets[0]), flat(nets[1]), rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize("inner", [False, True])
    def test_a_pre_hook_sees_the_final_gradient(self, inner):
        w = weight()
        optimizer = sam(w)
        seen = []

        def hook(who, args, kwargs):
            seen.append(who)
            nn.utils.clip_grad_norm_([w], 1.0)

        (optimizer.base if inner else optimizer).register_step_pre_hook(hook)
        optimizer.step(lambda: half_square(w))
        same(w, START - 0.1 * START / 5, rtol=1e-5, atol=1e-6)
        assert seen == [optimizer.base if inner else optimizer]


class TestGradScaler:
    @staticmethod
    def scaler(scale=1024.0):
        return torch.amp.GradScaler("cpu", init_scale=scale)

    @pytest.mark.parametrize("form", ["losses", "closure", "two calls"])
    @pytest.mark.parametrize("clip", [None, 1.0])
    def test_the_step_does_not_depend_on_the_scale(self, form, clip):
        w, scaler = weight(), self.scaler()
        optimizer = sam(w, step=StepOptions(clip=clip))
        if form == "losses":
            answer = optimizer.step(lambda: half_square(w), scaler=scaler)
            assert float(answer) == 12.5
        elif form == "closure":
            optimizer.step(lambda: scaler.scale(half_square(w)).backward(), scaler=scaler)
        else:
            scaler.scale(half_square(w)).backward()
            optimizer.first_step(zero_grad=True)
            scaler.scale(half_square(w)).backward()
            optimizer.second_step(zero_grad=True, scaler=scaler)
        scaler.update()
        same(w, SAM if clip is None else START - 0.1 * START / 5)
        assert scaler.get_scale() == 1024.0

    @pytest.mark.parametrize("form", ["losses", "two calls"])
    @pytest.mark.parametrize("bad_call", [1, 2])
    def test_overflow_at_either_point_skips_the_step(self, form, bad_call):
        w, scaler, calls = weight(), self.scaler(), 0
        optimizer = sam(w, momentum=0.9)

        def loss():
            nonlocal calls
            calls += 1
            return half_square(w) * (float("inf") if calls == bad_call else 1.0)

        if form == "losses":
            optimizer.step(loss, scaler=scaler)
            assert calls == bad_call  # nothing is computed in vain
        else:
            scaler.scale(loss()).backward()
            optimizer.first_step()
            assert torch.isfinite(w).all()
            scaler.scale(loss()).backward()
            optimizer.second_step(scaler=scaler)
        scaler.update()
        assert torch.equal(w, START)
        assert not optimizer.state
        assert scaler.get_scale() == 512.0

    def test_what_it_cannot_do_it_refuses(self):
        from saddlescope.sharpness import Ascent

        w = weight()
        with pytest.raises(UsageError, match="GradScaler goes with neither"):
            sam(w, ascent=Ascent(every=2)).step(lambda: half_square(w), scaler=self.scaler())
        optimizer, scaler = sam(w), self.scaler()
        scaler.scale(half_square(w)).backward()
        with pytest.raises(UsageError, match="hold gradients"):
            scaler.step(optimizer, lambda: half_square(w))

    def test_a_scaler_that_is_switched_off(self):
        w = weight()
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        sam(w).step(lambda: half_square(w), scaler=scaler)
        same(w, SAM)


def test_autocast_around_the_step_changes_nothing():
    weights = []
    for around in (False, True):
        net, seen = network(), []
        optimizer = sam(*net.parameters(), rho=5.0)

        def losses(around=around, net=net, seen=seen):
            with torch.autocast("cpu", torch.bfloat16):
                outputs = net(X)
            loss = F.cross_entropy(outputs.float(), Y)
            seen.append(float(loss.detach()))
            return loss

        with torch.autocast("cpu", torch.bfloat16, enabled=around):
            for _ in range(3):
                optimizer.step(losses)
        assert len(set(seen)) == 6
        weights.append(flat(net))
    assert torch.equal(*weights)


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
