"""Cross-entropy of C classes that are known: targets of every form people have, or one clear line.

The losses of `losses` are this one with other logits.
"""

from typing import Protocol

import torch
from torch import nn

from saddlescope.errors import DataError, UsageError


class CountedCrossEntropy(nn.CrossEntropyLoss):
    """Cross-entropy for a known number of classes, which refuses logits of another.

    Targets are class numbers of shape (N, *d) for logits (N, C, *d), of any integer type; those
    that equal `ignore_index` count for nothing. Or, where the loss is a cross-entropy of logits
    that do not depend on the target, probabilities of the logits' shape (mixup, smoothing).

    Args:
        classes: C.
        reduction: "mean" or "sum" over what is counted, or "none"; kept as an attribute.
    """

    takes_probabilities = True

    def __init__(self, classes: int, *, reduction: str) -> None:
        super().__init__(reduction=reduction)
        self.classes = classes

    def shifted(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Return the logits that the cross-entropy is taken of, shape (N, C, *d).

        Args:
            logits: shape (N, C, *d).
            targets: class numbers within 0 to C − 1, shape (N, *d), or probabilities.
        """
        return logits

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:  # noqa: A002
        """Return the loss of logits (N, C, *d): a scalar, or (N, *d) with reduction "none".

        Raises:
            UsageError: logits or targets of another shape, or probabilities where the loss knows
                none.
            DataError: a class number out of range.
        """
        logits, targets = input, fitting(input, target, self)
        try:
            return nn.functional.cross_entropy(
                self.shifted(logits, within(targets, self.classes)),
                targets,
                reduction=self.reduction,
                ignore_index=self.ignore_index,
            )
        except (IndexError, RuntimeError) as error:
            _refuse_classes(targets, self, error)
            raise


class _Classwise(Protocol):
    """What `fitting` needs of a loss."""

    @property
    def classes(self) -> int:
        """C."""

    @property
    def takes_probabilities(self) -> bool:
        """Tell whether targets may be probabilities."""


def fitting(logits: torch.Tensor, targets: torch.Tensor, loss: _Classwise) -> torch.Tensor:
    """Targets of int64, or probabilities, whose shape is that of the logits.

    Raises:
        UsageError: it is not.
    """
    shape = tuple(logits.shape)
    if logits.dim() < 2 or shape[1] != loss.classes:
        raise UsageError(
            f"logits of shape {shape}: expected (N, {loss.classes}) or (N, {loss.classes}, ...), "
            f"one logit for each of the {loss.classes} classes that the loss was made for"
        )
    if targets.is_floating_point():
        if not loss.takes_probabilities:
            raise UsageError(
                f"{type(loss).__name__} takes class numbers, and the targets are "
                f"{str(targets.dtype).removeprefix('torch.')}: for mixup take the loss for the "
                "labels of either image and mix the two losses"
            )
        wanted = shape
    else:
        targets, wanted = targets.long(), (shape[0], *shape[2:])
    if tuple(targets.shape) != wanted:
        raise UsageError(
            f"targets of shape {tuple(targets.shape)} for logits of shape {shape}: expected "
            f"{wanted}"
        )
    return targets


def within(targets: torch.Tensor, classes: int) -> torch.Tensor:
    """Targets with which a table of classes can be read: what is ignored reads as class 0.

    What is out of range otherwise is left to the cross-entropy to find, which reads the targets as
    they are: looking here would make a device wait.
    """
    return targets if targets.is_floating_point() else targets.clamp(0, classes - 1)


def _refuse_classes(targets: torch.Tensor, loss: "CountedCrossEntropy", error: Exception) -> None:
    if targets.is_floating_point() or targets.device.type != "cpu":
        return
    counted = targets[targets != loss.ignore_index]
    wrong = counted[(counted < 0) | (counted >= loss.classes)]
    if len(wrong):
        raise DataError(
            f"class number {int(wrong[0])} in the targets: expected 0 to {loss.classes - 1}, or "
            f"{loss.ignore_index} for what is not to be counted"
        ) from error
