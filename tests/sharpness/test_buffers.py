""" "clean" leaves every buffer as the forward pass at w left it, whichever layer it belongs to."""

import copy

import pytest
import torch
from torch import nn

from saddlescope.sharpness import SharpnessAware, StepOptions


class Counting(nn.Module):
    """Counts its calls in one buffer in place, in another by putting a new tensor there."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("places", torch.zeros(()))
        self.register_buffer("late", None)

    def forward(self, x):
        self.calls += 1
        self.places = self.places + 1
        self.late = x.detach().mean()
        return x


def layers():
    return {
        "batch": nn.BatchNorm1d(4),
        "cumulative batch": nn.BatchNorm1d(4, momentum=None),
        "instance": nn.Sequential(
            nn.Unflatten(1, (2, 2)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten()
        ),
        "spectral": nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)),
        "own": Counting(),
    }


@pytest.mark.parametrize("name", list(layers()))
@pytest.mark.parametrize("added_late", [False, True])
@pytest.mark.parametrize("form", ["step", "two calls"])
def test_perturbed_passes_leave_no_trace(name, added_late, form):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Identity(), nn.Linear(4, 2))
    if not added_late:
        model[1] = layers()[name]
    optimizer = SharpnessAware(
        model.parameters(),
        torch.optim.SGD,
        rho=0.5,
        step=StepOptions(model=model, bn_statistics="clean"),
        lr=0.1,
    )
    model[1] = layers()[name] if added_late else model[1]
    inputs = torch.randn(8, 4)
    reference = copy.deepcopy(model)
    reference(inputs)
    loss = lambda: model(inputs).square().sum()  # noqa: E731
    if form == "step":
        optimizer.step(loss)
    else:
        loss().backward()
        optimizer.first_step()
        loss().backward()
        optimizer.second_step()
    expected = dict(reference.named_buffers())
    assert dict(model.named_buffers()).keys() == expected.keys()
    for key, buffer in model.named_buffers():
        assert torch.equal(buffer, expected[key]), key
