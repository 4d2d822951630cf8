"""How many training images each class has, as people hold it: a list, an array, a Counter."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from saddlescope.errors import UsageError


def class_counts(counts: Any) -> list[int]:
    """Images of each class, in the order of the class numbers.

    Args:
        counts: a sequence, a numpy array or a tensor of C numbers (`bincount`); or a mapping or a
            pandas Series from the class numbers 0 to C − 1 to them (`Counter`, `value_counts`),
            in any order.

    Raises:
        UsageError: no order of the classes can be told, a class is missing or empty, or a count is
            no whole number.
    """
    if hasattr(counts, "to_dict"):  # a Series: by its index, not by its order
        counts = counts.to_dict()
    if isinstance(counts, Mapping):
        missing = sorted(set(range(len(counts))) - set(counts))
        if missing:
            odd = next(iter(set(counts) - set(range(len(counts)))))
            raise UsageError(
                f"counts by class have none for class {missing[0]}, but one for {odd!r}: expected "
                f"the class numbers 0 to {len(counts) - 1}, each with at least 1 training image"
            )
        values: Iterable[Any] = [counts[number] for number in range(len(counts))]
    elif hasattr(counts, "tolist"):
        values = counts.tolist()
    elif isinstance(counts, Sequence) and not isinstance(counts, str):
        values = counts
    else:
        raise UsageError(
            f"counts are a {type(counts).__name__}, which has no order of the classes: give a "
            "list, an array, or a mapping from class numbers"
        )
    if not isinstance(values, list | tuple):
        values = list(values) if isinstance(values, Iterable) else [values]
    return [_whole(value, number) for number, value in enumerate(values)]


def _whole(value: Any, number: int) -> int:
    try:
        whole = int(value)
    except (TypeError, ValueError, OverflowError):
        whole = -1
    if whole < 0 or whole != value:
        raise UsageError(
            f"count of class {number} is {value!r}: expected a whole number of training images, "
            "not a share"
        )
    return whole
