"""How many samples a batch holds, what its mean is divided by, and how it is divided."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from saddlescope.curvature.objective.batches import is_named_tuple, map_tensors
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


def _divider(value: Any, count: int, *, items: bool) -> Callable[[int, int], Any] | None:
    """How to take some samples of a structure: (first, number) -> part; None where it is unclear.

    Args:
        value: inputs, targets or a whole batch.
        count: its number of samples.
        items: see `_possible`.
    """
    if value is None:
        return lambda *_: None
    columns = _has_rows(value, count)
    each = (
        items
        and isinstance(value, list | tuple)
        and not is_named_tuple(value)
        and len(value) == count
        and all(_items(item) or isinstance(item, Tensor) for item in value)
    )
    if columns == each:
        return None
    if columns:
        return lambda first, number: map_tensors(value, lambda t: t[first : first + number])
    return lambda first, number: value[first : first + number]


def _has_rows(value: Any, count: int) -> bool:
    """Whether everything in it is a tensor with one row a sample."""
    if isinstance(value, Tensor):
        return value.dim() > 0 and len(value) == count
    items = _items(value)
    return bool(items) and all(_has_rows(item, count) for item in items)


def divided(batch: Any, count: int, size: int, *, whole: bool = False) -> Iterator[Any]:
    """Yield a batch in parts of at most `size` samples.

    Args:
        batch: (inputs, targets), or with `whole` anything; `divisible`.
        count: its number of samples.
        size: of a part.
        whole: whether it is not a pair.
    """
    takes = _dividers(batch, count, whole=whole)
    for first in range(0, count, size):
        parts = [take(first, size) for take in takes if take is not None]
        yield parts[0] if whole else tuple(parts)


def divisible(batch: Any, count: int, *, whole: bool = False) -> bool:
    """Return whether it is clear how to divide a batch; see `divided`."""
    return count > 0 and all(_dividers(batch, count, whole=whole))


def _dividers(batch: Any, count: int, *, whole: bool) -> list[Callable[[int, int], Any] | None]:
    if whole:
        return [_divider(batch, count, items=False)]
    inputs, targets = pair(batch)
    return [_divider(inputs, count, items=False), _divider(targets, count, items=True)]


def batch_weight(criterion: Any, targets: Any, count: int, reduction: str) -> float:
    """Return what the criterion's mean over this batch was divided by.

    A mean of means weighted by this is the mean over all samples, for ragged batches, ignored
    targets and class weights alike (`torch.nn.CrossEntropyLoss` divides by the sum of the
    weights of the targets it counts).
    """
    if reduction != "mean" or getattr(criterion, "reduction", None) is None:
        return float(count)
    if not isinstance(targets, Tensor):
        return float(count)
    if not targets.is_floating_point():
        counted = targets[targets != getattr(criterion, "ignore_index", -100)]
        weight = getattr(criterion, "weight", None)
        if isinstance(weight, Tensor):
            return float(weight.detach().double().cpu()[counted.cpu()].sum())
        return float(counted.numel())
    if not isinstance(criterion, nn.CrossEntropyLoss):
        return float(targets.numel())
    return float(count)
