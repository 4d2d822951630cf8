"""Accuracy by class and by shot.

The accuracy of a shot is the mean of its classes' accuracies, and "avg" the mean over all
classes. On a balanced test set, as here, both equal the share of samples that are right.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from saddlescope.errors import DataError


def per_class_accuracy(
    predictions: torch.Tensor, labels: torch.Tensor, num_classes: int
) -> npt.NDArray[np.float64]:
    """Share of each class's samples that are predicted right.

    Args:
        predictions: predicted classes, shape (N,), integers.
        labels: true classes, shape (N,), integers in [0, num_classes), on the same device.
        num_classes: C.

    Returns:
        Accuracies in [0, 1], shape (C,), float64; NaN for a class without samples.

    Raises:
        DataError: shapes that differ, or a label out of range.
    """
    if predictions.shape != labels.shape or labels.ndim != 1:
        raise DataError(
            f"predictions {tuple(predictions.shape)} and labels {tuple(labels.shape)} "
            "must be two vectors of one length"
        )
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise DataError(
            f"labels run from {int(labels.min())} to {int(labels.max())}, outside the "
            f"{num_classes} classes"
        )
    samples = torch.bincount(labels, minlength=num_classes)
    right = torch.bincount(labels[predictions == labels], minlength=num_classes)
    return (right.double() / samples).cpu().numpy()


def shot_accuracy(
    per_class: Sequence[float] | npt.NDArray[np.float64], shots: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """Mean class accuracy of each shot, and of all classes as "avg".

    Args:
        per_class: accuracy of each class, shape (C,).
        shots: name to classes, as `splits.shots` returns it.

    Returns:
        One number a shot, NaN for a shot without classes, and "avg". Classes that have no test
        samples, of which the accuracy is NaN, are left out of the means.
    """
    values = np.asarray(per_class, dtype=np.float64)
    result = {name: _mean(values[list(classes)]) for name, classes in shots.items()}
    return result | {"avg": _mean(values)}


def _mean(values: npt.NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
