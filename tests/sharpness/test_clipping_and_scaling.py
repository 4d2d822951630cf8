"""Clipping, GradScaler and autocast around SharpnessAware's step, worked out by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from saddlescope.errors import UsageError
from saddlescope.sharpness import StepOptions
from tests.sharpness.by_hand import SAM, START, X, Y, flat, half_square, network, sam, same, weight


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
