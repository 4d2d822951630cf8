"""A statement of the paper as an object: what it assumes, what it concludes, by how much it holds.

An instance is a set of named arrays; a statement makes instances out of points of the unit cube, so
that the same map serves sampling and the search for counterexamples, and judges many of them at
once.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from saddlescope.stages import counted

Array = npt.NDArray[np.float64]
Shape = Mapping[str, int]
Instances = Mapping[str, Array]

BATCH = 2000
"""Instances judged at once; they share a shape."""


@dataclass(frozen=True)
class Judgement:
    """Judgement of N instances.

    Attributes:
        hypothesis: where it is met, bool, shape (N,).
        slack: by how much the conclusion holds, in units of its own, shape (N,); negative where it
            does not.
        notes: what else is true, by name, bool, shape (N,).
    """

    hypothesis: npt.NDArray[np.bool_]
    slack: Array
    notes: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)


@dataclass(frozen=True)
class Statement:
    """One variant of a statement.

    Attributes:
        key: such as "theorem1".
        variant: "as printed", or what was changed.
        says: hypothesis and conclusion in one line.
        draw_shape: numbers that all instances of a batch share, such as the dimension.
        unknowns: coordinates of the unit cube for a shape.
        decode: points of the cube, shape (N, unknowns), to instances, each array with N first.
        judge: the verdicts.
        expected: whether it is known to be true; None where nothing can meet the hypothesis.
    """

    key: str
    variant: str
    says: str
    draw_shape: Callable[[np.random.Generator], Shape]
    unknowns: Callable[[Shape], int]
    decode: Callable[[Array, Shape], Instances]
    judge: Callable[[Instances, Shape], Judgement]
    expected: bool | None = True


@dataclass(frozen=True)
class Tally:
    """Count of many trials of a statement.

    Attributes:
        statement, variant: which.
        trials: instances tried.
        hypothesis_met: those that met it.
        violations: of them, those whose conclusion is false.
        min_slack: the smallest slack of them; None where there is none.
        worst: the instance with it, as plain data.
        notes: how many of them each note is true of.
        seconds: of computing.
    """

    statement: str
    variant: str
    trials: int
    hypothesis_met: int
    violations: int
    min_slack: float | None
    worst: dict[str, Any] | None
    notes: dict[str, int]
    seconds: float

    def row(self) -> dict[str, Any]:
        """Return the tally as plain data."""
        return dict(self.__dict__)


def check(statement: Statement, *, trials: int, seed: int = 0) -> Tally:
    """Try a statement on random instances.

    Args:
        statement: which.
        trials: instances in all.
        seed: of the instances.
    """
    generator = np.random.default_rng(seed)
    began = time.perf_counter()
    met = violations = 0
    least, worst = np.inf, None
    notes: dict[str, int] = {}
    for done in counted(statement.key, range(0, trials, BATCH), text=lambda n: f"{n:,} trials"):
        size = min(BATCH, trials - done)
        shape = statement.draw_shape(generator)
        instances = statement.decode(generator.random((size, statement.unknowns(shape))), shape)
        found = statement.judge(instances, shape)
        meets = found.hypothesis
        met += int(meets.sum())
        violations += int((meets & (found.slack < 0)).sum())
        for name, true in found.notes.items():
            notes[name] = notes.get(name, 0) + int((meets & true).sum())
        slack = np.where(meets, found.slack, np.inf)
        index = int(slack.argmin())
        if slack[index] < least:
            least, worst = float(slack[index]), plain(instances, index, shape)
    return Tally(
        statement=statement.key,
        variant=statement.variant,
        trials=trials,
        hypothesis_met=met,
        violations=violations,
        min_slack=least if met else None,
        worst=worst,
        notes=notes,
        seconds=time.perf_counter() - began,
    )


def plain(instances: Instances, index: int, shape: Shape) -> dict[str, Any]:
    """Write one instance as numbers and lists, with its shape."""
    return {**shape} | {name: values[index].tolist() for name, values in instances.items()}


def from_plain(content: Mapping[str, Any], shape: Shape) -> Instances:
    """Read the instance that `plain` wrote, as a batch of one."""
    return {
        name: np.asarray([value], dtype=np.float64)
        for name, value in content.items()
        if name not in shape
    }
