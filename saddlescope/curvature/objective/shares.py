"""Batches with their exact shares of an objective, whole or divided."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from saddlescope.curvature.objective.batches import (
    BatchLoss,
    detached,
    map_tensors,
    normal,
)
from saddlescope.curvature.objective.counting import (
    batch_count,
    batch_weight,
    divided,
    divisible,
    pair,
)
from saddlescope.curvature.objective.forward import Folding
from saddlescope.curvature.objective.parameters import ParameterVector
from saddlescope.curvature.objective.state import exact_arithmetic, untouched
from saddlescope.errors import OperatorError
from saddlescope.parallel import Ranks


@dataclass(frozen=True)
class Batch:
    """Hold one batch on the device, with its share of the objective.

    Under a `BatchLoss` the inputs are the whole batch, and there are no targets.

    Attributes:
        inputs: what the model is called with.
        targets: what the criterion compares with.
        share: with which its mean enters the objective.
        count: its number of samples.
    """

    inputs: Any
    targets: Any
    share: float
    count: int


class SharedOut:
    """Hold what an objective knows of its samples; the base of `Objective`, which sets it up.

    Attributes:
        source: the batches as they were given.
        ranks: who shares the samples.
        largest: samples of the largest batch.
        chunk: samples that are evaluated together at most; larger batches are divided. None
            leaves them as they are. Changes no number beyond rounding.
    """

    model: nn.Module
    criterion: Any
    reduction: str
    vector: ParameterVector
    source: Iterable[Any]
    ranks: Ranks
    largest: int
    chunk: int | None
    _whole: BatchLoss | None
    _folding: Folding | None
    _divisible: bool
    _total: float
    _mine: tuple[int, float, int]  # samples, weight and batches of this rank

    @property
    def folding(self) -> Folding:
        """Return how the forward pass is run, learned from the first batch."""
        if self._folding is None:
            next(self.batches())
        assert self._folding is not None
        return self._folding

    def batches(self, *, after: int = 0, split: bool = False) -> Iterator[Batch]:
        """Yield every batch on the parameters' device with its exact share.

        Args:
            after: of the batches that would be yielded, how many to leave out and not to prepare.
            split: give the first one that can be divided as two halves, which must make no
                difference; not where a `BatchLoss` has all samples in one batch.

        Raises:
            OperatorError: they are not those that the shares were computed from.
        """
        seen, total = 0, 0.0
        split = split and self._divisible if self._mine[2] == 1 else split
        for batch in self._pieces():
            count, weight = self._count(batch)
            seen, total = seen + count, total + weight
            # Empty, or all targets ignored: the criterion would return NaN, and count for nothing.
            if weight == 0:
                continue
            if after > 0:
                after -= 1
                continue
            parts = self.halves(batch) if split else None
            if parts is None:
                yield self._batch(batch, count, weight)
            else:
                yield from parts
                split = False
        if seen != self._mine[0] or abs(total - self._mine[1]) > 1e-6 * abs(self._mine[1]):
            raise OperatorError(
                f"this pass over the data gave {seen} samples of weight {total:g}, the first one "
                f"{self._mine[0]} of weight {self._mine[1]:g}: the batches or the criterion's "
                "weights changed in between"
            )

    def halves(self, batch: Any) -> list[Batch] | None:
        """Divide a raw batch in two, with their shares; None where that cannot be done."""
        whole = self._whole is not None
        count, _ = self._count(batch)
        if count < 2 or not divisible(batch, count, whole=whole):
            return None
        parts = [
            (part, *self._count(part))
            for part in divided(batch, count, (count + 1) // 2, whole=whole)
        ]
        return [self._batch(*part) for part in parts if part[2] > 0]

    def whole(self, batch: Any) -> Batch:
        """Return a raw batch of the source, with its share."""
        return self._batch(batch, *self._count(batch))

    def keep_whole(self) -> bool:
        """Divide batches no more, if there is but one; whether there is."""
        if self._mine[2] != 1 or self.ranks.size != 1 or self.chunk is not None:
            return False
        self._divisible = False
        return True

    def halve(self) -> int | None:
        """Evaluate half as many samples together from here on.

        Returns:
            The new `chunk`; None where batches hold one sample or cannot be divided.
        """
        if self.largest <= 1 or not self._divisible:
            return None
        self.largest = self.chunk = (self.largest + 1) // 2
        return self.chunk

    def _batch(self, batch: Any, count: int, weight: float) -> Batch:
        if self._whole is not None:
            inputs, targets = detached(batch, self.vector.device), None
        else:
            inputs, targets = (moved(part, self.vector.device) for part in pair(batch))
        if self._folding is None:
            with untouched(self.model), exact_arithmetic():
                self._folding = Folding(self.model, inputs, loss=self._whole)
        share = 1.0 if self.reduction == "sum" else weight / self._total
        return Batch(self._folding.prepare(inputs), targets, share, count)

    def _count(self, batch: Any) -> tuple[int, float]:
        """A batch's number of samples, and what its mean was divided by."""
        if isinstance(self.criterion, BatchLoss):
            return batch_count(batch, whole=True), self.criterion.weigh(batch)
        count = batch_count(batch, whole=False)
        return count, batch_weight(self.criterion, pair(batch)[1], count, self.reduction)

    def _pieces(self) -> Iterator[Any]:
        """The batches, divided where they are larger than `chunk`."""
        for batch in self.source:
            if self.chunk is None:
                yield batch
            else:
                yield from divided(batch, self._count(batch)[0], self.chunk)


def moved(value: Any, device: torch.device) -> Any:
    """Put the tensors of a structure on a device."""
    return map_tensors(value, lambda tensor: normal(tensor).to(device, non_blocking=True))
