"""Dense matrices and all their eigenvalues (LAPACK): certain, for few parameters."""

import time
from typing import Any

import torch
from torch import Tensor, nn

from saddlescope.curvature.operators import SymmetricOperator
from saddlescope.curvature.reference.plain import PlainHessian, Reference
from saddlescope.errors import UsageError
from saddlescope.stages import counted

DENSE_LIMIT = 3000
"""Parameters up to which a dense Hessian is made unless another limit is given: 72 MB, minutes."""


def dense_matrix(operator: SymmetricOperator) -> Tensor:
    """Return the operator as a matrix, column by column: shape (n, n). For small n only."""
    identity = torch.eye(operator.size, dtype=operator.dtype, device=operator.device)
    return torch.stack([operator.matvec(column) for column in identity], dim=1)


def dense_hessian(
    model: nn.Module, criterion: Any, batch: Any, *, limit: int = DENSE_LIMIT
) -> Tensor:
    """Return the Hessian of a mean loss over one batch, row by row in float64: shape (n, n).

    Args:
        model: see `PlainHessian`.
        criterion: see `PlainHessian`.
        batch: see `PlainHessian`.
        limit: most parameters.

    Raises:
        UsageError: more parameters than `limit`; see also `PlainHessian`.
    """
    size = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if size > limit:
        raise UsageError(
            f"{size:,} parameters: a dense Hessian would take {8 * size**2 / 2**30:.3g} GiB and "
            f"{size:,} products; it is made up to {limit:,}"
        )
    product = PlainHessian(model, criterion, batch)
    identity = torch.eye(size, dtype=torch.float64, device=product.device)
    matrix = torch.stack([product(row) for row in counted("row", identity)])
    return 0.5 * (matrix + matrix.T)


def dense_reference(
    model: nn.Module, criterion: Any, batch: Any, *, limit: int = DENSE_LIMIT
) -> Reference:
    """Take both ends from all eigenvalues of the dense Hessian.

    Raises:
        UsageError: see `dense_hessian`.
    """
    began = time.perf_counter()
    values = torch.linalg.eigvalsh(dense_hessian(model, criterion, batch, limit=limit))
    error = len(values) * torch.finfo(values.dtype).eps * float(values.abs().max())
    return Reference(
        tool="dense",
        lambda_max=float(values[-1]),
        lambda_min=float(values[0]),
        error=error,
        products=len(values),
        seconds=time.perf_counter() - began,
    )
