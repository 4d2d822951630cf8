"""A data set as the instrument sees it: inputs by index, and one class number a sample."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from saddlescope.errors import DataError, UsageError


@runtime_checkable
class Samples(Protocol):
    """What `class_spectra` needs of a data set.

    A `groups` attribute, if there is one, maps group names ("head") to class numbers.
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
        targets = torch.tensor([int(dataset[index][1]) for index in range(len(dataset))])
        samples = _ListedSamples(dataset, targets, groups)
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


@dataclass(frozen=True)
class SampleBatches:
    """Batches of chosen samples, made anew at each pass, in order.

    Attributes:
        samples: where they come from.
        indices: which, int64, shape (n,).
        batch_size: samples a batch; the last one is ragged.
    """

    samples: Samples
    indices: Tensor
    batch_size: int

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        for part in torch.split(self.indices, self.batch_size):
            yield self.samples.inputs(part), self.samples.targets[part]
