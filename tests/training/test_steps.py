"""What a step hands to the device: in how many parts, and never waiting for it."""

import functools

import pytest
import torch

from benchmarks.calls import DeviceCalls
from saddlescope.runs import METHODS
from saddlescope.sharpness import SharpnessAware, StepOptions
from saddlescope.training import packaged_recipe
from saddlescope.training.network import recipe_network
from saddlescope.training.restore import load_section
from saddlescope.training.steps import Steps

SIZE = 32
loaded = functools.cache(lambda: load_section(packaged_recipe("digits-lt").data))


def steps_on(device, method, *overrides):
    recipe = packaged_recipe(
        "digits-lt",
        overrides=[f"method.name={method}", "training.epochs=2", "data.augment=true", *overrides],
    )
    data = loaded().to(device)
    model = recipe_network(recipe, num_classes=10, in_channels=1).to(device).train()
    radii = recipe.method.radii(2)
    optimizer = SharpnessAware(
        model.parameters(),
        torch.optim.SGD,
        radii=radii.at(0),
        step=StepOptions(model=model, bn_statistics=recipe.method.bn_statistics),
        lr=0.05,
        momentum=0.9,
        foreach=True,
    )
    return Steps(recipe, data, model, optimizer, radii)


def take(steps):
    head, tail = (mask.nonzero().flatten() for mask in (~steps._is_tail, steps._is_tail))
    batch = torch.cat((head[: SIZE - 4], tail[:4]))
    steps.take(batch, next(steps.images([batch])))


@pytest.mark.parametrize(
    ("method", "overrides"),
    [
        *((method, ()) for method in METHODS),
        ("sam-ext", ("loss.name=ldam", "method.group_reduction=group")),
        ("imbsam", ("loss.name=cb", "method.bn_statistics=clean")),
    ],
)
def test_no_step_waits(monkeypatch, method, overrides):
    here = steps_on("cpu", method, *overrides)
    # A device without numbers: what the host knows of the labels, it knows from before.
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: _host(tensor, here))
    there = steps_on("meta", method, *overrides)
    monkeypatch.undo()
    take(there)  # the first step makes what later ones find
    with DeviceCalls() as calls:
        take(there)
    assert calls.waits == []
    assert calls.launches > 100
    assert there.counts.tolist() == [2 * (SIZE - 4), 2 * 4]


def _host(tensor, here):
    if tensor.device.type == "meta":
        assert tensor.shape == here.data.train.labels.shape
        return here.data.train.labels
    return tensor


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", METHODS)
def test_no_step_waits_on_cuda(method):
    steps = steps_on("cuda", method)
    take(steps)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        take(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("samples", "count"), [(64, 63), (64, 40), (64, 12), (64, 10), (8, 5)])
def test_a_step_has_as_many_forward_passes_as_were_asked_for(monkeypatch, samples, count):
    """Parts differ by one sample at most: BatchNorm sees no part smaller than it must be."""
    steps, sizes = steps_on("cpu", "sgd", f"training.accumulate={count}"), []
    forward = steps.model.forward
    monkeypatch.setattr(steps.model, "forward", lambda x: sizes.append(len(x)) or forward(x))
    batch = torch.arange(samples)
    steps.take(batch, next(steps.images([batch])))
    assert (len(sizes), sum(sizes)) == (count, samples)
    assert max(sizes) - min(sizes) <= 1
    sizes.clear()
    last = batch[:3]  # the rest of an epoch may have fewer samples than parts
    steps.take(last, next(steps.images([last])))
    assert sizes == [1, 1, 1]
