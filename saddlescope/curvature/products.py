"""Hessian-vector products of an objective, batch by batch, kept in memory while they fit.

A *linearisation* of a batch holds what does not change from product to product. Applying it
costs 2 gradients by operation count; making it anew each time costs one more. One budget
decides: the first batches whose linearisations fit are retained, the rest are streamed.

Two ways to linearise, of equal value and different cost:

- double backward: the gradient with its graph, differentiated again (any model);
- traced: forward over reverse, recorded once for a whole job (`tracing`).
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

from saddlescope.curvature.objective import Batch, Objective
from saddlescope.curvature.state import exact_arithmetic, untouched
from saddlescope.curvature.tracing import TracedProgram
from saddlescope.errors import OperatorError

RETAINED_COST = 2.0
"""Gradients a product, by operation count."""

STREAMED_COST = 3.0
"""The same, and the linearisation made anew."""


class Linearisation(Protocol):
    """What is kept of one batch.

    Attributes:
        loss: the batch's term of L(w), a scalar tensor.
        gradient: its gradient, a tensor or None (no dependence) a parameter.
        nbytes: memory it keeps alive.
    """

    loss: Tensor
    gradient: list[Tensor | None]
    nbytes: int

    def apply(self, parts: list[Tensor]) -> list[Tensor | None]:
        """The batch's term of the product, a tensor or None (zero) a parameter."""


Lineariser = Callable[[Objective, Batch], Linearisation]


class HessianProducts:
    """v ↦ ∇²L(w)·v for an objective, with the gradient and the loss as by-products.

    Args:
        objective: what to differentiate.
        memory_budget: bytes that linearisations may occupy; 0 streams everything.
        linearise: how a batch is linearised.

    Attributes:
        loss: L(w).
        gradient: ∇L(w), shape (n,).
        retained: share of the objective whose linearisation is kept, in [0, 1].
        nbytes: what is kept.
    """

    def __init__(self, objective: Objective, *, memory_budget: int, linearise: Lineariser) -> None:
        self.objective = objective
        self._linearise = linearise
        self._kept: list[Linearisation] = []
        self.nbytes = 0
        vector = objective.vector
        gradient = torch.zeros(vector.size, dtype=vector.dtype, device=vector.device)
        loss = torch.zeros((), dtype=torch.float64, device=vector.device)
        kept = total = 0.0
        full = memory_budget <= 0
        with untouched(objective.model), exact_arithmetic(), torch.enable_grad():
            for batch in objective.batches():
                made = linearise(objective, batch)
                loss += made.loss.detach()
                gradient += vector.flatten([g if g is None else g.detach() for g in made.gradient])
                full = full or self.nbytes + made.nbytes > memory_budget
                if not full:
                    self._kept.append(made)
                    self.nbytes += made.nbytes
                    kept += batch.share
                total += batch.share
                del made  # before the next one is made, so that two never stand side by side
        self.retained = kept / total
        self.loss, self.gradient = objective.with_penalty(loss.item(), gradient)
        self._versions = [parameter._version for parameter in vector.tensors]

    @property
    def cost(self) -> float:
        """Gradients a product, by operation count."""
        return RETAINED_COST * self.retained + STREAMED_COST * (1.0 - self.retained)

    def __call__(self, vector: Tensor) -> Tensor:
        """∇²L(w)·v for v of shape (n,)."""
        parameters = self.objective.vector
        if [parameter._version for parameter in parameters.tensors] != self._versions:
            raise OperatorError(
                "the model's parameters changed after the operator was built; build it anew"
            )
        parts = parameters.split(vector)
        total = vector * self.objective.weight_decay
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
        return total


class DoubleBackward:
    """The gradient of a batch with its graph; a product differentiates it once more."""

    def __init__(self, objective: Objective, batch: Batch) -> None:
        meter = _Meter()
        self._parameters = objective.vector.tensors
        with torch.autograd.graph.saved_tensors_hooks(meter.pack, meter.unpack):
            self.loss = objective.batch_loss(batch)
            if not self.loss.requires_grad:
                raise OperatorError(
                    "the loss does not depend on the parameters (no graph): is the model wrapped "
                    "in no_grad, or its output detached?"
                )
            self.gradient: list[Tensor | None] = list(
                torch.autograd.grad(
                    self.loss, self._parameters, create_graph=True, allow_unused=True
                )
            )
        self.nbytes = meter.bytes

    def apply(self, parts: list[Tensor]) -> list[Tensor | None]:
        """See `Linearisation`."""
        # A gradient without a graph is constant in w (a linear last layer's bias under a linear
        # loss, an unused parameter): it contributes nothing.
        live = [
            (gradient, part)
            for gradient, part in zip(self.gradient, parts, strict=True)
            if gradient is not None and gradient.requires_grad
        ]
        if not live:
            return [None] * len(parts)
        return list(
            torch.autograd.grad(
                [gradient for gradient, _ in live],
                self._parameters,
                grad_outputs=[part for _, part in live],
                retain_graph=True,
                allow_unused=True,
            )
        )


class Traced:
    """The primal half of a traced program for one batch; a product runs the tangent half."""

    def __init__(self, program: TracedProgram, objective: Objective, batch: Batch) -> None:
        self._program, self._share = program, batch.share
        value, gradient, self._values = program.linearise(
            objective.vector, objective.model, batch.inputs, batch.targets
        )
        self.loss = value * batch.share
        self.gradient: list[Tensor | None] = [g * batch.share for g in gradient]
        self.nbytes = storage_bytes(self._values)

    def apply(self, parts: list[Tensor]) -> list[Tensor | None]:
        """See `Linearisation`."""
        return [part * self._share for part in self._program.product(self._values, parts)]


def storage_bytes(values: Iterable[Any]) -> int:
    """Bytes behind the tensors among `values`, each storage once."""
    storages = {
        value.untyped_storage().data_ptr(): value.untyped_storage().nbytes()
        for value in values
        if isinstance(value, Tensor)
    }
    return sum(storages.values())


class _Meter:
    """Counts the bytes a graph keeps alive, each storage once, parameters and all."""

    def __init__(self) -> None:
        self.bytes = 0
        self._seen: set[int] = set()

    def pack(self, tensor: Tensor) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor

    @staticmethod
    def unpack(tensor: Any) -> Any:
        return tensor
