"""Groups of samples: by name, by a key of the batch, by a function of a sample, by positions.

Tables, the monitor and the command line take the same `Groups`. Where a key or a function says to
which group a sample belongs, that is told while the data are read.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from saddlescope.curvature.objective.batches import is_words
from saddlescope.curvature.objective.counting import chosen
from saddlescope.errors import DataError, SaddlescopeError, UsageError

Grouping = str | Callable[[Any], Any] | Mapping[str, Sequence[int]]
"""One way to group samples.

- "all", or a name that the data set's `groups` maps to class numbers: one group.
- Another text: a key of batches or items that are mappings. Each value is a group; the model is not
  given this key.
- A function of a sample (an item of a data set; of batches, a batch of this one sample): what it
  returns, a text or a whole number, names the sample's group; None puts it in none.
- A mapping from names to positions in the data.
"""

Groups = Grouping | Sequence[Grouping]
Labels = dict[Any, list[str | None]]
"""Of groupings by key or function: the group of each sample, by position."""


def groupings(groups: Groups) -> tuple[Grouping, ...]:
    """Return one or several ways to group as a tuple."""
    if isinstance(groups, str | Mapping) or callable(groups):
        return (groups,)
    return tuple(groups)


def told_by_samples(groups: Groups, named: Mapping[str, Any]) -> Labels:
    """Return a list to fill for each grouping that is a key or a function.

    Args:
        groups: all that are asked for.
        named: names that stand for classes.
    """
    return {
        one: []
        for one in groupings(groups)
        if not isinstance(one, Mapping) and one != "all" and one not in named
    }


def without_keys(inputs: Any, labels: Labels) -> Any:
    """Return inputs without the keys that samples are grouped by."""
    if isinstance(inputs, Mapping) and any(key in labels for key in inputs):
        return {key: value for key, value in inputs.items() if key not in labels}
    return inputs


def label_item(labels: Labels, item: Any, inputs: Any) -> None:
    """Add the group of a sample to each list.

    Args:
        labels: of the samples before it.
        item: what a function is called on.
        inputs: where a key may stand too.

    Raises:
        UsageError: there is no such key, the function fails, or what it returns names no group.
    """
    for one, names in labels.items():
        if isinstance(one, str):
            names.append(_name(_under(one, item, inputs), f"the key {one!r}"))
            continue
        called = f"the grouping {getattr(one, '__name__', type(one).__name__)}"
        try:
            value = one(item)
        except SaddlescopeError:
            raise
        except Exception as error:
            raise UsageError(
                f"{called} failed on a sample: {type(error).__name__}: {error}"
            ) from error
        names.append(_name(value, called))


def label_batch(labels: Labels, batch: Any, count: int, *, whole: bool) -> None:
    """Add the groups of a batch's samples to each list; see `label_item`.

    Args:
        labels: of the samples before them.
        batch: as its source gave it.
        count: its number of samples.
        whole: whether it is not a pair.
    """
    inputs = batch if whole else batch[0]
    for one, names in labels.items():
        if not isinstance(one, str):
            for row in range(count):
                sample = chosen(batch, count, range(row, row + 1), whole=whole)
                label_item({one: names}, sample, None)
            continue
        column = _under(one, batch, inputs)
        if isinstance(column, str) or not (is_words(column) or isinstance(column, Tensor)):
            names += [_name(column, f"the key {one!r}")] * count
        elif len(column) == count:
            names += [_name(value, f"the key {one!r}") for value in column]
        else:
            raise DataError(f"the key {one!r} has {len(column)} values for {count} samples")


def _under(key: str, *places: Any) -> Any:
    for place in places:
        if isinstance(place, Mapping) and key in place:
            return place[key]
    known = [str(name) for place in places if isinstance(place, Mapping) for name in place]
    raise UsageError(
        f"group {key!r} is neither defined by this data set nor a key of its samples "
        f"({', '.join(dict.fromkeys(known)) or 'they have none'})"
    )


def _name(value: Any, origin: str) -> str | None:
    """A group's name: a text, or a whole number as one."""
    if value is None or isinstance(value, str):
        return value
    try:
        number = int(value)
        if number == value:
            return str(number)
    except (TypeError, ValueError, RuntimeError):
        pass
    raise UsageError(
        f"{origin} gave a {type(value).__name__} for a sample: expected the name of its group, a "
        "text or a whole number (None for no group)"
    )
