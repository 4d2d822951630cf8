"""Which samples a row is about: single classes, and groups of any kind, by name."""

import operator
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from saddlescope.curvature.objective.batched import BatchedSamples
from saddlescope.curvature.objective.grouping import (
    Groups,
    groupings,
    label_batch,
    told_by_samples,
)
from saddlescope.curvature.objective.samples import Samples, batch_of, class_numbers
from saddlescope.curvature.objective.sources import FROZEN
from saddlescope.errors import DataError, UsageError
from saddlescope.wording import ranges


@dataclass(frozen=True)
class Subset:
    """Say which samples a row is about: all of the given classes, or those at some positions.

    Attributes:
        name: of the row.
        kind: "group" or "class".
        classes: class numbers; None takes every sample, or those of `positions`.
        positions: in the data, int64, ascending; None where the classes say it.
    """

    name: str
    kind: Literal["group", "class"]
    classes: tuple[int, ...] | None
    positions: Tensor | None = field(default=None, compare=False, repr=False)

    @property
    def members(self) -> str:
        """Return a checksum of the positions; empty where the classes say it."""
        if self.positions is None:
            return ""
        return f"{zlib.crc32(self.positions.numpy().tobytes()):08x}"


def select_subsets(
    samples: Samples,
    *,
    classes: Literal["all", "none"] | Sequence[int] = "all",
    groups: Groups = ("all",),
) -> list[Subset]:
    """Name the rows of a table: groups first, then classes.

    Args:
        samples: the data set, read by `as_samples` for these groups.
        classes: class numbers, "all" (every class that has samples) or "none".
        groups: see `Grouping`.

    Raises:
        UsageError: a group the data set does not define, or two of one name.
        DataError: a class or group asked for that has no samples, or targets that are no classes.
    """
    known = dict(getattr(samples, "groups", {}))
    chosen: list[Subset] = []
    for group in groupings(groups):
        if group == "all":
            chosen.append(Subset("all", "group", None))
        elif isinstance(group, Mapping):
            if isinstance(samples, BatchedSamples) and FROZEN in samples.notes:
                raise UsageError(
                    "groups by position need data in one order, and these came in another when "
                    "they were read again: switch shuffling off"
                )
            chosen += [
                _at_positions(name, where, len(samples.targets)) for name, where in group.items()
            ]
        elif isinstance(group, str) and group in known:
            numbers = tuple(int(c) for c in known[group])
            if not set(numbers) & set(class_numbers(samples).tolist()):
                raise DataError(f"group {group!r} has no samples in this split: leave it out")
            chosen.append(Subset(group, "group", numbers))
        else:
            chosen += _by_label(_labels(samples, group, known))
    if not isinstance(classes, str) or classes != "none":
        present = sorted(set(class_numbers(samples).tolist()))
        for number in _numbers(classes, present):
            if number not in present:
                raise DataError(
                    f"class {number} has no samples in this split "
                    f"(classes with samples: {ranges(present)})"
                )
            chosen.append(Subset(str(number), "class", (number,)))
    if not chosen:
        raise UsageError("nothing to measure: no class and no group was asked for")
    names = [subset.name for subset in chosen if subset.kind == "group"]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"two groups are called {twice!r}: rows are known by their names")
    return chosen


def _numbers(classes: Any, present: list[int]) -> list[int]:
    """The class numbers that a caller gave, each once, or all that there are."""
    try:
        if isinstance(classes, str):
            return {"all": present}[classes]
        return list(dict.fromkeys(operator.index(number) for number in classes))
    except (TypeError, KeyError):
        raise UsageError(
            f"classes = {classes!r}: expected 'all', 'none', or class numbers such as [0, 3]"
        ) from None


def _labels(samples: Samples, group: Any, known: Mapping[str, Any]) -> list[str | None]:
    """The group of each sample by a key or a function."""
    read = getattr(samples, "labels", {})
    if group in read:
        labels: list[str | None] = read[group]
        return labels
    if isinstance(group, str):
        names = ", ".join(["all", *(name for name in known if name != "all")])
        raise UsageError(f"group {group!r} is not defined by this data set (it has: {names})")
    told = told_by_samples(group, {})
    for position in range(len(samples.targets)):
        sample = batch_of(samples, torch.tensor([position]))
        label_batch(told, sample, 1, whole=not isinstance(sample, tuple))
    return told[group]


def _by_label(labels: list[str | None]) -> list[Subset]:
    """One group a name; numbers in their order, then texts in theirs."""
    names = {name for name in labels if name is not None}

    def order(name: str) -> tuple[bool, int, str]:
        number = name.lstrip("-").isdecimal()
        return not number, int(name) if number else 0, name

    return [
        Subset(
            name,
            "group",
            None,
            torch.tensor([at for at, label in enumerate(labels) if label == name]),
        )
        for name in sorted(names, key=order)
    ]


def _at_positions(name: str, where: Sequence[int], count: int) -> Subset:
    positions = torch.as_tensor(where)
    if positions.dtype == torch.bool and positions.shape == (count,):
        positions = positions.nonzero().squeeze(1)
    if positions.dim() != 1 or positions.dtype in (torch.bool, torch.float32, torch.float64):
        if positions.numel() == 0:
            raise DataError(f"group {name!r} has no samples: leave it out")
        raise UsageError(f"group {name!r}: expected positions of samples, whole numbers")
    positions = positions.to("cpu", torch.int64).sort().values
    if len(positions) == 0:
        raise DataError(f"group {name!r} has no samples: leave it out")
    if int(positions[0]) < 0 or int(positions[-1]) >= count:
        wrong = int(positions[0]) if int(positions[0]) < 0 else int(positions[-1])
        raise DataError(f"group {name!r}: there is no sample {wrong}: the data have {count}")
    if bool((positions[1:] == positions[:-1]).any()):
        raise UsageError(f"group {name!r} names a sample twice")
    return Subset(str(name), "group", None, positions)


def count_samples(samples: Samples, subset: Subset) -> int:
    """Count the samples that a row is about."""
    return len(subset_indices(samples, subset))


def subset_indices(samples: Samples, subset: Subset) -> torch.Tensor:
    """Return the positions of a subset's samples, int64, on the CPU."""
    if subset.positions is not None:
        return subset.positions
    if subset.classes is None:
        return torch.arange(len(samples.targets))
    wanted = torch.tensor(subset.classes)
    return torch.isin(class_numbers(samples).cpu(), wanted).nonzero().squeeze(1)
