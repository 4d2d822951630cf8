"""Which samples a row is about: single classes and groups of classes, by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from saddlescope.curvature.objective.samples import Samples
from saddlescope.errors import DataError, UsageError


@dataclass(frozen=True)
class Subset:
    """Say which samples a row is about: all of the given classes.

    Attributes:
        name: of the row.
        kind: "group" or "class".
        classes: class numbers; None takes every sample.
    """

    name: str
    kind: Literal["group", "class"]
    classes: tuple[int, ...] | None


def select_subsets(
    samples: Samples,
    *,
    classes: Literal["all", "none"] | Sequence[int] = "all",
    groups: Sequence[str] = ("all",),
) -> list[Subset]:
    """Name the rows of a table: groups first, then classes.

    Args:
        samples: the data set.
        classes: class numbers, "all" (every class that has samples) or "none".
        groups: "all", or names the data set's `groups` define.

    Raises:
        UsageError: a group the data set does not define.
        DataError: a class or group asked for that has no samples.
    """
    present = sorted(set(samples.targets.tolist()))
    known = dict(getattr(samples, "groups", {}))
    chosen: list[Subset] = []
    for group in groups:
        if group == "all":
            chosen.append(Subset("all", "group", None))
        elif group not in known:
            names = ", ".join(["all", *(name for name in known if name != "all")])
            raise UsageError(f"group {group!r} is not defined by this data set (it has: {names})")
        elif not set(known[group]) & set(present):
            raise DataError(f"group {group!r} has no samples in this split: leave it out")
        else:
            chosen.append(Subset(group, "group", tuple(int(c) for c in known[group])))
    if isinstance(classes, str):
        numbers = present if classes == "all" else []
    else:
        numbers = [int(number) for number in classes]
    for number in numbers:
        if number not in present:
            raise DataError(
                f"class {number} has no samples in this split "
                f"(classes with samples: {_ranges(present)})"
            )
        chosen.append(Subset(str(number), "class", (number,)))
    if not chosen:
        raise UsageError("nothing to measure: no class and no group was asked for")
    return chosen


def count_samples(samples: Samples, subset: Subset) -> int:
    """Count the samples that a row is about."""
    return len(subset_indices(samples, subset))


def subset_indices(samples: Samples, subset: Subset) -> torch.Tensor:
    """Return the positions of a subset's samples, int64, on the CPU."""
    if subset.classes is None:
        return torch.arange(len(samples.targets))
    wanted = torch.tensor(subset.classes)
    return torch.isin(samples.targets.cpu(), wanted).nonzero().squeeze(1)


def _ranges(numbers: Sequence[int]) -> str:
    """[0, 1, 2, 5] as "0-2, 5"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
