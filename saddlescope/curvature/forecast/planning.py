"""The memory that a row will take, predicted from a few samples.

What the work on a batch allocates is told by `allocations`; how many batches are retained, and how
many vectors the basis holds, follows from the budgets by the same rules as in the row itself.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from saddlescope.curvature.forecast.allocations import SIZES, Precision, Records, affine, recorded
from saddlescope.curvature.memory import FREE_SHARE, available_bytes, basis_capacity
from saddlescope.curvature.objective import BatchLoss, Criterion, as_samples, batch_of
from saddlescope.curvature.operators import HessianOperator
from saddlescope.curvature.products import TYPICAL_PRODUCTS, Programs, checked_samples
from saddlescope.stopping import StopRule


@dataclass(frozen=True)
class MemoryPlan:
    """Hold the bytes that a row is predicted to take beside the model and the data.

    Attributes:
        basis: the Krylov basis. On a CPU, the vectors that are written to: pages that nothing was
            written to take no memory.
        retained: linearisations kept from product to product.
        work: most beside these two while the operator is built and products are taken.
        reference: the same while the rounding is measured against float64.
        vectors: vectors that the basis may hold, the residual's included; with more products than
            that it is restarted.
        kept: share of the samples whose linearisation is retained.
    """

    basis: int
    retained: int
    work: int
    reference: int
    vectors: int
    kept: float

    @property
    def peak(self) -> int:
        """Return the most bytes at any moment."""
        return self.basis + self.retained + max(self.work, self.reference)


@dataclass(frozen=True)
class Footprint:
    """Tell what a Hessian's products take, by sample; see `measure_footprint`.

    Attributes:
        size: n, number of parameters.
        dtype: of the products.
        device: where they are computed.
        working: in the working precision.
        reference: in float64; None where that is the working precision, or the model cannot be
            copied into it.
        exact: see `Linearisation.exact`.
    """

    size: int
    dtype: torch.dtype
    device: torch.device
    working: Precision
    reference: Precision | None
    exact: bool

    def plan(
        self,
        samples: int,
        *,
        batch_size: int = 256,
        memory_budget: int | None = None,
        basis_memory: int | None = None,
        max_matvecs: int = StopRule.max_matvecs,
        products: int = TYPICAL_PRODUCTS,
    ) -> MemoryPlan:
        """Predict the memory of a row.

        Args:
            samples: of the row.
            batch_size: samples a forward pass.
            memory_budget: see `HessianOperator`.
            basis_memory: see `Search`.
            max_matvecs: see `StopRule`.
            products: that the row is expected to take.

        Raises:
            UsageError: the smallest basis does not fit.
        """
        free = available_bytes(self.device)
        vector = self.size * self.dtype.itemsize
        host = self.device.type == "cpu"
        sizes = _batch_sizes(samples, batch_size)
        budget = FREE_SHARE * free if memory_budget is None else memory_budget
        held = self.working.hold(sizes, budget)
        left = max(free - held.retained - 2 * vector, 0)
        capacity = basis_capacity(
            self.size,
            self.dtype,
            self.device,
            wanted=max_matvecs,
            memory=int(FREE_SHARE * left) if basis_memory is None else basis_memory,
        )
        basis = vector * (1 + (min(capacity, products) if host else capacity))
        # The gradient, and the start vector, which is kept in float64 on the host.
        beside = vector + (8 * self.size if host else 0)
        left = max(left - basis, 0)
        return MemoryPlan(
            basis=basis,
            retained=held.retained,
            work=max(beside + held.product, held.built - basis - held.retained),
            reference=beside + self._reference_bytes(sizes, held.left, left),
            vectors=capacity + 1,
            kept=held.share,
        )

    def _reference_bytes(self, sizes: list[int], budget: float, free: float) -> int:
        """What `product_error` takes at most, with this left of the budget and of the memory."""
        if self.reference is None:
            return 0
        vector = self.size * self.dtype.itemsize
        beside = 2 * vector  # the vector it is measured on, and its product
        share = checked_samples(sum(sizes), exact=self.exact) / sum(sizes)
        if share < 1.0:
            sizes = [max(1, math.ceil(share * size)) for size in sizes]
            few = self.working.hold(sizes, budget)
            # An operator of its own, with a gradient, which lives as long as the reference does.
            beside += few.retained + vector
            before = max(few.built - few.retained - vector, few.product)
            budget, free = few.left, free - few.retained
        else:
            before = 0
        held = self.reference.hold(sizes, min(budget, FREE_SHARE * max(free, 0)))
        product = self.reference.fixed + held.retained + 8 * self.size + held.product
        return beside + max(before, held.built, product)


def measure_footprint(
    model: nn.Module, criterion: Criterion, dataset: Any, *, programs: Programs | None = None
) -> Footprint:
    """Do a row's work on two and three samples and count what it allocates.

    Args:
        model: in eval mode, on the device to compute on.
        criterion: see `Objective`.
        dataset: see `as_samples`; its first sample stands for all.
        programs: see `HessianOperator`; traces once if it has not.

    Raises:
        UsageError, DataError, OperatorError: see `HessianOperator`.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 2).eval()
        >>> data = (torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1]))
        >>> plan = measure_footprint(model, torch.nn.CrossEntropyLoss(), data).plan(5, products=4)
        >>> plan.basis  # 5 vectors of 8 parameters of 4 bytes
        160
    """
    samples = as_samples(dataset, whole=isinstance(criterion, BatchLoss))

    def make(count: int) -> HessianOperator:
        first = torch.zeros(count, dtype=torch.int64)
        batch = batch_of(samples, first)
        return HessianOperator(model, criterion, [batch], memory_budget=1 << 62, programs=programs)

    make(1)  # traces, if that is to be done
    working, reference = [], []
    for count in SIZES:
        operator, build = recorded(partial(make, count))
        working.append(Records.of(operator, build))
        if operator.dtype != torch.float64:
            exact, build = recorded(operator.reference)
            if exact is not None:
                reference.append(Records.of(exact, build))
    vector = operator.size * operator.dtype.itemsize
    return Footprint(
        operator.size,
        operator.dtype,
        operator.device,
        affine(working, copy=0, vector=vector),
        affine(reference, copy=_bytes_in_double(model), vector=8 * operator.size)
        if reference
        else None,
        operator.products.exact,
    )


def _bytes_in_double(model: nn.Module) -> int:
    """Of a copy of the model."""
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}.values()
    return sum(t.numel() * (8 if t.is_floating_point() else t.element_size()) for t in tensors)


def _batch_sizes(samples: int, batch_size: int) -> list[int]:
    whole, rest = divmod(samples, batch_size)
    return [batch_size] * whole + ([rest] if rest else [])
