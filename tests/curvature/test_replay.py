"""Recordings on fixed buffers: the discipline is tested on any device, CUDA graphs on CUDA."""

import pytest
import torch
from networks import convolutional, images
from torch import nn

from saddlescope.curvature import HessianOperator, Programs
from saddlescope.curvature.products import strategy
from saddlescope.curvature.products.replay import SIZES, Replay, recorded_size


def rerun(function):
    """What a captured graph does: the same addresses are read and written, nothing is passed."""
    results = [result.clone() for result in function()]

    def run():
        for result, new in zip(results, function(), strict=True):
            result.copy_(new)

    return results, run


def test_sizes_waste_at_most_a_half():
    for count in range(1, SIZES[-1] + 1):
        assert count <= recorded_size(count) <= 1.5 * count
    assert recorded_size(SIZES[-1] + 1) is None


class Holder:
    pass


def test_holders_take_turns():
    def function(kept, direction):
        return [kept[0] * direction[0] + kept[1]]

    one, two = ([torch.tensor([2.0]), 3], Holder()), ([torch.tensor([5.0]), 3], Holder())
    replay = Replay(function, one[0], [torch.zeros(1)], record=rerun)
    for (kept, holder), at, expected in [
        (one, 1.0, 5.0), (one, 2.0, 7.0), (two, 1.0, 8.0), (one, 1.0, 5.0),
    ]:  # fmt: skip
        (found,) = replay(holder, kept, [torch.tensor([at])])
        assert float(found) == expected
    assert float(one[0][0]) == 2.0  # what was handed over is never written


def test_operators_that_share_a_recording_do_not_mix(monkeypatch):
    monkeypatch.setattr(strategy, "_size", lambda *_: 16)
    monkeypatch.setattr("saddlescope.curvature.products.tracing.cuda_graph", rerun)
    model, criterion, programs = convolutional(), nn.CrossEntropyLoss(), Programs("traced")
    batches = [images(9, seed=1), images(13, seed=2)]
    shared = [HessianOperator(model, criterion, [b], programs=programs) for b in batches]
    alone = [HessianOperator(model, criterion, [b]) for b in batches]
    probe = torch.ones(shared[0].size, dtype=torch.float64)
    for index in (0, 1, 0, 0, 1):
        found, truth = shared[index].matvec(probe), alone[index].matvec(probe)
        torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-11)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_captured_products_equal_eager_ones():
    model, criterion = convolutional(dtype=torch.float32).cuda(), nn.CrossEntropyLoss()
    programs = Programs("traced")
    for n in (3, 12, 11, 77):
        batch = images(n, dtype=torch.float32)
        captured = HessianOperator(model, criterion, [batch], programs=programs)
        plain = HessianOperator(model, criterion, [batch])
        for seed in range(3):
            probe = torch.randn(plain.size, generator=torch.Generator().manual_seed(seed)).cuda()
            torch.testing.assert_close(
                captured.matvec(probe), plain.matvec(probe), rtol=1e-4, atol=1e-5
            )
