"""The assumptions of Propositions 3 and 4, measured at a checkpoint over all of its samples.

The same quantities as `norms.jsonl` has of single batches (`saddlescope.training.norms`), but of
the whole loss: no mini-batch noise, BatchNorm in eval mode, no augmentation. Proposition 4 assumes
q = ‖∇L_tail‖/‖∇L_head‖ ≪ 1; Proposition 3 can hold where in a group of m samples m·‖μ‖²/Σσ² ≫ 1, μ
and σ² being mean and variances of the per-sample gradients.
"""

import math
from typing import Any, Final

import pandas as pd
import torch
from torch import Tensor
from torch.func import grad, vmap

from saddlescope.curvature import Criterion, SampleBatches, call_with, tf32, untouched
from saddlescope.curvature.objective import batch_weight
from saddlescope.errors import DataError, UsageError
from saddlescope.measurement import Target, WholeLoss
from saddlescope.runs import RunFolder, read_rows, record_at
from saddlescope.stages import counted

GRADIENT_COLUMNS: Final = (
    "run", "checkpoint", "epoch", "criterion", "n_head", "n_tail", "gradient_norm",
    "gradient_norm_head", "gradient_norm_tail", "q", "cos_head_tail", "cos_head", "cos_tail",
    "signal_head", "signal_tail", "xi_ratio", "xi_needed",
)  # fmt: skip

_CHUNK_NUMBERS = 2**26
"""Numbers of per-sample gradients that are held at once."""


@tf32(allowed=False)
def group_gradients(
    target: Target, *, samples: int | None = None, seed: int = 0, batch_size: int = 256
) -> dict[str, Any]:
    """Measure one row of `GRADIENT_COLUMNS`.

    Norms and angles are those of all samples under the target's group reduction. Signals, and ξ =
    ‖μ‖² + Σσ² of Proposition 3, come from per-sample gradients, of all or of some samples.

    Args:
        target: the checkpoint; its samples know head and tail.
        samples: of each group for the per-sample gradients, at least 2; None for all. The signal is
            scaled to the group's size.
        seed: of their choice.
        batch_size: samples a forward pass; changes memory and speed.

    Returns:
        The row. `xi_ratio` is ξ_head/ξ_tail and `xi_needed` n²/m², which Proposition 3 claims it to
        be within a constant where the gradients are of one size. NaN where a group has one sample.

    Raises:
        UsageError: no head and tail, or fewer than 2 samples asked for.
    """
    if samples is not None and samples < 2:
        raise UsageError(f"samples = {samples}: a variance needs at least 2")
    reduction = target.rule.group_reduction
    loss = WholeLoss(target.model, target.criterion, target.samples, reduction, batch_size)
    if not loss.grouped:
        raise UsageError("these samples know no head and tail")
    parts = {name: loss.gradient(name) for name in ("head", "tail")}
    whole = parts["head"] + parts["tail"]
    lengths = {name: float(part.norm()) for name, part in parts.items()}
    counts = {name: len(loss.members[name]) for name in parts}
    generator = torch.Generator().manual_seed(seed)
    moments = {}
    for name, members in loss.members.items():
        if name == "all":
            continue
        drawn = members[torch.randperm(len(members), generator=generator)[:samples]]
        moments[name] = _moments(target, drawn, batch_size)
    xi = {name: mean + spread for name, (mean, spread) in moments.items()}
    nan = float("nan")
    return {
        "run": target.identity["run"],
        "checkpoint": target.identity["checkpoint"],
        "epoch": target.identity["epoch"],
        "criterion": target.identity["criterion"],
        "n_head": counts["head"],
        "n_tail": counts["tail"],
        "gradient_norm": float(whole.norm()),
        "gradient_norm_head": lengths["head"],
        "gradient_norm_tail": lengths["tail"],
        "q": lengths["tail"] / lengths["head"] if lengths["head"] > 0 else nan,
        "cos_head_tail": _cosine(parts["head"], parts["tail"]),
        "cos_head": _cosine(whole, parts["head"]),
        "cos_tail": _cosine(whole, parts["tail"]),
        **{
            f"signal_{name}": counts[name] * mean / spread if spread > 0 else nan
            for name, (mean, spread) in moments.items()
        },
        "xi_ratio": xi["head"] / xi["tail"] if xi["tail"] > 0 else nan,
        "xi_needed": (counts["tail"] / counts["head"]) ** 2,
    }


def logged_gradients(folder: RunFolder) -> list[dict[str, Any]]:
    """Read norms.jsonl by epoch: the median of each quantity over the logged steps.

    Args:
        folder: of a run trained with `training.norms_every`.

    Returns:
        One row an epoch, `steps` being the logged ones; NaN where no step has the quantity.

    Raises:
        DataError: nothing was logged.
    """
    logged = read_rows(folder.norms_file) if folder.norms_file.is_file() else []
    if not logged:
        raise DataError(
            f"{folder.norms_file}: missing or empty; train with --set training.norms_every=N, or "
            "leave --logged out to measure the checkpoints"
        )
    with record_at(folder.norms_file):
        return _medians(logged, folder.name)


def _medians(logged: list[dict[str, Any]], run: str) -> list[dict[str, Any]]:
    rows = pd.DataFrame(logged)
    names = [name for name in rows.columns if name not in ("epoch", "step")]
    rows[names] = rows[names].apply(pd.to_numeric)
    by_epoch = rows.groupby("epoch")
    found = by_epoch[names].median().reset_index()
    found.insert(1, "steps", by_epoch.size().to_numpy())
    found.insert(0, "run", run)
    return [{str(key): value for key, value in row.items()} for row in found.to_dict("records")]


def _moments(target: Target, indices: Tensor, batch_size: int) -> tuple[float, float]:
    """‖μ‖² and Σσ² (unbiased) of the samples' gradients."""
    model, criterion = target.model, target.criterion
    objective = target.objective(indices, batch_size)
    vector, count = objective.vector, len(indices)
    if count < 2:
        return float("nan"), float("nan")
    _, mean = objective.value_and_gradient()
    weights = {n: p.detach() for n, p in zip(vector.names, vector.tensors, strict=True)}

    def loss(values: dict[str, Tensor], one: Tensor, label: Tensor) -> Tensor:
        found: Tensor = criterion(call_with(model, values, (one[None],)), label[None])
        return found

    per_sample = vmap(grad(loss), in_dims=(None, 0, 0))
    chunk = max(1, min(batch_size, _CHUNK_NUMBERS // vector.size))
    squares = torch.zeros((), dtype=torch.float64, device=vector.device)
    with untouched(model):
        batches = SampleBatches(target.samples, indices, chunk)
        for batch in counted("batch", batches, total=math.ceil(count / chunk)):
            inputs, labels = (part.to(vector.device) for part in batch)
            # The group's loss is the mean of what each sample adds to it: of its criterion's own
            # value, which is divided by the sample's weight, and that weight.
            factors = _weights(criterion, labels, objective.reduction) * (count / objective.divisor)
            met = factors != 0.0  # the loss of a label to ignore is no number
            if not bool(met.any()):
                continue
            for gradient in per_sample(weights, inputs[met], labels[met]).values():
                by_sample = gradient.flatten(1).square().sum(1, dtype=torch.float64)
                squares += (by_sample * factors[met].square()).sum()
    of_mean = float(mean.double().square().sum())
    spread = (float(squares) - count * of_mean) / (count - 1)
    # E‖mean‖² = ‖μ‖² + Σσ²/m
    return max(0.0, of_mean - spread / count), spread


def _weights(criterion: Criterion, labels: Tensor, reduction: str) -> Tensor:
    """What the criterion's mean over each sample alone is divided by, shape (n,), float64."""
    found = [batch_weight(criterion, label[None], 1, reduction) for label in labels.cpu()]
    return torch.tensor(found, dtype=torch.float64, device=labels.device)


def _cosine(one: Tensor, other: Tensor) -> float:
    lengths = float(one.norm() * other.norm())
    return float(one @ other) / lengths if lengths > 0 else float("nan")
