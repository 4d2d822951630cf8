"""Products of an objective's curvature matrix, batch by batch, kept in memory while they fit.

A *linearisation* of a batch holds what does not change from product to product, so that applying
it costs less than making it anew each time. One budget decides: the first batches whose
linearisations fit are retained, the rest are streamed. Should memory run out all the same, nothing
is retained from then on; should it run out again, batches are halved, down to single samples. The
sum stays exactly normalised, so this changes numbers by rounding only.

Two ways to linearise the gradient, for Hessian-vector products, of equal value and different cost:

- double backward: the gradient with its graph, differentiated again (any model);
- traced: forward over reverse, recorded once for a whole job (`tracing`).

A third, for the Gauss-Newton matrix, is in `gauss_newton`.
"""

import logging
from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from saddlescope.curvature.memory import (
    StorageMeter,
    available_bytes,
    is_out_of_memory,
    storage_bytes,
)
from saddlescope.curvature.objective import Batch, Criterion, Objective
from saddlescope.curvature.state import exact_arithmetic, untouched
from saddlescope.curvature.tracing import TracedProgram
from saddlescope.errors import MemoryLimitError, OperatorError

log = logging.getLogger("saddlescope.curvature")
_Result = TypeVar("_Result")


class Linearisation(Protocol):
    """What is kept of one batch.

    Attributes:
        retained_cost: gradients a product, by operation count, while it is kept.
        streamed_cost: the same where it is made anew for each product.
        loss: the batch's term of L(w), a scalar tensor.
        gradient: its gradient, a tensor or None (no dependence) a parameter.
        nbytes: memory it keeps alive.
        exact: whether its branches (the signs of ReLU inputs) are those of a float64 forward pass.
    """

    retained_cost: ClassVar[float]
    streamed_cost: ClassVar[float]
    exact: bool
    loss: Tensor
    gradient: list[Tensor | None]
    nbytes: int

    def apply(self, parts: list[Tensor]) -> list[Tensor | None]:
        """The batch's term of the product, a tensor or None (zero) a parameter."""


Lineariser = Callable[[Objective, Batch], Linearisation]


class BatchProducts:
    """v ↦ M·v, the sum of the batches' terms, with the gradient and the loss as by-products.

    Args:
        objective: what to differentiate.
        memory_budget: bytes that linearisations may occupy; 0 streams everything.
        linearise: how a batch is linearised, and so which matrix M is.

    Attributes:
        loss: L(w).
        gradient: ∇L(w), shape (n,).
        retained: share of the objective whose linearisation is kept, in [0, 1].
        nbytes: what is kept.
        cost: gradients a product, by operation count.
        exact: whether every branch is that of a float64 forward pass, see `Linearisation`.
    """

    def __init__(self, objective: Objective, *, memory_budget: int, linearise: Lineariser) -> None:
        self.objective = objective
        self._linearise = linearise
        self._budget = memory_budget
        self._kept: list[Linearisation] = []
        self._within_memory(self._gather)
        self._versions = [parameter._version for parameter in objective.vector.tensors]

    def __call__(self, vector: Tensor) -> Tensor:
        """M·v for v of shape (n,)."""
        parameters = self.objective.vector
        if [parameter._version for parameter in parameters.tensors] != self._versions:
            raise OperatorError(
                "the model's parameters changed after the operator was built; build it anew"
            )
        return self._within_memory(lambda: self._product(vector))

    def loss_again(self) -> float:
        """L(w), by forward passes alone."""
        return self._within_memory(self.objective.loss)

    def _gather(self) -> None:
        """Linearise every batch once: loss, gradient, and what is kept."""
        objective, vector = self.objective, self.objective.vector
        gradient = torch.zeros(vector.size, dtype=vector.dtype, device=vector.device)
        loss = torch.zeros((), dtype=torch.float64, device=vector.device)
        kept = total = cost = streamed = 0.0
        full = self._budget <= 0
        self.nbytes, self.exact = 0, True
        with untouched(objective.model), exact_arithmetic(), torch.enable_grad():
            for batch in objective.batches():
                made = self._linearise(objective, batch)
                loss += made.loss.detach()
                gradient += vector.flatten([g if g is None else g.detach() for g in made.gradient])
                full = full or self.nbytes + made.nbytes > self._budget
                if not full:
                    self._kept.append(made)
                    self.nbytes += made.nbytes
                    kept += batch.share
                total += batch.share
                self.exact = self.exact and made.exact
                cost += batch.share * (made.streamed_cost if full else made.retained_cost)
                streamed += batch.share * made.streamed_cost
                del made  # before the next one is made, so that two never stand side by side
        kept, total, cost, streamed = objective.ranks.totals(kept, total, cost, streamed)
        self.exact = objective.ranks.all(self.exact)
        self.retained, self.cost, self._streamed_cost = kept / total, cost / total, streamed / total
        self.loss, self.gradient = objective.with_penalty(loss.item(), gradient)

    def _product(self, vector: Tensor) -> Tensor:
        parameters = self.objective.vector
        parts = parameters.split(vector)
        # The L2 term once, not once a rank.
        total = vector * (self.objective.weight_decay if self.objective.ranks.rank == 0 else 0.0)
        with exact_arithmetic():
            for made in self._kept:
                total += parameters.flatten(made.apply(parts))
        if self.retained < 1.0:
            with untouched(self.objective.model), exact_arithmetic(), torch.enable_grad():
                for index, batch in enumerate(self.objective.batches()):
                    if index >= len(self._kept):
                        total += parameters.flatten(
                            self._linearise(self.objective, batch).apply(parts)
                        )
        return self.objective.ranks.total(total)

    def _within_memory(self, work: Callable[[], _Result]) -> _Result:
        """Do the work; where memory runs out, do it again with less, as often as it takes."""
        while True:
            try:
                return work()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            # Not inside the handler: there the traceback keeps alive what ran out of memory.
            self._take_less()

    def _take_less(self) -> None:
        """Retain nothing, or, where nothing is retained, halve the batches.

        Raises:
            MemoryLimitError: single samples do not fit either.
        """
        device, held = self.objective.vector.device, bool(self._kept)
        self._kept.clear()
        self._budget = 0
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if held:
            # Unset while the first pass is still under way; that one begins anew.
            self.nbytes, self.retained = 0, 0.0
            self.cost = getattr(self, "_streamed_cost", 0.0)
            log.warning("out of memory: nothing is retained between products from here on")
        elif (chunk := self.objective.halve()) is not None:
            log.warning("out of memory: batches of at most %d samples from here on", chunk)
        else:
            vector = self.objective.vector.size * self.objective.vector.dtype.itemsize
            raise MemoryLimitError(
                f"out of memory on {device} with nothing retained and batches of "
                f"{self.objective.largest} samples that cannot be divided: "
                f"{available_bytes(device) / 2**20:.3g} MiB are free, a vector of the Krylov basis "
                f"takes {vector / 2**20:.3g} MiB; a smaller basis (max_matvecs, basis_memory) "
                "leaves more to a product, as do smaller inputs or fewer parameters"
            )


class DoubleBackward:
    """The gradient of a batch with its graph; a product differentiates it once more."""

    retained_cost: ClassVar[float] = 2.0
    streamed_cost: ClassVar[float] = 3.0
    exact = False

    def __init__(self, objective: Objective, batch: Batch) -> None:
        meter = StorageMeter()
        self._parameters = objective.vector.tensors
        with meter.graph():
            self.loss = differentiable_loss(objective, batch)
            self.gradient: list[Tensor | None] = list(
                torch.autograd.grad(
                    self.loss, self._parameters, create_graph=True, allow_unused=True
                )
            )
        if all(part is None for part in self.gradient):
            raise OperatorError(
                "the loss depends on none of the parameters: does it call another model than the "
                "one it is given, or do the chosen parameters take no part?"
            )
        self.nbytes = meter.nbytes

    def apply(self, parts: list[Tensor]) -> list[Tensor | None]:
        """See `Linearisation`."""
        return pull_back(self.gradient, self._parameters, parts)


class Traced:
    """The primal half of a traced program for one batch; a product runs the tangent half.

    Args:
        program: the recording.
        objective: whose batch it is.
        batch: one of its batches.
        exact: take the branches of a float64 forward pass; see `TracedProgram`.
        size: fill the batch up to this many samples and replay a recording of that size.
    """

    retained_cost: ClassVar[float] = 2.0
    streamed_cost: ClassVar[float] = 3.0

    def __init__(
        self,
        program: TracedProgram,
        objective: Objective,
        batch: Batch,
        *,
        exact: bool = False,
        size: int | None = None,
    ) -> None:
        self._program, self._size, self.exact = program, size, exact
        inputs, targets, count = batch.inputs, batch.targets, len(batch.targets)
        weight = objective.element_weight(batch, program.elements) if program.elements else 1.0
        weights = torch.full(
            (count,), weight, dtype=objective.vector.dtype, device=objective.vector.device
        )
        if size is not None and size > count:
            inputs, targets = _filled(inputs, size), _filled(targets, size)
            weights = torch.cat([weights, weights.new_zeros(size - count)])
        value, gradient, self._values = program.linearise(
            objective.vector, objective.model, inputs, targets, weights, exact=exact
        )
        # A criterion that only tells a mean leaves the batch's share to be applied afterwards.
        self._factor = None if program.elements else batch.share
        self.loss = value * (self._factor or 1.0)
        self.gradient: list[Tensor | None] = list(self._scaled(gradient))
        self.nbytes = storage_bytes(self._values)

    def apply(self, parts: list[Tensor]) -> list[Tensor | None]:
        """See `Linearisation`."""
        if self._size is None:
            return list(self._scaled(self._program.product(self._values, parts)))
        replay = self._program.replay(self._size, self._values, parts)
        return list(self._scaled(replay(self, self._values, parts)))

    def _scaled(self, parts: list[Tensor]) -> list[Tensor]:
        return parts if self._factor is None else [part * self._factor for part in parts]


def _filled(batch: Tensor, size: int) -> Tensor:
    """The batch with its first sample repeated up to a size, in its memory layout."""
    copies = batch[:1].expand(size - len(batch), *batch.shape[1:])
    filled = torch.cat([batch, copies])
    if batch.dim() == 4 and batch.is_contiguous(memory_format=torch.channels_last):
        return filled.contiguous(memory_format=torch.channels_last)
    return filled


def differentiable_loss(
    objective: Objective, batch: Batch, *, criterion: Criterion | None = None
) -> Tensor:
    """The batch's term of the objective, with its graph.

    Raises:
        OperatorError: there is none.
    """
    loss = objective.batch_loss(batch, criterion=criterion)
    if not loss.requires_grad:
        raise OperatorError(
            "the loss does not depend on the parameters (no graph): is the model wrapped in "
            "no_grad, or its output detached?"
        )
    return loss


def pull_back(
    values: Sequence[Tensor | None], sources: Sequence[Tensor], weights: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Σ_i (∂value_i/∂source)ᵀ·weight_i for each source; None stands for zeros on either side."""
    # A value without a graph is constant (a linear last layer's bias under a linear loss, an
    # unused parameter): it contributes nothing.
    live = [
        (value, weight)
        for value, weight in zip(values, weights, strict=True)
        if value is not None and value.requires_grad and weight is not None
    ]
    if not live:
        return [None] * len(sources)
    return list(
        torch.autograd.grad(
            [value for value, _ in live],
            sources,
            grad_outputs=[weight for _, weight in live],
            retain_graph=True,
            allow_unused=True,
        )
    )
