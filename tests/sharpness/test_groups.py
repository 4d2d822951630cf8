"""Group losses against their definitions."""

import pytest
import torch

from saddlescope.errors import UsageError
from saddlescope.sharpness import group_losses

LOSSES = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
TAIL = torch.tensor([False, True, False, True])


@pytest.mark.parametrize(
    ("reduction", "head", "tail"),
    [("batch", 5 / 4, 10 / 4), ("group", 5 / 2, 10 / 2), ("batch-tail-x2", 5 / 4, 20 / 4)],
)
def test_reductions(reduction, head, tail):
    found = group_losses(LOSSES, TAIL, group_reduction=reduction)
    assert {name: loss.item() for name, loss in found.items()} == {"head": head, "tail": tail}


def test_batch_reduction_adds_up_to_the_mean():
    found = group_losses(LOSSES, TAIL)
    assert found["head"] + found["tail"] == LOSSES.mean()


@pytest.mark.parametrize(("value", "present"), [(True, "tail"), (False, "head")])
def test_absent_groups_are_left_out(value, present):
    found = group_losses(LOSSES, torch.full((4,), value), group_reduction="group")
    assert list(found) == [present]


def test_a_group_for_each_loss():
    with pytest.raises(UsageError, match=r"losses have shape \(4,\) and tail \(3,\)"):
        group_losses(LOSSES, TAIL[:3])


def test_unknown_reduction():
    with pytest.raises(UsageError, match="group_reduction"):
        group_losses(LOSSES, TAIL, group_reduction="mean")
