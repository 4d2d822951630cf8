"""SharpnessAware in other people's loops: what each does is worked out by hand."""

import weakref
from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from saddlescope.errors import UsageError
from saddlescope.sharpness import SharpnessAware, StepOptions
from tests.sharpness.by_hand import SAM, START, X, Y, flat, half_square, network, sam, same, weight


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


@pytest.mark.parametrize("first", [0, 1])
def test_micro_batches_of_two_kinds_are_refused(first):
    """One function calls backward() itself, the other returns a loss: neither would count whole."""
    w = weight()
    optimizer = sam(w)

    def own():
        loss = half_square(w)
        loss.backward()
        return loss

    calls = [own, lambda: half_square(w)]
    with pytest.raises(UsageError, match="let all of them do the same"):
        optimizer.step(calls if first == 0 else calls[::-1])
    same(w, START)
