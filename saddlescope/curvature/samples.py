"""A data set as the instrument sees it: inputs by index, and one class number a sample."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from saddlescope.curvature.distributed import Ranks, ranks_of
from saddlescope.curvature.memory import default_budget
from saddlescope.curvature.sources import FROZEN, OTHER_SEED, random_state
from saddlescope.errors import DataError, UsageError

log = logging.getLogger("saddlescope.curvature")

_READ_AGAIN = 8
"""Items of a data set that are read a second time, to see whether they change."""


@runtime_checkable
class Samples(Protocol):
    """What `class_spectra` needs of a data set.

    A `groups` attribute, if there is one, maps group names ("head") to class numbers. One called
    `fixed` that is true says that the inputs of an index never change: they are read anew at each
    pass, and not kept.
    """

    @property
    def targets(self) -> Tensor:
        """Class numbers, int64, shape (N,)."""

    def inputs(self, indices: Tensor) -> Any:
        """The model's inputs for these samples."""


@dataclass(frozen=True)
class TensorSamples:
    """Samples held as two tensors.

    Attributes:
        values: inputs, shape (N, …).
        targets: class numbers, int64, shape (N,).
        groups: group name to class numbers.
    """

    fixed: ClassVar[bool] = True

    values: Tensor
    targets: Tensor
    groups: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def inputs(self, indices: Tensor) -> Tensor:
        """The inputs of these samples, shape (len(indices), …)."""
        return self.values[indices.to(self.values.device)]


@dataclass(frozen=True)
class _ListedSamples:
    """A map-style data set of (input, class) pairs, read item by item when needed."""

    dataset: Any
    targets: Tensor
    groups: Mapping[str, Sequence[int]]

    def inputs(self, indices: Tensor) -> Tensor:
        return torch.stack([torch.as_tensor(self.dataset[int(i)][0]) for i in indices])


@dataclass(frozen=True)
class SharedSamples:
    """A data set that every rank can read, each measuring its part of every row's samples.

    Attributes:
        samples: the whole data set, the same on all ranks.
        ranks: who shares it.
    """

    samples: Samples
    ranks: Ranks

    @property
    def targets(self) -> Tensor:
        """Class numbers of all samples, int64, shape (N,)."""
        return self.samples.targets

    @property
    def groups(self) -> Mapping[str, Sequence[int]]:
        """Group name to class numbers."""
        return getattr(self.samples, "groups", {})

    def inputs(self, indices: Tensor) -> Any:
        """The model's inputs for these samples."""
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
    elif hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):
        samples = _listed(dataset, groups)
    else:
        raise UsageError(
            f"cannot read samples from {type(dataset).__name__}: give a pair of tensors "
            "(inputs, classes), a TensorDataset, or a data set whose items are (input, class)"
        )
    if samples.targets.dim() != 1 or samples.targets.is_floating_point():
        raise DataError(
            f"class numbers must be integers of shape (N,), got {samples.targets.dtype} "
            f"of shape {tuple(samples.targets.shape)}"
        )
    return samples


@dataclass(frozen=True)
class _KeptSamples(TensorSamples):
    """The items of a data set, read once.

    Attributes:
        notes: what a reader of their rows should know.
    """

    notes: tuple[str, ...] = ()


def _listed(dataset: Any, groups: Mapping[str, Sequence[int]]) -> Samples:
    """Read every item once; where they fit they are kept, so that all rows see one draw."""
    budget = default_budget(torch.device("cpu")) // 2  # stacked, they are there twice
    targets: list[int] = []
    kept: list[Tensor] | None = []
    with random_state(None):
        for index in range(len(dataset)):
            values, label = dataset[index]
            targets.append(int(label))
            kept = _with(kept, values, budget)
    classes = torch.tensor(targets)
    if not kept:
        return _ListedSamples(dataset, classes, groups)
    few = range(min(_READ_AGAIN, len(kept)))
    with random_state(OTHER_SEED):
        again = [torch.as_tensor(dataset[index][0]) for index in few]
    fixed = all(torch.equal(kept[index], again[index]) for index in few)
    if not fixed:
        log.warning("%s", FROZEN)
    return _KeptSamples(torch.stack(kept), classes, groups, () if fixed else (FROZEN,))


def _with(kept: list[Tensor] | None, values: Any, budget: int) -> list[Tensor] | None:
    """The kept items and one more; None where they do not fit, or not together."""
    if kept is None:
        return None
    try:
        value = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):  # told when the inputs are asked for
        return None
    each = value.numel() * value.element_size()
    if (kept and kept[0].shape != value.shape) or (len(kept) + 1) * each > budget:
        return None
    kept.append(value)
    return kept


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
    """Samples a forward pass where nobody says.

    On CUDA a row of up to 512 samples in one batch can be recorded and replayed, and larger batches
    wait less for launches.
    """
    return 2048 if device.type == "cuda" else 256


@dataclass(frozen=True)
class SampleBatches:
    """Batches of chosen samples, made anew at each pass, in order; of shared ones, this rank's.

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
        """Who shares the samples."""
        return ranks_of(self.samples)

    @property
    def fixed(self) -> bool:
        """Whether every pass gives the same by construction."""
        samples = self.samples.samples if isinstance(self.samples, SharedSamples) else self.samples
        return bool(getattr(samples, "fixed", False))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of their rows should know."""
        return tuple(getattr(self.samples, "notes", ()))

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        mine = self.ranks.slice(self.indices)
        for part in torch.split(mine, self.batch_size) if len(mine) else ():
            yield self.samples.inputs(part), self.samples.targets[part]
