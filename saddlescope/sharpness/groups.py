"""From per-sample losses to the loss of each group.

`group_reduction` decides what a group's loss is divided by, and with it how much a tail sample
weighs; methods can be compared only under the same one:

- "batch": sum over the group / batch size, so that the groups add up to the batch mean.
- "group": sum over the group / its own count. The released ImbSAM baseline does this, which
  also re-weights it (a tail sample then weighs several head samples).
- "batch-tail-x2": as "batch", the tail term doubled, as in the original ImbSAM code.
"""

from typing import Final

import torch
from torch import Tensor

from saddlescope.errors import UsageError

GROUP_REDUCTIONS: Final = ("batch", "group", "batch-tail-x2")


def group_losses(
    losses: Tensor, tail: Tensor, *, group_reduction: str = "batch"
) -> dict[str, Tensor]:
    """Split per-sample losses into head and tail.

    Args:
        losses: shape (B,), with a graph.
        tail: shape (B,), bool, on the CPU: reading it must not make a device wait.
        group_reduction: one of `GROUP_REDUCTIONS`.

    Returns:
        "head" and "tail", each a scalar; a group without samples is left out.
    """
    if group_reduction not in GROUP_REDUCTIONS:
        raise UsageError(
            f"group_reduction = {group_reduction!r}: expected one of {', '.join(GROUP_REDUCTIONS)}"
        )
    tail_count = int(tail.sum())
    counts = {"head": len(tail) - tail_count, "tail": tail_count}
    weights = tail.to(losses.device, losses.dtype, non_blocking=True)
    masks = {"head": 1.0 - weights, "tail": weights}
    found = {}
    for name, count in counts.items():
        if count:
            divisor = count if group_reduction == "group" else len(tail)
            factor = 2.0 if (group_reduction, name) == ("batch-tail-x2", "tail") else 1.0
            found[name] = torch.dot(losses, masks[name]) * (factor / divisor)
    return found
