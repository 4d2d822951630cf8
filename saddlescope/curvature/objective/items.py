"""Items of a map-style data set: which part is the class, and several of them as one batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saddlescope.errors import DataError, SaddlescopeError

CLASS_KEYS = ("labels", "label", "target", "targets")
"""Under which an item that is a mapping holds its class, the first that it has."""


def get_item(dataset: Any, index: int) -> Any:
    """Read an item.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return dataset[index]
    except SaddlescopeError:
        raise
    except Exception as error:
        text = str(error).strip().partition("\n")[0]
        raise DataError(
            f"item {index} of {type(dataset).__name__} cannot be read: "
            f"{type(error).__name__}: {text}"
        ) from error


def parted(item: Any, *, name: str) -> tuple[Any, Any]:
    """Return the inputs and the target of an item or of a batch.

    It is a pair (inputs, target), or a mapping with the target under one of `CLASS_KEYS` and the
    model's keyword arguments beside it.

    Args:
        item: the item or batch.
        name: of it, for the error.

    Raises:
        DataError: it is neither.
    """
    if isinstance(item, Mapping):
        key = next((key for key in CLASS_KEYS if key in item), None)
        if key is None:
            raise DataError(
                f"{name} is a mapping of {', '.join(map(str, item))}: its class is expected under "
                f"one of {', '.join(CLASS_KEYS)}"
            )
        return {name: value for name, value in item.items() if name != key}, item[key]
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    what = f" of {len(item)}" if isinstance(item, tuple | list) else ""
    raise DataError(
        f"{name} is a {type(item).__name__}{what}: expected (inputs, class number), or a mapping "
        "with the class under 'labels'"
    )


def class_number(value: Any) -> int | None:
    """Return a class number as int; None of what is none, such as a target of regression."""
    if isinstance(value, float) or "float" in str(getattr(value, "dtype", "")):
        return None  # a loss looks at the type; one of classes would refuse 2.0
    try:
        number = int(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    return number if number == value else None


def collated(values: Sequence[Any], *, what: str = "inputs") -> Any:
    """Join the inputs of several items to one batch: tensors stacked, mappings and tuples kept.

    Raises:
        DataError: their shapes differ, or they are no numbers.
    """
    first = values[0]
    if isinstance(first, Mapping):
        return {key: collated([v[key] for v in values], what=f"{what}[{key!r}]") for key in first}
    if isinstance(first, tuple | list) and any(
        isinstance(part, Tensor | np.ndarray | Mapping) for part in first
    ):
        parts = zip(*values, strict=True)
        return tuple(collated(list(part), what=f"{what}[{i}]") for i, part in enumerate(parts))
    try:
        tensors = [torch.as_tensor(value) for value in values]
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{what} of a data set are {type(first).__name__}: expected tensors, arrays or numbers "
            f"({str(error).partition(chr(10))[0]})"
        ) from None
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1:
        one, two = sorted(shapes)[:2]
        raise DataError(
            f"{what} of a data set have several shapes ({one}, {two}): pad or crop them to one in "
            "the data set, with a mask beside them if the model takes one"
        )
    return torch.stack(tensors)
