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
    losses: Tensor,
    tail: Tensor,
    *,
    group_reduction: str = "batch",
    whole: Tensor | None = None,
) -> dict[str, Tensor]:
    """Split per-sample losses into head and tail.

    Args:
        losses: shape (B,), with a graph.
        tail: shape (B,), bool, on the CPU: reading it must not make a device wait. Where `whole`
            is given, it alone is read, and `tail` may be where the losses are.
        group_reduction: one of `GROUP_REDUCTIONS`.
        whole: `tail` of the whole batch, on the CPU; another where these samples are one process's
            part of it.

    Returns:
        "head" and "tail", each a scalar; a group that the whole batch has no sample of is left out.
        The parts' losses add up to the whole batch's.
    """
    whole = tail if whole is None else whole
    factors = group_factors(int(whole.sum()), len(whole), group_reduction=group_reduction)
    if losses.is_cuda and not tail.is_cuda:
        tail = tail.pin_memory()  # or the host would wait for the device to copy it
    weights = tail.to(losses.device, losses.dtype, non_blocking=True)
    masks = {"head": 1.0 - weights, "tail": weights}
    return {name: torch.dot(losses, masks[name]) * factor for name, factor in factors.items()}


def group_factors(tails: int, samples: int, *, group_reduction: str) -> dict[str, float]:
    """What the sum of each group's losses is multiplied with; a group without samples is left out.

    Args:
        tails: samples of the tail in the whole batch.
        samples: of the whole batch.
        group_reduction: one of `GROUP_REDUCTIONS`.
    """
    if group_reduction not in GROUP_REDUCTIONS:
        raise UsageError(
            f"group_reduction = {group_reduction!r}: expected one of {', '.join(GROUP_REDUCTIONS)}"
        )
    found = {}
    for name, count in (("head", samples - tails), ("tail", tails)):
        if count:
            divisor = count if group_reduction == "group" else samples
            factor = 2.0 if (group_reduction, name) == ("batch-tail-x2", "tail") else 1.0
            found[name] = factor / divisor
    return found
