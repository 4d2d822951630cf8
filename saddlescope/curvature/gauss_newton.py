"""The generalised Gauss-Newton matrix G = Σ_i Jᵢᵀ·∇²ℓᵢ·Jᵢ of an objective, matrix-free.

Source: Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent",
Neural Computation 14 (2002). J is the Jacobian of the model's outputs z in w, ∇²ℓ the Hessian of
the criterion in z. H − G = Σ_i Σ_k ∂ℓᵢ/∂z_k·∇²z_k; where ℓ is convex in z (cross-entropy) G is
positive semidefinite, so negative curvature of H comes from that remainder alone.

J·v is taken by two backward sweeps (Jᵀu is linear in u, and its transpose is J), which needs no
forward-mode rule of any layer and can be retained from product to product.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten  # as torch.func does

from saddlescope.curvature.memory import default_budget
from saddlescope.curvature.objective import Batch, Criterion, Objective
from saddlescope.curvature.state import exact_arithmetic, refuse_training_mode, untouched
from saddlescope.errors import OperatorError

RETAINED_COST = 4.0 / 3.0  # gradients a product, by operation count: J·v and Jᵀ·, two thirds each
STREAMED_COST = 7.0 / 3.0  # the same, the forward pass and the graph of Jᵀu


class GaussNewtonOperator:
    """G = Σ_b share_b·Jᵀ·∇²ℓ·J (+ weight_decay·I), reduced exactly as `Objective` reduces.

    The outputs are all floating-point tensors the model returns (tuples and dicts included),
    taken as independent of one another. What a criterion reads from the parameters themselves
    is not seen.

    Args:
        model, criterion, batches, parameters, weight_decay, reduction: see `HessianOperator`.
        memory_budget: bytes for retained graphs; None takes a share of what is free.

    Attributes:
        loss: L(w).
        gradient: ∇L(w), shape (n,).
        retained: share of the objective whose graph is kept, in [0, 1].
        gradient_cost: gradients spent so far, by operation count.

    Raises:
        OperatorError: a layer in train mode makes the loss random or batch-dependent, or the
            loss, the gradient or a parameter is NaN or Inf.
        UsageError, DataError: see `Objective`.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Criterion,
        batches: Iterable[Any],
        *,
        parameters: Iterable[str] | str | None = None,
        weight_decay: float = 0.0,
        reduction: str | None = None,
        memory_budget: int | None = None,
    ) -> None:
        refuse_training_mode(model)
        objective = Objective(
            model,
            criterion,
            batches,
            parameters=parameters,
            weight_decay=weight_decay,
            reduction=reduction,
        )
        self._build(objective, memory_budget)

    @classmethod
    def from_objective(
        cls, objective: Objective, *, memory_budget: int | None = None
    ) -> "GaussNewtonOperator":
        """The operator of an objective at hand, for instance `HessianOperator.objective`."""
        refuse_training_mode(objective.model)
        operator = object.__new__(cls)
        operator._build(objective, memory_budget)
        return operator

    def matvec(self, vector: Tensor) -> Tensor:
        """G·v for v of shape (n,)."""
        weights = self.objective.vector
        if [parameter._version for parameter in weights.tensors] != self._versions:
            raise OperatorError(
                "the model's parameters changed after the operator was built; build it anew"
            )
        self.gradient_cost += RETAINED_COST * self.retained + STREAMED_COST * (1 - self.retained)
        parts = weights.split(vector)
        total = vector * self.objective.weight_decay
        with exact_arithmetic():
            for piece in self._pieces:
                total += weights.flatten(piece.product(parts, weights.tensors, retain=True))
        if self.retained < 1.0:
            with untouched(self.objective.model), exact_arithmetic(), torch.enable_grad():
                for index, batch in enumerate(self.objective.batches()):
                    if index >= len(self._pieces):
                        piece = _Piece(self.objective, batch)
                        piece.pull_back(weights.tensors)
                        product = piece.product(parts, weights.tensors, retain=False)
                        total += weights.flatten(product)
        return total

    def reference(self) -> "GaussNewtonOperator | None":
        """The same matrix in float64 on a copy of the model; None where it cannot be copied."""
        if self.dtype == torch.float64:
            return self
        try:
            objective = self.objective.double()
        except (RuntimeError, TypeError, NotImplementedError):
            return None
        return GaussNewtonOperator.from_objective(objective, memory_budget=0)

    def verify(self) -> None:
        """Evaluate the loss again and compare: one fixed matrix needs one fixed loss.

        Raises:
            OperatorError: it differs by more than rounding.
        """
        again = self.objective.loss()
        self.gradient_cost += 1.0 / 3.0
        tolerance = 1e3 * torch.finfo(self.dtype).eps * max(1.0, abs(self.loss))
        if not abs(again - self.loss) <= tolerance:
            raise OperatorError(
                f"the same samples gave the loss {self.loss:.9g} and then {again:.9g}: every "
                "product would belong to another matrix; switch off augmentation, shuffling and "
                "dropout"
            )

    def _build(self, objective: Objective, memory_budget: int | None) -> None:
        weights = objective.vector
        self.objective = objective
        self.size, self.dtype, self.device = weights.size, weights.dtype, weights.device
        budget = default_budget(self.device) if memory_budget is None else memory_budget
        self._pieces: list[_Piece] = []
        gradient = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        loss, used, kept, total, full = 0.0, 0, 0.0, 0.0, budget <= 0
        with untouched(objective.model), exact_arithmetic(), torch.enable_grad():
            for batch in objective.batches():
                meter = _Meter()
                with torch.autograd.graph.saved_tensors_hooks(meter.pack, meter.unpack):
                    piece = _Piece(objective, batch)
                    if not full:
                        piece.pull_back(weights.tensors)
                used += meter.bytes
                full = full or used > budget
                gradient += weights.flatten(piece.gradient(weights.tensors, retain=not full))
                loss += piece.loss
                total += batch.share
                if not full:
                    self._pieces.append(piece)
                    kept += batch.share
        self.retained = kept / total
        self.loss, self.gradient = objective.with_penalty(loss, gradient)
        self._versions = [parameter._version for parameter in weights.tensors]
        self.gradient_cost = 1.0 + 2.0 / 3.0 * self.retained
        for name, tensor in zip(weights.names, weights.tensors, strict=True):
            if not bool(torch.isfinite(tensor).all()):
                raise OperatorError(
                    f"parameter {name} holds NaN or Inf: this checkpoint has diverged"
                )
        if not bool(torch.isfinite(self.gradient).all()) or self.loss - self.loss != 0.0:
            raise OperatorError(
                f"the loss ({self.loss:g}) or its gradient is NaN or Inf at these weights: "
                "check the inputs and the checkpoint"
            )


@dataclass(init=False)
class _Piece:
    """One batch's graphs: w → z, z → ∂ℓ/∂z, and u → Jᵀu.

    Attributes:
        loss: the batch's term of the objective.
        outputs: z, with the graph from w.
        leaves: z again, cut from w, so that outputs that depend on one another (logits and
            their softmax) enter ∇²ℓ as independent.
        slopes: ∂ℓ/∂z, with the graph from the leaves; None where ℓ does not read an output.
        seeds, pullbacks: u, of the outputs' shapes, and Jᵀu, of the parameters' shapes.
    """

    loss: float
    outputs: list[Tensor]
    leaves: list[Tensor]
    slopes: list[Tensor | None]
    seeds: list[Tensor]
    pullbacks: list[Tensor | None]

    def __init__(self, objective: Objective, batch: Batch) -> None:
        cut = _Cut(objective.criterion)
        around = copy.copy(objective)  # the same model, data and reduction
        around.criterion = cut
        loss = around.batch_loss(batch)
        if not loss.requires_grad:
            raise OperatorError(
                "the loss does not depend on the parameters (no graph): is the model wrapped in "
                "no_grad, or its output detached?"
            )
        self.loss, self.outputs, self.leaves = loss.item(), cut.outputs, cut.leaves
        slopes = torch.autograd.grad(loss, self.leaves, create_graph=True, allow_unused=True)
        self.slopes = list(slopes)

    def pull_back(self, weights: tuple[nn.Parameter, ...]) -> None:
        """Build the graph of u ↦ Jᵀu."""
        # Linear in u: at zero its graph is the same as anywhere.
        self.seeds = [torch.zeros_like(output).requires_grad_() for output in self.outputs]
        self.pullbacks = list(
            torch.autograd.grad(
                self.outputs, weights, self.seeds, create_graph=True, allow_unused=True
            )
        )

    def gradient(
        self, weights: tuple[nn.Parameter, ...], *, retain: bool
    ) -> tuple[Tensor | None, ...]:
        """Jᵀ·∂ℓ/∂z."""
        slopes = [None if slope is None else slope.detach() for slope in self.slopes]
        return self._transpose(slopes, weights, retain=retain)

    def product(
        self, parts: list[Tensor], weights: tuple[nn.Parameter, ...], *, retain: bool
    ) -> tuple[Tensor | None, ...]:
        """Jᵀ·∇²ℓ·J·v, v given in the parameters' shapes."""
        pairs = [(p, v) for p, v in zip(self.pullbacks, parts, strict=True) if p is not None]
        if not pairs:
            return (None,) * len(weights)
        tangents = torch.autograd.grad(
            [pullback for pullback, _ in pairs],
            self.seeds,
            [part for _, part in pairs],
            retain_graph=True,  # it shares nodes with the graph of the outputs
            allow_unused=True,
        )
        # A slope without a graph is constant in z (a linear criterion): no curvature.
        curved = [
            (slope, tangent)
            for slope, tangent in zip(self.slopes, tangents, strict=True)
            if slope is not None and slope.requires_grad and tangent is not None
        ]
        if not curved:
            return (None,) * len(weights)
        bent = torch.autograd.grad(
            [slope for slope, _ in curved],
            self.leaves,
            [tangent for _, tangent in curved],
            retain_graph=retain,
            allow_unused=True,
        )
        return self._transpose(bent, weights, retain=retain)

    def _transpose(
        self,
        cotangents: Iterable[Tensor | None],
        weights: tuple[nn.Parameter, ...],
        *,
        retain: bool,
    ) -> tuple[Tensor | None, ...]:
        """Jᵀ·u; None stands for zeros on either side."""
        pairs = [(z, u) for z, u in zip(self.outputs, cotangents, strict=True) if u is not None]
        if not pairs:
            return (None,) * len(weights)
        return torch.autograd.grad(
            [output for output, _ in pairs],
            weights,
            [cotangent for _, cotangent in pairs],
            retain_graph=retain,
            allow_unused=True,
        )


class _Cut:
    """A criterion that cuts the graph between the model's outputs and itself."""

    def __init__(self, criterion: Criterion) -> None:
        self.criterion = criterion
        self.outputs: list[Tensor] = []
        self.leaves: list[Tensor] = []

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        flat, structure = tree_flatten(outputs)
        live = [i for i, z in enumerate(flat) if isinstance(z, Tensor) and z.requires_grad]
        self.outputs = [flat[index] for index in live]
        self.leaves = [output.detach().requires_grad_() for output in self.outputs]
        for index, leaf in zip(live, self.leaves, strict=True):
            flat[index] = leaf
        return self.criterion(tree_unflatten(flat, structure), targets)


class _Meter:
    """Counts the bytes a graph keeps alive, each storage once."""

    def __init__(self) -> None:
        self.bytes = 0
        self._seen: set[int] = set()

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor

    @staticmethod
    def unpack(tensor: Tensor) -> Tensor:
        return tensor
