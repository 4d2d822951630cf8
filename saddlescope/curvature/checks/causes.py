"""Why a loss is random, or not a mean over samples: which layer, or which count."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves  # as torch.func does

from saddlescope.curvature.objective import Batch, Objective, exact_arithmetic, untouched

_SEEN = 16
"""Samples that a cause is looked for with."""


@dataclass(frozen=True)
class _Call:
    """One call of a module, in the order in which they end: inner modules first."""

    name: str
    kind: str
    inputs: list[Tensor]
    outputs: list[Tensor]
    module: nn.Module


def random_layer(objective: Objective, seeds: tuple[int, ...]) -> str | None:
    """Return the first module that gives other outputs from another random state, in words."""
    few = objective.few(_SEEN)
    if few is None:
        return None
    one, *others = (_calls(few, next(few.batches()), seed) for seed in seeds)
    for first, second in (pair for two in others for pair in zip(one, two, strict=False)):
        if _differ(first.inputs, second.inputs, None):
            parent = first.name.rpartition(".")[0]
            where = f"{parent} ({_kind(few.model, parent)})" if parent else _kind(few.model, "")
            return (
                f"The forward pass of {where} draws random numbers before it calls {first.name} "
                "(dropout called as a function, which is on unless training=self.training is "
                "passed, or noise)"
            )
        if _differ(first.outputs, second.outputs, None):
            return f"{first.name or 'The model'} ({first.kind}) draws random numbers"
    return None


def mixing_layer(objective: Objective) -> str | None:
    """Return the first module whose outputs for a sample depend on the others, in words."""
    few = objective.few(_SEEN)
    if few is None:
        return None
    parts = few.halves(next(iter(few.source)))
    if parts is None:
        return None
    whole, half = _calls(few, next(few.batches()), 0), _calls(few, parts[0], 0)
    for first, second in zip(whole, half, strict=False):
        if _differ(first.outputs, second.outputs, parts[0].count):
            text = (
                f"{first.name or 'the model'} ({first.kind}) gives a sample other outputs when "
                "other samples are in its batch"
            )
            if isinstance(first.module, nn.modules.batchnorm._NormBase):
                text += (
                    ", in eval mode too, because it keeps no running statistics: give it some "
                    "(track_running_stats=True), as a network that is used on single samples needs"
                )
            return text
    return None


def count(objective: Objective) -> str:
    """Return which weights would make the halves of a batch add up, in words."""
    advice = (
        "say what the mean over a batch is divided by: BatchLoss(lambda model, batch: ..., "
        "weight=lambda batch: ...), or give a criterion of torch, which says it itself "
        "(nn.CrossEntropyLoss(weight=..., ignore_index=...))"
    )
    for raw in objective.source:
        parts = objective.halves(raw)
        if parts is None or len(parts) < 2:
            continue
        with untouched(objective.model), exact_arithmetic():
            # Means, without their shares: L = θ·L₁ + (1−θ)·L₂.
            one, two = (float(objective.value(part)) / part.share for part in parts)
            together = sum(part.share for part in parts)
            whole = objective.whole(raw)
            mean = float(objective.value(whole)) / whole.share
        theta = (mean - two) / (one - two) if one != two else -1.0
        if 0.0 < theta < 1.0:
            return (
                f"its halves of {parts[0].count} and {parts[1].count} samples would have to enter "
                f"with {theta:.4g} and {1 - theta:.4g} instead of {parts[0].share / together:.4g} "
                f"and {parts[1].share / together:.4g}, so that its mean is over something else "
                f"than was counted (tokens that are not masked, weights?); {advice}"
            )
        break
    return f"the criterion is not a mean over samples; {advice}"


def _calls(objective: Objective, batch: Batch, seed: int) -> list[_Call]:
    """What every module was given and gave."""
    found: list[_Call] = []
    handles = []

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, outputs: Any) -> None:
            found.append(
                _Call(name, type(module).__name__, _tensors(inputs), _tensors(outputs), module)
            )

        return hook

    try:
        for name, module in objective.model.named_modules():
            handles.append(module.register_forward_hook(watch(name)))
        with untouched(objective.model), exact_arithmetic(), torch.enable_grad():
            torch.manual_seed(seed)
            unfolded = objective.unfolded()
            unfolded.batch_loss(batch)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _tensors(values: Any) -> list[Tensor]:
    return [leaf.detach().clone() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _differ(one: list[Tensor], two: list[Tensor], rows: int | None) -> bool:
    """Whether tensors differ by more than rounding, in their first rows."""
    for a, b in zip(one, two, strict=False):
        if rows is not None:
            if a.dim() == 0 or len(b) != rows or a.shape[1:] != b.shape[1:]:
                continue
            a = a[:rows]
        if a.shape != b.shape:
            continue
        if not a.is_floating_point():
            if not torch.equal(a, b):
                return True
            continue
        scale = max(float(a.abs().max()) if a.numel() else 0.0, 1e-30)
        if a.numel() and float((a - b).abs().max()) > 1e3 * torch.finfo(a.dtype).eps * scale:
            return True
    return False


def _kind(model: nn.Module, name: str) -> str:
    return type(model.get_submodule(name)).__name__
