"""The generalised Gauss-Newton matrix G = Σ_i Jᵢᵀ·∇²ℓᵢ·Jᵢ of an objective, matrix-free.

Source: Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent",
Neural Computation 14 (2002). J is the Jacobian of the model's outputs z in w, ∇²ℓ the Hessian of
the criterion in z. H − G = Σ_i Σ_k ∂ℓᵢ/∂z_k·∇²z_k; where ℓ is convex in z (cross-entropy) G is
positive semidefinite, so negative curvature of H comes from that remainder alone.

J·v is taken by two backward sweeps (Jᵀu is linear in u, and its transpose is J), which needs no
forward-mode rule of any layer. The first of them is the gradient's own sweep, which is retained.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten  # as torch.func does

from saddlescope.curvature.memory import metered
from saddlescope.curvature.objective import Batch, BatchLoss, Criterion, Objective, strided
from saddlescope.curvature.operators.hessian import ObjectiveOperator
from saddlescope.curvature.products import Lineariser, differentiable_loss, pull_back
from saddlescope.errors import UsageError


class GaussNewtonOperator(ObjectiveOperator):
    """Multiply with G = Σ_b share_b·Jᵀ·∇²ℓ·J (+ weight_decay·I), reduced as `Objective` reduces.

    The outputs are all floating-point tensors the model returns (tuples and dicts included),
    taken as independent of one another. What a criterion reads from the parameters themselves
    is not seen.

    Args:
        model, criterion, batches, parameters, weight_decay, reduction, memory_budget: see
            `HessianOperator`; `programs` would not be used.

    Attributes:
        loss: L(w).
        gradient: ∇L(w), shape (n,).

    Raises:
        OperatorError: a layer in train mode makes the loss random or batch-dependent, or the
            loss, the gradient or a parameter is NaN or Inf.
        UsageError: a `BatchLoss`, of which outputs and criterion cannot be told apart.
        UsageError, DataError: see `Objective`.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 2).double().eval()
        >>> data = [(torch.randn(5, 3).double(), torch.tensor([0, 1, 1, 0, 1]))]
        >>> G = GaussNewtonOperator(model, torch.nn.CrossEntropyLoss(), data)
        >>> G.size, G.matvec(torch.ones(8).double()).shape
        (8, torch.Size([8]))
    """

    def _lineariser(self) -> Lineariser:
        if isinstance(self.objective.criterion, BatchLoss):
            raise UsageError(
                "the Gauss-Newton matrix needs the model's outputs apart from the criterion: give "
                "criterion(outputs, targets) and batches (inputs, targets), not a BatchLoss"
            )
        return GaussNewtonBatch


class GaussNewtonBatch:
    """Hold the graphs of one or more batches: w → z, z → ∂ℓ/∂z and u → Jᵀu, run by each product.

    z is cut from w before the criterion reads it, so that outputs that depend on one another
    (logits and their softmax) enter ∇²ℓ as independent.
    """

    joins: ClassVar[bool] = True
    retained_cost: ClassVar[float] = 4.0 / 3.0  # J·v and Jᵀ·u, two thirds each
    streamed_cost: ClassVar[float] = 7.0 / 3.0
    exact = False

    def __init__(self, objective: Objective, *batches: Batch) -> None:
        self._parameters = objective.vector.tensors

        def differentiate() -> list[Tensor]:
            cut = _Cut(objective.criterion)
            self.loss = differentiable_loss(objective, *batches, criterion=cut)
            self._outputs, self._leaves = cut.outputs, cut.leaves
            self._slopes = torch.autograd.grad(  # ∂ℓ/∂z; None where ℓ does not read an output
                self.loss, self._leaves, create_graph=True, allow_unused=True
            )
            # Linear in u, so the graph of Jᵀu is the same anywhere: at ∂ℓ/∂z it is the gradient.
            self._seeds = [
                (torch.zeros_like(z) if slope is None else slope.detach()).requires_grad_()
                for z, slope in zip(self._outputs, self._slopes, strict=True)
            ]
            gradient = torch.autograd.grad(
                self._outputs, self._parameters, self._seeds, create_graph=True, allow_unused=True
            )
            self.gradient: list[Tensor | None] = [g if g is None else strided(g) for g in gradient]
            made = (self.loss, *self._outputs, *self._slopes, *self.gradient)
            return [tensor for tensor in made if tensor is not None]

        self.nbytes = metered(differentiate)

    def apply(self, parts: list[Tensor]) -> list[Tensor | None]:
        """See `Linearisation`."""
        tangents = pull_back(self.gradient, self._seeds, parts)  # J·v
        cotangents = pull_back(self._slopes, self._leaves, tangents)  # ∇²ℓ·J·v
        return pull_back(self._outputs, self._parameters, cotangents)


class _Cut:
    """A criterion that cuts the graph between the model's outputs and itself."""

    def __init__(self, criterion: Criterion) -> None:
        self.criterion = criterion
        self.outputs: list[Tensor] = []
        self.leaves: list[Tensor] = []

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        flat, structure = tree_flatten(outputs)
        live = [i for i, z in enumerate(flat) if isinstance(z, Tensor) and z.requires_grad]
        self.outputs += [flat[index] for index in live]
        for index in live:
            flat[index] = flat[index].detach().requires_grad_()
            self.leaves.append(flat[index])
        return self.criterion(tree_unflatten(flat, structure), targets)
