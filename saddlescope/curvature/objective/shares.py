"""Batches with their exact shares of an objective, whole or divided."""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

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
    evenly,
    pair,
)
from saddlescope.curvature.objective.forward import Folding
from saddlescope.curvature.objective.parameters import ParameterVector
from saddlescope.curvature.objective.recutting import Recut
from saddlescope.curvature.objective.state import exact_arithmetic, untouched
from saddlescope.errors import DataError, OperatorError
from saddlescope.parallel import ALONE, Ranks


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
    weight_decay: float
    n: int
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

    def few(self, count: int) -> Self | None:
        """Return the same objective over the first samples alone; None where there are none.

        Args:
            count: of samples, if the first batch can be divided; else it is taken as it is.
        """
        whole = self._whole is not None
        for batch in self.source:
            n, weight = self._count(batch)
            if weight == 0:
                continue
            part = batch
            if n > count and divisible(batch, n, whole=whole):
                part = next(divided(batch, n, count, whole=whole))
            if (few := self._over(part)) is not None:
                return few
        return None

    def spread(self, count: int) -> Self | None:
        """Return the same objective over samples from all over the data, put into one batch.

        Args:
            count: of samples, at most.

        Returns:
            The objective; None where they cannot be taken out of their batches, or are not alike.
        """
        picked = evenly(self._mine[0], count)
        try:
            batches = list(Recut(self.source, count, self._whole is not None, picked))
        except DataError:
            return None
        return self._over(batches[0]) if len(batches) == 1 else None

    def _over(self, batch: Any) -> Self | None:
        """The same objective over one raw batch, without its penalty; None where it weighs 0."""
        n, weight = self._count(batch)
        if weight == 0:
            return None
        smaller = copy.copy(self)
        smaller.ranks, smaller.source = ALONE, [batch]
        smaller.chunk, smaller.weight_decay = None, 0.0
        smaller.n = smaller.largest = n
        # Of a `BatchLoss` nothing says that one batch could be two, unless there were several.
        smaller._divisible = self._divisible or self._mine[2] > 1
        smaller._mine = n, weight, 1
        smaller._total = 1.0 if self.reduction == "sum" else weight
        return smaller

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
