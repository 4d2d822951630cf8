"""Shared among the references: what they answer, and plain double backward in float64."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from saddlescope.curvature.objective import BatchLoss, map_tensors
from saddlescope.errors import UsageError


@dataclass(frozen=True)
class Reference:
    """Tell what a tool says of both ends of a spectrum.

    Attributes:
        tool: its name.
        lambda_max: largest eigenvalue; None if this tool does not give it.
        lambda_min: smallest eigenvalue; None if this tool does not give it.
        error: an eigenvalue lies this near to each of them: the residual of its eigenvector, or
            the rounding of the dense eigenvalues.
        products: Hessian-vector products used (of a dense Hessian, its rows).
        seconds: wall clock.
        note: what a reader of the numbers must know.
    """

    tool: str
    lambda_max: float | None
    lambda_min: float | None
    error: float
    products: int
    seconds: float
    note: str = ""


class PlainHessian:
    """Map v ↦ H·v of a mean loss over one batch: plain double backward in float64, nothing else.

    Args:
        model: any module; it is copied.
        criterion: `criterion(outputs, targets)`, or a `BatchLoss`.
        batch: (inputs, targets), or whatever the `BatchLoss` reads.

    Attributes:
        size: n.
        products: products so far.

    Raises:
        UsageError: the model cannot be copied to float64, or does not run in it.
    """

    def __init__(self, model: nn.Module, criterion: Any, batch: Any) -> None:
        try:
            self.model = copy.deepcopy(model).double()
            self.parameters = [p for p in self.model.parameters() if p.requires_grad]
            self.device = self.parameters[0].device
            with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
                loss = _mean_loss(self.model, *in_double(criterion, batch, self.device))
                parts = torch.autograd.grad(
                    loss, self.parameters, create_graph=True, materialize_grads=True
                )
        except (RuntimeError, TypeError, NotImplementedError) as error:
            reason = str(error).partition("\n")[0]
            raise UsageError(
                f"no float64 copy of {type(model).__name__} to compare with: {reason}"
            ) from error
        self._gradient = torch.cat([part.reshape(-1) for part in parts])
        self.size = len(self._gradient)
        self.products = 0

    def __call__(self, vector: Tensor) -> Tensor:
        """H·v for v of shape (n,); float64, shape (n,)."""
        self.products += 1
        parts = torch.autograd.grad(
            self._gradient,
            self.parameters,
            grad_outputs=vector.to(self._gradient),
            retain_graph=True,
            materialize_grads=True,
        )
        return torch.cat([part.reshape(-1) for part in parts])

    def residual(self, value: float, vector: Tensor) -> float:
        """Return ‖H·x − θ·x‖ for x of any length, scaled to one."""
        unit = vector.to(self._gradient) / torch.linalg.vector_norm(vector.to(self._gradient))
        return float(torch.linalg.vector_norm(self(unit) - value * unit))


def in_double(criterion: Any, batch: Any, device: torch.device) -> tuple[Any, Any]:
    """Convert a criterion and a batch for a float64 model on this device."""
    if isinstance(criterion, BatchLoss):
        criterion = criterion.double()
    elif isinstance(criterion, nn.Module):
        criterion = copy.deepcopy(criterion).double()

    def convert(tensor: Tensor) -> Tensor:
        moved = tensor.detach().to(device)
        moved = moved.double() if moved.is_floating_point() else moved
        return moved.requires_grad_(tensor.requires_grad)

    return criterion, map_tensors(batch, convert)


def _mean_loss(model: nn.Module, criterion: Any, batch: Any) -> Tensor:
    if isinstance(criterion, BatchLoss):
        return criterion(model, batch)
    inputs, targets = batch
    if isinstance(inputs, Mapping):
        outputs = model(**inputs)
    else:
        outputs = model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)
    loss: Tensor = criterion(outputs, targets)
    return loss.mean()
