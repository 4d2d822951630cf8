"""Rows on disk, held to what their network computes now."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from saddlescope.curvature import (
    MatrixSpec,
    Objective,
    SampleBatches,
    Subset,
    count_samples,
    subset_indices,
)
from saddlescope.errors import UsageError
from saddlescope.measurement.target import Target


def refuse_other_loss(
    target: Target, matrix: MatrixSpec, rows: Sequence[tuple[Subset, dict[str, Any]]], path: Path
) -> None:
    """Compute the loss of the smallest row again, by forward passes, and compare.

    Weights, layers and samples are in a row's digest; the code of a `forward` or of a criterion
    cannot be. Where it was edited, the loss is another.

    Args:
        target: that the rows are to be of.
        matrix: of the rows.
        rows: on disk, with the samples that each is about.
        path: of their file, for the error.

    Raises:
        UsageError: the loss is another, by more than rounding can be.
    """
    if not rows:
        return
    subset, row = min(rows, key=lambda one: count_samples(target.samples, one[0]))
    batches = SampleBatches(
        target.samples, subset_indices(target.samples, subset), matrix.samples_a_pass
    )
    now = Objective(
        target.model, target.criterion, batches, parameters=matrix.parameters,
        weight_decay=matrix.weight_decay, reduction=matrix.reduction,
    ).loss()  # fmt: skip
    rounding = torch.finfo(next(target.model.parameters()).dtype).eps
    # Half the digits: another processor, or other batches, round differently.
    if not math.isclose(now, row["loss"], rel_tol=math.sqrt(rounding), abs_tol=100 * rounding):
        raise UsageError(
            f"{path}: {subset.kind} {subset.name} has a loss of {row['loss']:.6g} there and "
            f"{now:.6g} now, with the same weights and samples: the code of the network or the "
            "criterion has changed; name another file with -o"
        )
