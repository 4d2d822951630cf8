"""Remark 2: how much of a mini-batch's gradient points along v_min, under SGD and under SAM.

The Correlated Negative Curvature assumption (Daneshmand et al., ICML 2018) asks that
E⟨v_min, ∇L_B(w)⟩² over mini-batches B stays away from zero at a saddle; Rangwani et al. (NeurIPS
2022) show that SAM's gradient, taken at w + ρ∇L_B/‖∇L_B‖, has a larger such moment. The paper
doubts the assumption. Both moments are measured here at one checkpoint, with the same mini-batches.
"""

import math
from typing import Any

import torch
from torch import Tensor

from saddlescope.curvature import HessianOperator, extreme_eigenvalues
from saddlescope.errors import UsageError
from saddlescope.experiments.moving import kept, move_to
from saddlescope.measurement import Target
from saddlescope.stages import counted

MINIBATCH_COLUMNS = (
    "run", "checkpoint", "gradient", "rho", "batches", "batch_size", "moment", "moment_error",
    "squared_norm", "share", "isotropic_share", "lambda_min",
)  # fmt: skip


def negative_curvature_moments(
    target: Target, *, batches: int = 100, batch_size: int = 64, seed: int = 0
) -> list[dict[str, Any]]:
    """Measure E⟨v_min, g_B⟩² for SGD's and SAM's gradients g_B of random mini-batches.

    Args:
        target: the checkpoint; v_min is that of the whole loss.
        batches: mini-batches, at least 2.
        batch_size: samples each, drawn without replacement within a batch.
        seed: of the mini-batches and of the start vector.

    Returns:
        Two rows of `MINIBATCH_COLUMNS`: `moment` with its standard error, `squared_norm` E‖g_B‖²,
        `share` the first over the second, and `isotropic_share` 1/n, what a direction without
        preference would have.

    Raises:
        UsageError: too few batches or samples.
    """
    total = len(target.samples.targets)
    if batches < 2 or not 1 <= batch_size <= total:
        raise UsageError(
            f"batches = {batches}, batch size = {batch_size}: expected at least 2 batches of 1 to "
            f"{total} samples"
        )
    whole = target.objective(torch.arange(total))
    ends = extreme_eigenvalues(HessianOperator.from_objective(whole), seed=seed, eigenvectors=True)
    assert ends.eigenvectors is not None
    v_min = ends.eigenvectors[1].double()
    generator = torch.Generator().manual_seed(seed)
    radius = target.rule.rho
    squares: dict[str, list[tuple[float, float]]] = {"sgd": [], "sam": []}
    with kept(whole.vector) as origin:
        for _ in counted("batch", range(batches)):
            drawn = torch.randperm(total, generator=generator)[:batch_size]
            objective = target.objective(drawn)
            _, plain = objective.value_and_gradient()
            squares["sgd"].append(_along(plain, v_min))
            length = plain.norm()
            scale = radius / length if length > 0 else torch.zeros_like(length)
            move_to(whole.vector, origin + scale * plain)
            squares["sam"].append(_along(objective.value_and_gradient()[1], v_min))
            move_to(whole.vector, origin)
    rows = []
    for gradient, pairs in squares.items():
        along, lengths = (
            torch.tensor(values, dtype=torch.float64) for values in zip(*pairs, strict=True)
        )
        rows.append(
            {
                "run": target.identity["run"],
                "checkpoint": target.identity["checkpoint"],
                "gradient": gradient,
                "rho": radius if gradient == "sam" else 0.0,
                "batches": batches,
                "batch_size": batch_size,
                "moment": float(along.mean()),
                "moment_error": float(along.std() / math.sqrt(batches)),
                "squared_norm": float(lengths.mean()),
                "share": float(along.mean() / lengths.mean()),
                "isotropic_share": 1.0 / len(v_min),
                "lambda_min": ends.lambda_min.value,
            }
        )
    return rows


def _along(gradient: Tensor, direction: Tensor) -> tuple[float, float]:
    exact = gradient.double()
    return float((exact @ direction).square()), float(exact.square().sum())
