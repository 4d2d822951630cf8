"""From per-sample losses to the loss of each group.

`group_reduction` decides what a group's loss is divided by, and with it how much a tail sample
weighs; methods can be compared only under the same one:

- "batch": sum over the group / batch size, so that the groups add up to the batch mean.
- "group": sum over the group / its own count. The released ImbSAM baseline does this, which
  also re-weights it (a tail sample then weighs several head samples).
- "batch-tail-x2": as "batch", the tail term doubled, as in the original ImbSAM code.
"""

from collections.abc import Sequence
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

    Raises:
        UsageError: an unknown reduction, or shapes that differ.
    """
    if losses.dim() != 1 or tail.shape != losses.shape:
        raise UsageError(
            f"losses have shape {tuple(losses.shape)} and tail {tuple(tail.shape)}: expected one "
            "loss and one answer a sample"
        )
    whole = tail if whole is None else whole
    factors = group_factors(int(whole.sum()), len(whole), group_reduction=group_reduction)
    if losses.is_cuda and not tail.is_cuda:
        tail = tail.pin_memory()  # or the host would wait for the device to copy it
    weights = tail.to(losses.device, losses.dtype, non_blocking=True)
    masks = {"head": 1.0 - weights, "tail": weights}
    return {name: torch.dot(losses, masks[name]) * factor for name, factor in factors.items()}


def group_factors(tails: int, samples: int, *, group_reduction: str) -> dict[str, float]:
    """Return what the sum of each group's losses is multiplied with; an empty group is left out.

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


def class_losses(losses: Tensor, labels: Tensor) -> dict[int, Tensor]:
    """Split per-sample losses by class, each a sum over the class / batch size.

    With a radius for each class, `radii={0: 0.05, 1: 0.07, …}`, SharpnessAware then ascends class
    by class, as CC-SAM (Zhou et al. 2023) does on its classifier. A step costs one forward and two
    backward passes more for every class in the batch.

    Args:
        losses: shape (B,), with a graph.
        labels: shape (B,), integers; on the CPU, or a device waits.

    Returns:
        Class to its loss, of the classes in the batch; they add up to the batch mean.
    """
    found = {}
    for label in labels.unique().tolist():
        members = (labels == label).to(losses.device, losses.dtype, non_blocking=True)
        found[int(label)] = torch.dot(losses, members) / len(losses)
    return found


def focal_losses(
    losses: Tensor,
    labels: Tensor,
    counts: Sequence[int],
    *,
    gamma: float,
    sharpness: float,
) -> dict[str, Tensor]:
    """Split per-sample losses as Focal-SAM (Li et al. 2025) does.

    Its update is ∇L(w) + ∇L_f(w + ε) − ∇L_f(w) where L_f weighs class c by λ·(1 − π_c)^γ, π_c being
    its share of the training samples, and ε = ρ·∇L_f/‖∇L_f‖. That is the rule with `radii={"plain":
    0.0, "focal": rho}` for the two parts returned.

    Args:
        losses: shape (B,), with a graph.
        labels: shape (B,), integers.
        counts: training samples of each class.
        gamma: γ.
        sharpness: λ.

    Returns:
        "plain" = L − L_f and "focal" = L_f, batch means.
    """
    shares = torch.tensor(counts, dtype=losses.dtype)
    weights = sharpness * (1.0 - shares / shares.sum()) ** gamma
    weights = weights.to(labels.device, non_blocking=True)[labels].to(losses.device)
    focal = torch.dot(losses, weights) / len(losses)
    return {"plain": losses.mean() - focal, "focal": focal}
