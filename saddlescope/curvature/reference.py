"""Slow and certain: dense matrices, and PyHessian's answer, to compare the instrument with."""

from typing import Any

import torch
from torch import Tensor, nn

from saddlescope.curvature.operators import SymmetricOperator


def dense_matrix(operator: SymmetricOperator) -> Tensor:
    """The operator as a matrix, column by column: shape (n, n). For small n only."""
    identity = torch.eye(operator.size, dtype=operator.dtype, device=operator.device)
    return torch.stack([operator.matvec(column) for column in identity], dim=1)


def pyhessian_lambda_max(
    model: nn.Module, criterion: Any, inputs: Tensor, targets: Tensor, *, tol: float = 1e-3
) -> float:
    """The eigenvalue of largest magnitude according to PyHessian's power iteration.

    PyHessian (Yao et al., 2020) offers no λ_min; this is the one number of it to compare with.
    """
    from pyhessian import hessian

    computer = hessian(model, criterion, data=(inputs, targets), cuda=inputs.is_cuda)
    values, _ = computer.eigenvalues(maxIter=500, tol=tol, top_n=1)
    model.zero_grad(set_to_none=True)
    return float(values[0])
