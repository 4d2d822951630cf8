"""What waits for a device is found on a device that is not there."""

# ruff: noqa: PLW0108  (a bound method would do its work before it is watched)

import pytest
import torch
from torch import nn

from benchmarks.calls import DeviceCalls

THERE = torch.arange(6.0, device="meta")
MASK = torch.tensor([True, False, True, False, True, False])
WAITS = {
    "a number read": lambda: float(THERE.sum()),
    "numbers read": lambda: THERE.tolist(),
    "a tensor brought back": lambda: THERE.cpu(),
    "a decision": lambda: bool((THERE > 0).all()),
    "a copy to the device": lambda: torch.ones(6).to("meta"),
    "a copy into it": lambda: THERE.clone().copy_(torch.ones(6)),
    "made there from numbers": lambda: torch.tensor([1.0, 2.0], device="meta"),
    "positions on the host": lambda: THERE[torch.tensor([0, 2])],
    "a mask on the host": lambda: THERE[MASK],
    "a mask there": lambda: THERE[THERE > 2],
    "positions of what is true": lambda: (THERE > 2).nonzero(),
    "compared": lambda: torch.equal(THERE, THERE.clone()),
    "written at positions on the host": lambda: THERE.clone().index_put_(
        (torch.tensor([0]),), torch.ones(1, device="meta")
    ),
}
FREE = {
    "arithmetic": lambda: (THERE * 2.0 + 1.0).sum(),
    "positions there": lambda: THERE[torch.zeros(2, dtype=torch.int64, device="meta")],
    "a slice": lambda: THERE[1:3],
    "where": lambda: torch.where(THERE > 2, THERE, 0.0),
    "sent": lambda: torch.ones(6).to("meta", non_blocking=True),
    "another dtype": lambda: THERE.to(torch.device("meta"), torch.float64),
    "filled there": lambda: torch.full((3,), 2.0, device="meta"),
    "on the host": lambda: float(torch.ones(3).sum()) + MASK.nonzero().numel(),
}


@pytest.mark.parametrize("work", WAITS)
def test_a_wait_is_found(work):
    with DeviceCalls() as calls:
        WAITS[work]()
    assert len(calls.waits) == 1, calls.waits


@pytest.mark.parametrize("work", FREE)
def test_what_does_not_wait_is_not_counted(work):
    with DeviceCalls() as calls:
        FREE[work]()
    assert calls.waits == []


def test_launches_are_operations_that_compute():
    layer = nn.Linear(3, 2, device="meta")
    inputs = torch.ones(4, 3, device="meta")
    with DeviceCalls() as calls:
        outputs = layer(inputs)  # one: bias and product together
        outputs.view(8).detach()  # none
        torch.empty(3, device="meta")  # none
        torch.zeros(3, device="meta")  # one
    assert calls.launches == 2
    with DeviceCalls("cpu") as calls:
        nn.Linear(3, 2)(torch.ones(4, 3))
    assert calls.launches >= 4  # the weights are drawn as well
