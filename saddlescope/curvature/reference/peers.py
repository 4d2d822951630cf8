"""Both ends, or one, by other people's eigensolvers.

- SciPy's `eigsh`: ARPACK, the implicitly restarted Lanczos method of Lehoucq, Sorensen & Yang
  (ARPACK Users' Guide, 1998), here on plain double backward in float64;
- PyHessian (Yao et al., "PyHessian: Neural networks through the lens of the Hessian", 2020): power
  iteration on its own products. GPL: imported when called, nothing copied.
"""

import copy
import time
import warnings
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from saddlescope.curvature.objective import BatchLoss
from saddlescope.curvature.reference.plain import PlainHessian, Reference, in_double
from saddlescope.errors import UsageError

_KRYLOV_VECTORS = 40


def eigsh_reference(
    model: nn.Module,
    criterion: Any,
    batch: Any,
    *,
    tol: float = 1e-6,
    max_products: int = 2000,
    seed: int = 0,
) -> Reference:
    """Take both ends from SciPy's `eigsh(which="BE")`.

    Args:
        model: see `PlainHessian`.
        criterion: see `PlainHessian`.
        batch: see `PlainHessian`.
        tol: relative accuracy of the eigenvalues at which ARPACK stops.
        max_products: about how many products to give up after.
        seed: of the start vector.

    Raises:
        UsageError: not converged, or fewer than three parameters; see also `PlainHessian`.
    """
    began = time.perf_counter()
    product = PlainHessian(model, criterion, batch)
    if product.size < 3:
        raise UsageError("eigsh needs at least three parameters for two eigenvalues")

    def multiply(vector: np.ndarray) -> np.ndarray:
        return product(torch.as_tensor(vector.reshape(-1))).cpu().numpy()

    width = min(product.size, _KRYLOV_VECTORS)
    matrix: Any = LinearOperator((product.size, product.size), matvec=multiply, dtype=np.float64)
    try:
        values, vectors = eigsh(
            matrix,
            k=2,
            which="BE",
            tol=tol,
            ncv=width,
            v0=np.random.default_rng(seed).standard_normal(product.size),
            maxiter=max(1, max_products // max(1, width - 2)),
        )
    except ArpackNoConvergence:
        raise UsageError(f"eigsh did not converge in {product.products} products") from None
    used = product.products
    residuals = [
        product.residual(float(value), torch.as_tensor(vectors[:, index]))
        for index, value in enumerate(values)
    ]
    return Reference(
        tool="scipy eigsh",
        lambda_max=float(values.max()),
        lambda_min=float(values.min()),
        error=max(residuals),
        products=used,
        seconds=time.perf_counter() - began,
    )


def pyhessian_reference(
    model: nn.Module,
    criterion: Any,
    batch: Any,
    *,
    tol: float = 1e-6,
    max_products: int = 1000,
    seed: int = 0,
) -> Reference:
    """Take the eigenvalue of largest magnitude from PyHessian's power iteration.

    It is λ_max if positive, λ_min if negative; PyHessian offers no way to the other end.

    Args:
        model: see `PlainHessian`.
        criterion: not a `BatchLoss`.
        batch: (inputs, targets), two tensors.
        tol: relative change from product to product at which PyHessian stops; no error bound.
        max_products: at which it stops in any case.
        seed: of its start vector.

    Raises:
        UsageError: a batch or a model that PyHessian cannot take; see also `PlainHessian`.
    """
    if isinstance(criterion, BatchLoss) or not all(isinstance(part, Tensor) for part in batch):
        raise UsageError("PyHessian takes criterion(outputs, targets) and pairs of tensors only")
    from pyhessian import hessian

    plain = PlainHessian(model, criterion, batch)
    began = time.perf_counter()
    exact = copy.deepcopy(model).double()
    criterion, data = in_double(criterion, batch, plain.device)
    cuda = plain.device.type == "cuda"
    products = 0

    def count(_: Tensor) -> None:
        nonlocal products
        products += 1

    try:
        with (
            torch.random.fork_rng(devices=[plain.device] if cuda else []),
            warnings.catch_warnings(),
            sdpa_kernel(SDPBackend.MATH),
        ):
            warnings.filterwarnings("ignore", message="Using backward", category=UserWarning)
            torch.manual_seed(seed)
            computer = hessian(exact, criterion, data=tuple(data), cuda=cuda)
            # It counts nothing itself: each product runs once back through its gradient.
            computer.gradsH[0].register_hook(count)
            (value,), (vector,) = computer.eigenvalues(maxIter=max_products, tol=tol, top_n=1)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"PyHessian cannot take this model: {reason}") from error
    seconds = time.perf_counter() - began
    return Reference(
        tool="pyhessian",
        lambda_max=float(value) if value > 0 else None,
        lambda_min=float(value) if value <= 0 else None,
        error=plain.residual(float(value), torch.cat([part.reshape(-1) for part in vector])),
        products=products,
        seconds=seconds,
        note="gives the eigenvalue of largest magnitude only, so no "
        + ("λ_min" if value > 0 else "λ_max"),
    )
