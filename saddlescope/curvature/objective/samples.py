"""A data set as the instrument sees it: its samples by position, each in or out of a row."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves  # as torch.func does

from saddlescope.curvature.memory import default_budget, storage_bytes
from saddlescope.curvature.objective.batched import Singles, batched, is_batch
from saddlescope.curvature.objective.batches import map_tensors
from saddlescope.curvature.objective.grouping import (
    Groups,
    Labels,
    label_batch,
    label_item,
    told_by_samples,
    without_keys,
)
from saddlescope.curvature.objective.items import class_number, collated, get_item, parted
from saddlescope.curvature.objective.sources import FROZEN, OTHER_SEED, random_state
from saddlescope.errors import DataError, UsageError
from saddlescope.parallel import Ranks, ranks_of

log = logging.getLogger("saddlescope.curvature")

_READ_AGAIN = 8
"""Items of a data set that are read a second time, to see whether they change."""


@runtime_checkable
class Samples(Protocol):
    """Give what `class_spectra` needs of a data set.

    Targets may be any numbers, shape (N, …); rows of classes need class numbers. A `groups`
    attribute, if there is one, maps group names ("head") to class numbers. One called `fixed` that
    is true says that the inputs of an index never change: they are read anew at each pass, and not
    kept. A method `batches(indices, batch_size)` takes the place of (inputs, targets).
    """

    @property
    def targets(self) -> Tensor:
        """Return what the criterion compares with: class numbers, int64, shape (N,), or others."""

    def inputs(self, indices: Tensor) -> Any:
        """Return the model's inputs for these samples."""


@dataclass(frozen=True)
class TensorSamples:
    """Hold samples as tensors.

    Attributes:
        values: inputs, shape (N, …); several such tensors in a mapping or a tuple where an item's
            inputs are one.
        targets: class numbers, int64, shape (N,), or those of a regression, shape (N, …).
        groups: group name to class numbers.
        notes: what a reader of their rows should know.
        labels: of groupings by key or function, the group of each sample.
    """

    fixed: ClassVar[bool] = True

    values: Any
    targets: Tensor
    groups: Mapping[str, Sequence[int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    labels: Labels = field(default_factory=dict)

    def inputs(self, indices: Tensor) -> Any:
        """Return the inputs of these samples, shape (len(indices), …) each."""
        return map_tensors(self.values, lambda tensor: tensor[indices.to(tensor.device)])


@dataclass(frozen=True)
class _ListedSamples:
    """A map-style data set, see `parted`, read item by item when needed."""

    dataset: Any
    targets: Tensor
    groups: Mapping[str, Sequence[int]]
    labels: Labels

    def inputs(self, indices: Tensor) -> Any:
        items = [parted(get_item(self.dataset, int(i)), name=f"item {i}")[0] for i in indices]
        return collated([without_keys(inputs, self.labels) for inputs in items])


@dataclass(frozen=True)
class SharedSamples:
    """Share a data set that every rank can read, each measuring its part of every row's samples.

    Attributes:
        samples: the whole data set, the same on all ranks.
        ranks: who shares it.
    """

    samples: Samples
    ranks: Ranks

    @property
    def targets(self) -> Tensor:
        """Return the class numbers of all samples, int64, shape (N,)."""
        return self.samples.targets

    @property
    def groups(self) -> Mapping[str, Sequence[int]]:
        """Group name to class numbers."""
        return getattr(self.samples, "groups", {})

    @property
    def labels(self) -> Labels:
        """Return the group of each sample, of groupings by key or function."""
        return getattr(self.samples, "labels", {})

    def inputs(self, indices: Tensor) -> Any:
        """Return the model's inputs for these samples."""
        return self.samples.inputs(indices)


def as_samples(dataset: Any, *, groups: Groups = (), whole: bool = False) -> Samples:
    """Accept whatever `HessianOperator` takes as batches, and data sets of items.

    That is a data loader or a list of batches; `Samples`; a pair of tensors, the first perhaps
    several in a mapping or tuple; a `TensorDataset`; a map-style data set whose items are pairs or
    mappings.

    Args:
        dataset: one of these.
        groups: those that will be asked for.
        whole: whether the criterion is a `BatchLoss`: batches that are no pairs are handed to it
            as they are.

    Raises:
        UsageError: it is none of these; see `label_item`.
        DataError: see `parted`.
    """
    named = getattr(dataset, "groups", {})
    labels = told_by_samples(groups, named)
    if isinstance(dataset, Samples):
        return dataset
    if isinstance(dataset, torch.utils.data.TensorDataset) and len(dataset.tensors) == 2:
        return TensorSamples(dataset.tensors[0], dataset.tensors[1], named)
    listed = isinstance(dataset, tuple | list)
    # HessianOperator reads a list as batches; two tensors in one may be inputs and targets too.
    two = listed and len(dataset) == 2 and not (whole and _alike(dataset))
    if two and not (_holds(dataset[0]) and _holds(dataset[1])):
        return _pair(*dataset, groups=named, labels=labels)
    if listed and len(dataset) > 0 and is_batch(dataset[0], whole=whole):
        return batched(dataset, labels=labels, whole=whole, groups=named)
    if isinstance(dataset, Sized) and hasattr(dataset, "__getitem__"):
        return _listed(dataset, named, labels, whole=whole)
    if isinstance(dataset, Iterable):
        return batched(dataset, labels=labels, whole=whole, groups=named)
    raise UsageError(
        f"cannot read samples from {type(dataset).__name__}: give a pair of tensors (inputs, "
        "classes), a data loader or a list of batches, or a data set whose items are (inputs, "
        "class) or mappings with the class under 'labels'"
    )


def class_numbers(samples: Samples) -> Tensor:
    """Return the class number of each sample, shape (N,).

    Raises:
        DataError: the targets are no classes.
    """
    targets = samples.targets
    if targets.dim() == 1 and not targets.is_floating_point():
        return targets
    found = f", got {targets.dtype} of shape {tuple(targets.shape)}" if targets.numel() else ""
    raise DataError(
        f"class numbers must be integers of shape (N,){found}: where there are none, ask for no "
        "classes (classes 'none')"
    )


def batch_of(samples: Samples, indices: Tensor) -> Any:
    """Return these samples as one batch, of shared ones on every rank."""
    inner = samples.samples if isinstance(samples, SharedSamples) else samples
    return next(iter(SampleBatches(inner, indices, len(indices))))


def _alike(pair: Any) -> bool:
    """Whether a list holds two tensors that are told apart by nothing: batches."""
    return isinstance(pair, list) and all(
        isinstance(one, Tensor) and (one.shape[1:], one.dtype) == (pair[0].shape[1:], pair[0].dtype)
        for one in pair
    )


def _holds(value: Any) -> bool:
    """Whether a structure, and not a tensor, holds tensors."""
    return not isinstance(value, Tensor) and any(
        isinstance(leaf, Tensor) for leaf in tree_leaves(value)
    )


def _listed(
    dataset: Any, groups: Mapping[str, Sequence[int]], labels: Labels, *, whole: bool
) -> Samples:
    """Read every item once; where they fit they are kept, so that all rows see one draw."""
    budget = default_budget(torch.device("cpu")) // 2  # stacked, they are there twice
    targets: list[Any] = []
    kept: list[Any] = []
    size, fits = 0, True

    def read(index: int) -> tuple[Any, Any, Any]:
        item = get_item(dataset, index)
        inputs, target = parted(item, name=f"item {index} of {type(dataset).__name__}")
        return item, without_keys(inputs, labels), target

    with random_state(None):
        if whole and len(dataset) and not _has_class(get_item(dataset, 0)):
            return batched(Singles(dataset), labels=labels, whole=True, groups=groups)
        for index in range(len(dataset)):
            item, values, target = read(index)
            label_item(labels, item, values)
            if isinstance(target, str):
                raise DataError(
                    f"the class of item {index} of {type(dataset).__name__} is a str {target!r}: "
                    "expected one class number"
                )
            targets.append(target)
            fits = fits and (one := _batch_of([values])) is not None
            if fits:
                size += storage_bytes(tree_leaves(one))
                kept.append(values)
                fits = size <= budget
            if not fits:
                kept.clear()
    numbers = [class_number(target) for target in targets]
    found = (
        collated(targets, what="targets")
        if None in numbers
        else torch.tensor(numbers, dtype=torch.int64)
    )
    if not kept or (stacked := _batch_of(kept)) is None:
        return _ListedSamples(dataset, found, groups, labels)
    few = min(_READ_AGAIN, len(kept))
    with random_state(OTHER_SEED):
        again = _batch_of([read(index)[1] for index in range(few)])
    first = map_tensors(stacked, lambda tensor: tensor[:few])
    pairs = zip(tree_leaves(first), tree_leaves(again), strict=False)
    fixed = again is not None and all(torch.equal(one, two) for one, two in pairs)
    if not fixed:
        log.warning("%s", FROZEN)
    return TensorSamples(stacked, found, groups, () if fixed else (FROZEN,), labels)


def _has_class(item: Any) -> bool:
    """Whether an item has a class number in its place."""
    try:
        return class_number(parted(item, name="")[1]) is not None
    except DataError:
        return False


def _batch_of(values: list[Any]) -> Any:
    """Inputs of items as one batch; None where they make none, which is told when they are used."""
    try:
        return collated(values)
    except DataError:
        return None


def _pair(
    values: Any, targets: Any, *, groups: Mapping[str, Sequence[int]], labels: Labels
) -> TensorSamples:
    """Inputs and targets as tensors, arrays or lists; inputs perhaps several in a mapping."""
    try:
        compared = torch.as_tensor(targets)
        if isinstance(values, Mapping) or _holds(values):
            label_batch(labels, (values, compared), len(compared), whole=False)
            inputs = without_keys(values, labels)
        else:
            inputs, labels = torch.as_tensor(values), {}
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"a data set given as a pair must be (inputs, class numbers), each a tensor or an "
            f"array: {error}"
        ) from None
    counts = {len(leaf) for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)}
    if counts != {len(compared)}:
        found = " and ".join(map(str, sorted(counts)))
        raise DataError(f"{found} inputs but {len(compared)} class numbers")
    return TensorSamples(inputs, compared, groups, labels=labels)


def usual_batch_size(device: torch.device) -> int:
    """Return how many samples a forward pass takes where nobody says.

    On CUDA a row of up to 512 samples in one batch can be recorded and replayed, and larger batches
    wait less for launches.
    """
    return 2048 if device.type == "cuda" else 256


@dataclass(frozen=True)
class SampleBatches:
    """Yield batches of chosen samples, made anew at each pass; of shared ones, this rank's.

    Attributes:
        samples: where they come from.
        indices: which, int64, shape (n,).
        batch_size: samples a batch; the last one is ragged.
    """

    samples: Samples
    indices: Tensor
    batch_size: int

    @property
    def ranks(self) -> Ranks:
        """Return who shares the samples."""
        return ranks_of(self.samples)

    @property
    def fixed(self) -> bool:
        """Return whether every pass gives the same by construction."""
        samples = self.samples.samples if isinstance(self.samples, SharedSamples) else self.samples
        return bool(getattr(samples, "fixed", False))

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what a reader of their rows should know."""
        return tuple(getattr(self.samples, "notes", ()))

    def __iter__(self) -> Iterator[Any]:
        mine = self.ranks.slice(self.indices)
        inner = self.samples.samples if isinstance(self.samples, SharedSamples) else self.samples
        if hasattr(inner, "batches"):
            if len(mine):
                yield from inner.batches(mine, self.batch_size)
            return
        for part in torch.split(mine, self.batch_size) if len(mine) else ():
            yield self.samples.inputs(part), self.samples.targets[part]
