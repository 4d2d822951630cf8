"""A data set as the instrument sees it: inputs by index, and one class number a sample."""

import logging
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves  # as torch.func does

from saddlescope.curvature.memory import default_budget, storage_bytes
from saddlescope.curvature.objective.batches import map_tensors
from saddlescope.curvature.objective.items import collated, read_item
from saddlescope.curvature.objective.sources import FROZEN, OTHER_SEED, random_state
from saddlescope.errors import DataError, UsageError
from saddlescope.parallel import Ranks, ranks_of

log = logging.getLogger("saddlescope.curvature")

_READ_AGAIN = 8
"""Items of a data set that are read a second time, to see whether they change."""


@runtime_checkable
class Samples(Protocol):
    """Give what `class_spectra` needs of a data set.

    A `groups` attribute, if there is one, maps group names ("head") to class numbers. One called
    `fixed` that is true says that the inputs of an index never change: they are read anew at each
    pass, and not kept.
    """

    @property
    def targets(self) -> Tensor:
        """Return the class numbers, int64, shape (N,)."""

    def inputs(self, indices: Tensor) -> Any:
        """Return the model's inputs for these samples."""


@dataclass(frozen=True)
class TensorSamples:
    """Hold samples as tensors.

    Attributes:
        values: inputs, shape (N, …); several such tensors in a mapping or a tuple where an item's
            inputs are one.
        targets: class numbers, int64, shape (N,).
        groups: group name to class numbers.
        notes: what a reader of their rows should know.
    """

    fixed: ClassVar[bool] = True

    values: Any
    targets: Tensor
    groups: Mapping[str, Sequence[int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def inputs(self, indices: Tensor) -> Any:
        """Return the inputs of these samples, shape (len(indices), …) each."""
        return map_tensors(self.values, lambda tensor: tensor[indices.to(tensor.device)])


@dataclass(frozen=True)
class _ListedSamples:
    """A map-style data set, see `read_item`, read item by item when needed."""

    dataset: Any
    targets: Tensor
    groups: Mapping[str, Sequence[int]]

    def inputs(self, indices: Tensor) -> Any:
        return collated([read_item(self.dataset, int(i))[0] for i in indices])


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

    def inputs(self, indices: Tensor) -> Any:
        """Return the model's inputs for these samples."""
        return self.samples.inputs(indices)


def as_samples(dataset: Any) -> Samples:
    """Accept `Samples`, a pair of tensors, a `TensorDataset`, or a map-style data set.

    Raises:
        UsageError: it is none of these.
        DataError: the class numbers are not integers of shape (N,).
    """
    groups = getattr(dataset, "groups", {})
    if isinstance(dataset, Samples):
        samples: Samples = dataset
    elif isinstance(dataset, torch.utils.data.TensorDataset) and len(dataset.tensors) == 2:
        samples = TensorSamples(dataset.tensors[0], dataset.tensors[1], groups)
    elif isinstance(dataset, tuple | list) and len(dataset) == 2:
        samples = _pair(*dataset, groups=groups)
    elif isinstance(dataset, Sized) and hasattr(dataset, "__getitem__"):
        samples = _listed(dataset, groups)
    else:
        raise UsageError(
            f"cannot read samples from {type(dataset).__name__}: give a pair of tensors "
            "(inputs, classes), a TensorDataset, or a data set whose items are (inputs, class) or "
            "mappings with the class under 'labels'"
        )
    if samples.targets.dim() != 1 or samples.targets.is_floating_point():
        raise DataError(
            f"class numbers must be integers of shape (N,), got {samples.targets.dtype} "
            f"of shape {tuple(samples.targets.shape)}"
        )
    return samples


def _listed(dataset: Any, groups: Mapping[str, Sequence[int]]) -> Samples:
    """Read every item once; where they fit they are kept, so that all rows see one draw."""
    budget = default_budget(torch.device("cpu")) // 2  # stacked, they are there twice
    targets: list[int] = []
    kept: list[Any] = []
    size, fits = 0, True
    with random_state(None):
        for index in range(len(dataset)):
            values, label = read_item(dataset, index)
            targets.append(label)
            fits = fits and (one := _batch_of([values])) is not None
            if fits:
                size += storage_bytes(tree_leaves(one))
                kept.append(values)
                fits = size <= budget
            if not fits:
                kept.clear()
    classes = torch.tensor(targets, dtype=torch.int64)
    if not kept or (stacked := _batch_of(kept)) is None:
        return _ListedSamples(dataset, classes, groups)
    few = min(_READ_AGAIN, len(kept))
    with random_state(OTHER_SEED):
        again = _batch_of([read_item(dataset, index)[0] for index in range(few)])
    first = map_tensors(stacked, lambda tensor: tensor[:few])
    pairs = zip(tree_leaves(first), tree_leaves(again), strict=False)
    fixed = again is not None and all(torch.equal(one, two) for one, two in pairs)
    if not fixed:
        log.warning("%s", FROZEN)
    return TensorSamples(stacked, classes, groups, () if fixed else (FROZEN,))


def _batch_of(values: list[Any]) -> Any:
    """Inputs of items as one batch; None where they make none, which is told when they are used."""
    try:
        return collated(values)
    except DataError:
        return None


def _pair(values: Any, classes: Any, *, groups: Mapping[str, Sequence[int]]) -> TensorSamples:
    """Inputs and class numbers as tensors, arrays or lists."""
    try:
        inputs, targets = torch.as_tensor(values), torch.as_tensor(classes)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"a data set given as a pair must be (inputs, class numbers), each a tensor or an "
            f"array: {error}"
        ) from None
    if len(inputs) != targets.numel():
        raise DataError(f"{len(inputs)} inputs but {targets.numel()} class numbers")
    return TensorSamples(inputs, targets, groups)


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

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        mine = self.ranks.slice(self.indices)
        for part in torch.split(mine, self.batch_size) if len(mine) else ():
            yield self.samples.inputs(part), self.samples.targets[part]
