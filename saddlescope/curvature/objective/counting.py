"""How many samples a batch holds, what its mean is divided by, and how it is divided."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from saddlescope.curvature.objective.batches import (
    batch_length,
    is_named_tuple,
    is_words,
    map_tensors,
)
from saddlescope.errors import DataError


def pair(batch: Any) -> tuple[Any, Any]:
    """Return the inputs and the targets of a batch.

    Raises:
        DataError: it is no pair.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise DataError(
            f"a batch must be a pair (inputs, targets), not {type(batch).__name__}"
            + (f" of {len(batch)}" if isinstance(batch, tuple | list | dict) else "")
            + "; batches of another kind go with a loss of your own, BatchLoss(function)"
        )
    return batch[0], batch[1]


def batch_count(batch: Any, *, whole: bool) -> int:
    """Count the samples of a batch; of one that is no pair, the rows of its first tensor, or 1."""
    if not whole:
        return sample_count(*pair(batch))
    length = batch_length(batch)
    return 1 if length is None else length


def sample_count(inputs: Any, targets: Any) -> int:
    """Count the samples that inputs and targets agree on.

    A tensor has one row a sample, also within a tuple, a mapping or a dataclass. Targets may be a
    list or tuple of one item a sample too (ragged ones); the items of inputs are arguments.

    Raises:
        DataError: they agree on none, or on several.
    """
    if isinstance(targets, Tensor) and targets.dim() > 0:
        return len(targets)
    of_inputs, of_targets = _possible(inputs), _possible(targets, items=True)
    if of_targets is None:
        counts = of_inputs
    elif of_inputs is None:
        counts = of_targets
    else:
        counts = of_inputs & of_targets
    if counts is not None and len(counts) == 1:
        return next(iter(counts))
    raise DataError(
        f"how many samples a batch holds cannot be told: its inputs have {_words(of_inputs)} rows "
        f"and its targets {_words(of_targets)}; say it with BatchLoss(function, "
        "weight=lambda batch: ...)"
    )


def _possible(value: Any, *, items: bool = False) -> set[int] | None:
    """Numbers of samples that a structure may hold; None where it says nothing.

    Args:
        value: the structure.
        items: whether it may hold one item a sample, instead of tensors of one row a sample.
    """
    if isinstance(value, Tensor):
        return {len(value)} if value.dim() > 0 else None
    lengths = [found for item in _items(value) if (found := _possible(item)) is not None]
    common = set.intersection(*lengths) if lengths else None
    if items and isinstance(value, list | tuple) and not is_named_tuple(value):
        return (common or set()) | {len(value)}
    return common


def _items(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple):
        return list(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    return []


def _words(counts: set[int] | None) -> str:
    return "no" if not counts else " or ".join(map(str, sorted(counts)))


def evenly(n: int, count: int) -> Tensor:
    """Return positions of at most so many samples, all over n of them."""
    count = min(n, count)
    return torch.arange(count) * (n - 1) // max(count - 1, 1)


def divided(batch: Any, count: int, size: int, *, whole: bool = False) -> Iterator[Any]:
    """Yield a batch in parts of at most `size` samples.

    Args:
        batch: (inputs, targets), or with `whole` anything; `divisible`.
        count: its number of samples.
        size: of a part.
        whole: whether it is not a pair.
    """
    for first in range(0, count, size):
        yield chosen(batch, count, range(first, min(first + size, count)), whole=whole)


def chosen(batch: Any, count: int, rows: Sequence[int], *, whole: bool = False) -> Any:
    """Return some samples of a batch, as a batch; a range of them without a copy.

    Args:
        batch: see `divided`.
        count: its number of samples.
        rows: which.
        whole: see `divided`.
    """
    parts = [_taken(part, count, rows, items=items) for part, items in _parts(batch, whole=whole)]
    return parts[0] if whole else tuple(parts)


def divisible(batch: Any, count: int, *, whole: bool = False) -> bool:
    """Return whether it is clear how to divide a batch; see `divided`."""
    return count > 0 and all(
        part is None or has_rows(part, count) != (items and _has_items(part, count))
        for part, items in _parts(batch, whole=whole)
    )


def _parts(batch: Any, *, whole: bool) -> list[tuple[Any, bool]]:
    """A batch's parts, and whether each may hold one item a sample; see `_possible`."""
    if whole:
        return [(batch, False)]
    inputs, targets = pair(batch)
    return [(inputs, False), (targets, True)]


def _taken(value: Any, count: int, rows: Sequence[int], *, items: bool) -> Any:
    if items and not has_rows(value, count) and value is not None:
        return type(value)(value[row] for row in rows)
    if isinstance(rows, range):
        return map_tensors(
            value,
            lambda tensor: tensor[rows.start : rows.stop],
            words=lambda column: column[rows.start : rows.stop],
        )
    return map_tensors(
        value,
        lambda tensor: tensor[torch.as_tensor(rows, device=tensor.device)],
        words=lambda column: type(column)(column[row] for row in rows),
    )


def _has_items(value: Any, count: int) -> bool:
    """Whether it is a list or tuple with one item a sample, each with tensors."""
    return (
        isinstance(value, list | tuple)
        and not is_named_tuple(value)
        and len(value) == count
        and all(_items(item) or isinstance(item, Tensor) for item in value)
    )


def has_rows(value: Any, count: int) -> bool:
    """Tell whether all in it is tensors with one row a sample, or texts: one each, or of all."""
    if isinstance(value, Tensor):
        return value.dim() > 0 and len(value) == count
    if isinstance(value, str):
        return True
    if is_words(value):
        return len(value) == count
    items = _items(value)
    return bool(items) and all(has_rows(item, count) for item in items)


def batch_weight(criterion: Any, targets: Any, count: int, reduction: str) -> float:
    """Return what the criterion's mean over this batch was divided by.

    A mean of means weighted by this is the mean over all samples, for ragged batches, ignored
    targets and class weights alike (`torch.nn.CrossEntropyLoss` divides by the sum of the
    weights of the targets it counts).
    """
    if reduction != "mean" or getattr(criterion, "reduction", None) != "mean":
        return float(count)  # what it does not reduce itself is averaged over the samples
    if not isinstance(targets, Tensor):
        return float(count)
    if not targets.is_floating_point():
        counted = targets[targets != getattr(criterion, "ignore_index", -100)]
        weight = getattr(criterion, "weight", None)
        if isinstance(weight, Tensor):
            return float(weight.detach().double().cpu()[counted.cpu()].sum())
        return float(counted.numel())
    if isinstance(criterion, nn.CrossEntropyLoss):  # of probabilities, shape (N, C, …)
        return float(targets.numel() / targets.shape[1]) if targets.dim() > 1 else float(count)
    return float(targets.numel())
