"""Linearisations of a batch: what does not change from product to product.

Kept, a linearisation makes each product cheaper than one made anew. Two ways to linearise the
gradient, for Hessian-vector products, of equal value and different cost:

- double backward: the gradient with its graph, differentiated again (any model);
- traced: forward over reverse, recorded once for a whole job (`tracing`).

A third, for the Gauss-Newton matrix, is in `gauss_newton`.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from saddlescope.curvature.memory import metered, storage_bytes
from saddlescope.curvature.objective import Batch, Criterion, Objective, strided
from saddlescope.curvature.products.convolutions import TwiceDifferentiable
from saddlescope.curvature.products.tracing import TracedProgram
from saddlescope.errors import OperatorError


class Linearisation(Protocol):
    """Keep of one batch what does not change from product to product.

    Attributes:
        retained_cost: gradients a product, by operation count, while it is kept.
        streamed_cost: the same where it is made anew for each product.
        loss: the batch's term of L(w), a scalar tensor.
        gradient: its gradient, a tensor or None (no dependence) a parameter.
        nbytes: memory it keeps alive.
        exact: whether its branches (the signs of ReLU inputs) are those of a float64 forward pass.
        joins: whether it can be made of several batches at once: `type(made)(objective, *batches)`.
    """

    joins: ClassVar[bool]
    retained_cost: ClassVar[float]
    streamed_cost: ClassVar[float]
    exact: bool
    loss: Tensor
    gradient: list[Tensor | None]
    nbytes: int

    def apply(self, parts: list[Tensor]) -> list[Tensor | None]:
        """Return the batch's term of the product, a tensor or None (zero) a parameter."""


Lineariser = Callable[[Objective, Batch], Linearisation]


class DoubleBackward:
    """Keep the gradient of a batch with its graph; a product differentiates it once more.

    Of several batches it is one gradient and one graph: what is as large as the weights (the
    gradient, folded layers) is there once, and not once a batch.
    """

    joins: ClassVar[bool] = True
    retained_cost: ClassVar[float] = 2.0
    streamed_cost: ClassVar[float] = 3.0
    exact = False

    def __init__(self, objective: Objective, *batches: Batch) -> None:
        self._parameters = objective.vector.tensors

        def differentiate() -> list[Tensor]:
            # The forward pass decides which functions are on the tape, so here and not in `apply`.
            with TwiceDifferentiable():
                self.loss = differentiable_loss(objective, *batches)
            try:
                gradient = torch.autograd.grad(
                    self.loss, self._parameters, create_graph=True, allow_unused=True
                )
            except RuntimeError as error:
                if "use_reentrant=True" not in str(error):
                    raise
                raise OperatorError(
                    "torch.utils.checkpoint(..., use_reentrant=True) cannot be differentiated "
                    "twice: call it with use_reentrant=False"
                ) from error
            self.gradient: list[Tensor | None] = [g if g is None else strided(g) for g in gradient]
            return [self.loss, *(g for g in self.gradient if g is not None)]

        self.nbytes = metered(differentiate)
        if all(part is None for part in self.gradient):
            raise OperatorError(
                "the loss depends on none of the parameters: does it call another model than the "
                "one it is given, or do the chosen parameters take no part?"
            )

    def apply(self, parts: list[Tensor]) -> list[Tensor | None]:
        """See `Linearisation`."""
        return pull_back(self.gradient, self._parameters, parts)


class Traced:
    """Run the primal half of a traced program for one batch; a product runs the tangent half.

    Args:
        program: the recording.
        objective: whose batch it is.
        batch: one of its batches.
        exact: take the branches of a float64 forward pass; see `TracedProgram`.
    """

    joins: ClassVar[bool] = False
    retained_cost: ClassVar[float] = 2.0
    streamed_cost: ClassVar[float] = 3.0

    def __init__(
        self,
        program: TracedProgram,
        objective: Objective,
        batch: Batch,
        *,
        exact: bool = False,
    ) -> None:
        self._program, self.exact = program, exact
        inputs, targets, count = batch.inputs, batch.targets, len(batch.targets)
        weight = objective.element_weight(batch, program.elements) if program.elements else 1.0
        weights = torch.full(
            (count,), weight, dtype=objective.vector.dtype, device=objective.vector.device
        )
        value, gradient, self._values = program.linearise(
            objective.vector, objective.model, *self._given(inputs, targets, weights), exact=exact
        )
        # A criterion that only tells a mean leaves the batch's share to be applied afterwards.
        self._factor = None if program.elements else batch.share
        self.loss = value * (self._factor or 1.0)
        self.gradient: list[Tensor | None] = list(self._scaled(gradient))
        self.nbytes = storage_bytes(self._values)

    def apply(self, parts: list[Tensor]) -> list[Tensor | None]:
        """See `Linearisation`."""
        return list(self._scaled(self._tangent(parts)))

    def _given(self, inputs: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        """What the primal half is run on."""
        return inputs, targets, weights

    def _tangent(self, parts: list[Tensor]) -> list[Tensor]:
        return self._program.product(self._values, parts)

    def _scaled(self, parts: list[Tensor]) -> list[Tensor]:
        return parts if self._factor is None else [part * self._factor for part in parts]


def differentiable_loss(
    objective: Objective, *batches: Batch, criterion: Criterion | None = None
) -> Tensor:
    """Return the batches' terms of the objective, with their graph, in which layers fold once.

    Raises:
        OperatorError: there is none.
    """
    with objective.folding.shared():
        terms = [objective.batch_loss(batch, criterion=criterion) for batch in batches]
    loss = terms[0] if len(terms) == 1 else torch.stack(terms).sum()
    if not loss.requires_grad:
        raise OperatorError(
            "the loss does not depend on the parameters (no graph): is the model wrapped in "
            "no_grad, or its output detached?"
        )
    return loss


def pull_back(
    values: Sequence[Tensor | None], sources: Sequence[Tensor], weights: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Return Σ_i (∂value_i/∂source)ᵀ·weight_i for each source; None stands for zeros."""
    # A value without a graph is constant (a linear last layer's bias under a linear loss, an
    # unused parameter): it contributes nothing.
    live = [
        (value, weight)
        for value, weight in zip(values, weights, strict=True)
        if value is not None and value.requires_grad and weight is not None
    ]
    if not live:
        return [None] * len(sources)
    found = torch.autograd.grad(
        [value for value, _ in live],
        sources,
        grad_outputs=[weight for _, weight in live],
        retain_graph=True,
        allow_unused=True,
    )
    return [part if part is None else strided(part) for part in found]
