"""Slow and certain: dense matrices, and PyHessian's answer, to compare the instrument with."""

import copy
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


def dense_hessian(model: nn.Module, criterion: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The Hessian of a mean loss over one batch, row by row in float64: shape (n, n).

    Shares nothing with the instrument: plain forward pass, plain double backward. For small n only.
    """
    exact = copy.deepcopy(model).double()
    parameters = [p for p in exact.parameters() if p.requires_grad]
    inputs, targets = batch
    loss = criterion(exact(inputs.double()), targets)
    gradient = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
    rows = [
        torch.autograd.grad(entry, parameters, retain_graph=True, materialize_grads=True)
        for entry in torch.cat([part.reshape(-1) for part in gradient])
    ]
    matrix = torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])
    return 0.5 * (matrix + matrix.T)
