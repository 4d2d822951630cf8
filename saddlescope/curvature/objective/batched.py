"""Samples that come in batches: a data loader, a list of batches, whatever an operator takes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from saddlescope.curvature.memory import default_budget
from saddlescope.curvature.objective.batches import batch_length
from saddlescope.curvature.objective.counting import batch_count, has_rows, sample_count
from saddlescope.curvature.objective.grouping import Labels, label_batch, without_keys
from saddlescope.curvature.objective.items import CLASS_KEYS, collated, get_item, parted
from saddlescope.curvature.objective.recutting import Recut
from saddlescope.curvature.objective.sources import FROZEN, ONCE, FixedBatches


@dataclass(frozen=True)
class BatchedSamples:
    """Hold samples as the batches that a source gave, from which any of them are taken.

    Attributes:
        source: the batches, the same in every pass.
        targets: class numbers, int64, shape (N,); where there are none, shape (N, 0).
        whole: whether a batch is handed to a `BatchLoss` as it is, and not as (inputs, targets).
        labels: of groupings by key or function, the group of each sample.
        groups: group name to class numbers.
        notes: what a reader of their rows should know.
    """

    fixed: ClassVar[bool] = True

    source: Iterable[Any]
    targets: Tensor
    whole: bool
    labels: Labels = field(default_factory=dict)
    groups: Mapping[str, Sequence[int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def batches(self, indices: Tensor, batch_size: int) -> Iterator[Any]:
        """Yield these samples in batches, those of a batch of the source together."""
        source = self.source if self.whole else _Pairs(self.source, self.labels)
        yield from Recut(source, batch_size, self.whole, indices.cpu().sort().values)

    def inputs(self, indices: Tensor) -> Any:
        """Return the model's inputs for these samples, or what the `BatchLoss` is called with."""
        batch = next(self.batches(indices, len(indices)))
        return batch if self.whole else batch[0]


@dataclass(frozen=True)
class _Pairs:
    """Batches as (inputs, targets), without the keys that samples are grouped by."""

    source: Iterable[Any]
    labels: Labels

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for batch in self.source:
            inputs, targets = parted(batch, name="a batch of the data")
            yield without_keys(inputs, self.labels), targets


@dataclass(frozen=True)
class Singles:
    """Give each item of a map-style data set as a batch of one sample, for a `BatchLoss`."""

    dataset: Any

    def __iter__(self) -> Iterator[Any]:
        for index in range(len(self.dataset)):
            yield collated([get_item(self.dataset, index)], what="items")


def batched(
    source: Iterable[Any],
    *,
    labels: Labels,
    whole: bool,
    groups: Mapping[str, Sequence[int]],
) -> BatchedSamples:
    """Read batches once: their numbers of samples, their classes and groups.

    Args:
        source: the batches; kept where they fit, see `FixedBatches`.
        labels: filled with the group of each sample.
        whole: see `BatchedSamples`.
        groups: see `BatchedSamples`.

    Raises:
        DataError: they are not (inputs, targets), or mappings with the target under a usual key.
    """
    fixed = FixedBatches(source, budget=default_budget(torch.device("cpu")))
    classes: list[Tensor | None] = []
    total = 0
    for batch in fixed:
        pair = _targets(batch, whole=whole)
        count = batch_count(batch, whole=True) if pair is None else sample_count(*pair)
        total += count
        found = pair[1] if pair is not None else None
        if not isinstance(found, Tensor) or found.is_floating_point() or found.shape != (count,):
            found = None
        classes.append(found)
        label_batch(labels, batch, count, whole=whole or isinstance(batch, Mapping))
    known = [part.cpu() for part in classes if part is not None]
    complete = bool(known) and len(known) == len(classes)
    targets = torch.cat(known).to(torch.int64) if complete else torch.empty(total, 0)
    notes = (ONCE,) if isinstance(source, Iterator) else (FROZEN,) if fixed.changes() else ()
    return BatchedSamples(fixed, targets, whole, labels, groups, notes)


def is_batch(entry: Any, *, whole: bool) -> bool:
    """Return whether an entry of a list is a batch of samples, and not one sample.

    Of a batch every tensor has one row a sample, and as many as the others.
    """
    if isinstance(entry, tuple | list) and len(entry) == 2:
        count = batch_length(entry[1])
        return count is not None and all(has_rows(part, count) for part in entry)
    if not (whole or isinstance(entry, Mapping)):
        return False
    count = batch_length(entry)
    return count is not None and has_rows(entry, count)


def _targets(batch: Any, *, whole: bool) -> tuple[Any, Any] | None:
    """A batch as a pair; of whole ones None where nothing in it is a class by its place."""
    if not whole:
        return parted(batch, name="a batch of the data")
    if isinstance(batch, Mapping) and any(key in batch for key in CLASS_KEYS):
        return batch, parted(batch, name="")[1]
    return batch if isinstance(batch, tuple) and len(batch) == 2 else None
