"""Measure on one batch what the paper's analysis assumes of the gradients of head and tail.

With g_h and g_t the gradients of the two groups' losses at w and g = g_h + g_t, SAM's perturbation
splits into ρ·g_h/‖g‖ and ρ·g_t/‖g‖. Proposition 4 assumes q = ‖g_t‖/‖g_h‖ ≪ 1 and speaks of the
angles between g and each part. Proposition 3 holds where in a group of m samples with per-sample
gradients of mean μ and coordinate variances σ² the mean dominates: m·‖μ‖²/Σσ² ≫ 1.
"""

from typing import Any

import torch
from torch import Tensor, nn

from saddlescope.curvature import ParameterVector, select_parameters, untouched
from saddlescope.sharpness import group_losses

GROUPS = ("head", "tail")


def gradient_norms(
    model: nn.Module,
    criterion: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    tail: Tensor,
    *,
    group_reduction: str = "batch",
    weights: Tensor | None = None,
) -> dict[str, Any]:
    """Gradient norms, angles and signal-to-noise of a batch, as the columns of norms.jsonl.

    The gradients of the groups are those of a training step (BatchNorm as the model's mode has it).
    Per-sample gradients exist only where samples do not see one another, so theirs are taken in
    eval mode. The model is left as it was.

    Args:
        model: in the mode it is trained in.
        criterion: one loss a sample.
        inputs: shape (B, …), on the device.
        labels: shape (B,), on the device.
        tail: shape (B,), bool, on the host.
        group_reduction: see `group_losses`.
        weights: factors of the samples' losses, shape (B,), on the device; None weighs alike.

    Returns:
        Numbers by column. None where a group has no sample in the batch, or for the signal fewer
        than two.
    """
    vector = select_parameters(model)
    weights = torch.ones_like(labels, dtype=vector.dtype) if weights is None else weights
    with untouched(model), torch.enable_grad():
        losses = group_losses(
            criterion(model(inputs), labels) * weights, tail, group_reduction=group_reduction
        )
        parts = {name: _flat(loss, vector, retain=True) for name, loss in losses.items()}
        row: dict[str, Any] = {"batch": len(labels), "batch_tail": int(tail.sum())}
        row |= {f"gradient_norm_{name}": None for name in GROUPS}
        row |= {f"gradient_norm_{name}": float(part.norm()) for name, part in parts.items()}
        whole = torch.stack(list(parts.values())).sum(0)
        row["gradient_norm"] = float(whole.norm())
        both = len(parts) == len(GROUPS)
        row["q"] = _ratio(row["gradient_norm_tail"], row["gradient_norm_head"]) if both else None
        row["cos_head_tail"] = _cosine(parts["head"], parts["tail"]) if both else None
        for name in GROUPS:
            row[f"cos_{name}"] = _cosine(whole, parts[name]) if name in parts else None

    # Anew: the pass above has moved BatchNorm's running statistics.
    with untouched(model), torch.enable_grad():
        model.eval()
        on_device = tail.to(labels.device)
        for name, members in (("head", ~on_device), ("tail", on_device)):
            row[f"signal_{name}"] = _signal(
                model, criterion, inputs[members], labels[members], weights[members], vector
            )
    return row


def _signal(
    model: nn.Module,
    criterion: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    weights: Tensor,
    vector: ParameterVector,
) -> float | None:
    """m·‖μ‖²/Σσ² of the samples' gradients, ‖μ‖² and σ² without bias; 0 where μ is in the noise."""
    count = len(labels)
    if count < 2:
        return None
    total, squares = None, torch.zeros((), dtype=torch.float64, device=labels.device)
    for index in range(count):
        one = slice(index, index + 1)
        loss = (criterion(model(inputs[one]), labels[one]) * weights[one]).sum()
        gradient = _flat(loss, vector)
        total = gradient if total is None else total + gradient
        squares += gradient.square().sum(dtype=torch.float64)
    assert total is not None
    of_mean = float((total / count).square().sum(dtype=torch.float64))
    spread = (float(squares) - count * of_mean) / (count - 1)
    # The mean of m gradients has E‖mean‖² = ‖μ‖² + Σσ²/m.
    signal = _ratio(count * of_mean, spread)
    return None if signal is None else max(0.0, signal - 1.0)


def _flat(loss: Tensor, vector: ParameterVector, *, retain: bool = False) -> Tensor:
    return vector.flatten(
        torch.autograd.grad(loss, vector.tensors, retain_graph=retain, allow_unused=True)
    )


def _cosine(one: Tensor, other: Tensor) -> float | None:
    lengths = float(one.norm()) * float(other.norm())
    return float(one @ other) / lengths if lengths > 0 else None


def _ratio(above: float, below: float) -> float | None:
    return above / below if below > 0 else None
