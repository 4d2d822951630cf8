"""Hessian-vector products by double backward: graphs kept while they fit, rebuilt where not.

Keeping the graph of the gradient leaves 2 gradients' worth of arithmetic a product; building
it anew costs one more. One budget decides, batch by batch: the first batches whose graphs fit
are retained, the rest are streamed.
"""

from typing import Any

import torch
from torch import Tensor

from saddlescope.curvature.objective import Batch, Objective
from saddlescope.curvature.state import exact_arithmetic, untouched
from saddlescope.errors import OperatorError

RETAINED_COST = 2.0  # gradients a product, by operation count: two backward-sized sweeps
STREAMED_COST = 3.0  # the same, and the gradient itself


class DoubleBackward:
    """v ↦ ∇²L(w)·v for an objective, with the gradient and the loss as by-products.

    Args:
        objective: what to differentiate.
        memory_budget: bytes that retained graphs may occupy; 0 streams everything.

    Attributes:
        loss: L(w).
        gradient: ∇L(w), shape (n,).
        retained: share of the samples whose graph is kept, in [0, 1].
    """

    def __init__(self, objective: Objective, *, memory_budget: int) -> None:
        self.objective = objective
        self._graphs: list[list[Tensor | None]] = []
        vector = objective.vector
        gradient = torch.zeros(vector.size, dtype=vector.dtype, device=vector.device)
        loss, used, kept, total = 0.0, 0, 0.0, 0.0
        full = memory_budget <= 0
        with untouched(objective.model), exact_arithmetic(), torch.enable_grad():
            for batch in objective.batches():
                meter = _Meter()
                with torch.autograd.graph.saved_tensors_hooks(meter.pack, meter.unpack):
                    value, gradients = self._differentiate(batch, create_graph=not full)
                used += meter.bytes
                full = full or used > memory_budget
                if not full:
                    self._graphs.append(gradients)
                    kept += batch.share
                total += batch.share
                loss += value
                gradient += vector.flatten([None if g is None else g.detach() for g in gradients])
        self.retained = kept / total
        self.loss, self.gradient = objective.with_penalty(loss, gradient)
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
        for gradients in self._graphs:
            total += self._apply(gradients, parts, retain=True)
        if self.retained < 1.0:
            with untouched(self.objective.model), exact_arithmetic(), torch.enable_grad():
                for index, batch in enumerate(self.objective.batches()):
                    if index >= len(self._graphs):
                        _, gradients = self._differentiate(batch, create_graph=True)
                        total += self._apply(gradients, parts, retain=False)
        return total

    def _differentiate(
        self, batch: Batch, *, create_graph: bool
    ) -> tuple[float, list[Tensor | None]]:
        loss = self.objective.batch_loss(batch)
        if not loss.requires_grad:
            raise OperatorError(
                "the loss does not depend on the parameters (no graph): is the model wrapped in "
                "no_grad, or its output detached?"
            )
        gradients = torch.autograd.grad(
            loss, self.objective.vector.tensors, create_graph=create_graph, allow_unused=True
        )
        return loss.item(), list(gradients)

    def _apply(
        self, gradients: list[Tensor | None], parts: list[Tensor], *, retain: bool
    ) -> Tensor:
        # A gradient without a graph is constant in w (a linear last layer's bias under a linear
        # loss, an unused parameter): it contributes nothing.
        live = [
            (gradient, part)
            for gradient, part in zip(gradients, parts, strict=True)
            if gradient is not None and gradient.requires_grad
        ]
        parameters = self.objective.vector
        if not live:
            return torch.zeros(parameters.size, dtype=parameters.dtype, device=parameters.device)
        with exact_arithmetic():
            products = torch.autograd.grad(
                [gradient for gradient, _ in live],
                parameters.tensors,
                grad_outputs=[part for _, part in live],
                retain_graph=retain,
                allow_unused=True,
            )
        return parameters.flatten(products)


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
