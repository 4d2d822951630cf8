"""Tell what work on a batch allocates: recorded for two and for three samples, told for any number.

Everything an operator allocates is affine in the number of samples it evaluates together, at every
moment of its work: parameter-sized tensors do not grow, activations grow in proportion. So the work
is done on two and on three samples while every storage is counted, and the two records, moment by
moment, are extrapolated to a whole batch (not their peaks: with few samples the peak lies where
parameters are handled, with many where activations are).

Counted is what torch operations return. A library's scratch memory inside one operation, and what
an allocator holds back, are not.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from saddlescope.curvature.memory import LiveMeter
from saddlescope.curvature.operators import HessianOperator

SIZES = (2, 3)
"""Numbers of samples that work is recorded for."""


@dataclass(frozen=True)
class Phase:
    """Hold the bytes alive during one piece of work, as an affine function of the samples.

    Attributes:
        records: bytes after each operation, of each of the sizes, shape (2, operations).
    """

    records: np.ndarray

    def at(self, samples: int) -> np.ndarray:
        """Return the bytes after each operation with this many samples, shape (operations,)."""
        small, large = self.records
        return np.asarray(small + (large - small) * (samples - SIZES[0]))

    def peak(self, samples: int) -> int:
        """Return the most bytes at any moment."""
        return int(self.at(samples).max())

    def end(self, samples: int) -> int:
        """Return the bytes that remain."""
        return int(self.at(samples)[-1])


@dataclass(frozen=True)
class Precision:
    """Tell what an operator does in one precision, on one batch.

    Attributes:
        build: linearising and retaining it; in the reference, with the copy of the model.
        apply: a product while it is retained.
        counted: bytes that the budget counts for it, of each of the sizes.
        fixed: bytes that `build` leaves behind once, not once a batch: the gradient and a copy of
            the model.
        vector: bytes of the gradient.
        joins: see `Linearisation`.
    """

    build: Phase
    apply: Phase
    counted: tuple[int, int]
    fixed: int
    vector: int
    joins: bool

    def hold(self, sizes: list[int], budget: float) -> "Held":
        """Go through batches of these sizes as `BatchProducts` does."""
        joined = 1
        if self.joins:
            room = budget * sizes[0] / self._counts(sizes[0])
            joined = max(1, sum(total <= room for total in itertools.accumulate(sizes)))
        groups = [sizes[:joined], *([size] for size in sizes[joined:])]
        counted = retained = built = 0
        kept: list[list[int]] = []
        for group in groups:
            built = max(built, retained + self._built_peak(group))
            counted += self._counts(sum(group))
            if counted > budget:
                break
            kept.append(group)
            retained += self.build.end(sum(group)) - self.fixed
        streamed = [size for group in groups[len(kept) :] for size in group]
        built = max([built, *(retained + self.build.peak(size) for size in set(streamed))])
        product = max(
            [self.apply.peak(size) for group in kept for size in group]
            + [self._streamed_peak(size) for size in set(streamed)]
        )
        # Each term is added to a sum, unless it is the only one.
        product += self.vector if len(sizes) > 1 else 0
        sums = [sum(group) for group in kept]
        left = max(0.0, budget - sum(map(self._counts, sums)))
        return Held(sum(sums) / sum(sizes), retained, built, product, left)

    def _counts(self, size: int) -> int:
        small, large = self.counted
        return small + (large - small) * (size - SIZES[0])

    def _built_peak(self, group: list[int]) -> int:
        """Of batches that are linearised as one: they are gone through one after the other."""
        largest = max(group)
        return self.build.end(sum(group)) + self.build.peak(largest) - self.build.end(largest)

    def _streamed_peak(self, size: int) -> int:
        """Of a product that linearises a batch anew, and keeps no gradient."""
        anew = max(self.build.peak(size), self.build.end(size) + self.apply.peak(size))
        return anew - self.fixed


@dataclass(frozen=True)
class Held:
    """Tell what becomes of a row's batches: share and bytes retained, peaks of build and product.

    `left` is what remains of the budget.
    """

    share: float
    retained: int
    built: int
    product: int
    left: float


@dataclass(frozen=True)
class Records:
    """Hold what one batch size shows.

    Attributes:
        build: bytes alive after each operation while the operator is built, what remains last.
        apply: the same of a product.
        counted: bytes that the budget counts.
        joins: see `Linearisation`.
    """

    build: list[int]
    apply: list[int]
    counted: int
    joins: bool

    @classmethod
    def of(cls, operator: HessianOperator, build: list[int]) -> Self:
        """Record a product of an operator at hand, beside what was recorded of its building."""
        vector = torch.ones(operator.size, dtype=operator.dtype, device=operator.device)
        _, apply = recorded(lambda: operator.matvec(vector))
        return cls(build, apply, operator.products.nbytes, operator.products.joins)


def recorded(work: Callable[[], Any]) -> tuple[Any, list[int]]:
    """Do some work; return its result and the bytes alive after each operation, the rest last."""
    meter = LiveMeter()
    with meter:
        result = work()
    return result, [*meter.record, meter.live]


def affine(records: list[Records], *, copy: int, vector: int) -> Precision:
    """Draw the line through the records of both sizes.

    Args:
        records: one for each of `SIZES`.
        copy: bytes of the model's copy, if there is one.
        vector: bytes of the gradient.
    """
    one, two = records
    return Precision(
        _phase(one.build, two.build),
        _phase(one.apply, two.apply),
        (one.counted, two.counted),
        copy + vector,
        vector,
        one.joins,
    )


def _phase(small: list[int], large: list[int]) -> Phase:
    if len(small) != len(large):  # a model that does other things with more samples: its peaks
        small, large = [max(small), small[-1]], [max(large), large[-1]]
    return Phase(np.array([small, large]))
