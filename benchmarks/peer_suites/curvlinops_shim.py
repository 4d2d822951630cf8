"""curvlinops' interface on ours: Hessian, Gauss-Newton matrix, traces, spectral densities.

Formats of vectors, adjoints, sums and the check of the arguments stay theirs, the products are
ours. Gaussian probes, KFAC, Fisher matrices and inverses have no counterpart.
"""

from collections.abc import Callable
from typing import Any

import curvlinops
import torch
from curvlinops._torch_base import CurvatureLinearOperator
from curvlinops.utils import split_list
from torch import Tensor, nn

from benchmarks.peer_suites.reach import mark, replace
from saddlescope.curvature import (
    GaussNewtonOperator,
    HessianOperator,
    extreme_eigenvalues,
    trace,
)

their_hutchinson, their_hutchpp = curvlinops.hutchinson_trace, curvlinops.hutchpp_trace


class _Mapping(nn.Module):
    """A model that takes a mapping as its one argument; ours would hand it on as keywords."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Any, **mapping: Any) -> Tensor:
        """Call the model as they do."""
        return self.model(mapping) if mapping else self.model(*inputs)


class _Ours(CurvatureLinearOperator):
    """One operator of ours a block of parameters."""

    SUPPORTS_BLOCKS = True
    make: Callable[..., Any]

    def _matmat(self, M: list[Tensor]) -> list[Tensor]:
        mark()
        if not hasattr(self, "_blocks"):
            model = _Mapping(self._model_func).train(self._model_func.training)
            self._blocks = [
                type(self).make(model, self._loss_func, self._data, parameters=block)
                for block in split_list(list(self._params), self._block_sizes)
            ]
        done: list[Tensor] = []
        for operator, columns in zip(
            self._blocks, split_list(list(M), self._block_sizes), strict=True
        ):
            flat = torch.cat([part.flatten(end_dim=-2) for part in columns])
            products = torch.stack([operator.matvec(v) for v in flat.T.contiguous()], dim=-1)
            parts = products.split([part[..., 0].numel() for part in columns])
            done += [one.view_as(like) for one, like in zip(parts, columns, strict=True)]
        return done

    def _adjoint(self) -> "_Ours":
        return self


class HessianLinearOperator(_Ours):
    """Theirs, with our products."""

    make = staticmethod(HessianOperator)


class GGNLinearOperator(_Ours):
    """Theirs, with our products."""

    make = staticmethod(GaussNewtonOperator)


class _Linear:
    """An operator of theirs, or a matrix, as one of ours."""

    def __init__(self, A: Any) -> None:
        self.A, self.size, self.dtype, self.device = A, A.shape[0], A.dtype, A.device

    def matvec(self, vector: Tensor) -> Tensor:
        """A·v."""
        return self.A @ vector


def _seed() -> int:
    """A seed from torch's own state, which their tests set."""
    return int(torch.randint(2**31, ()))


def hutchinson_trace(A: Any, num_matvecs: int, distribution: str = "rademacher") -> Tensor:
    """Theirs on our estimator."""
    if distribution != "rademacher":
        return their_hutchinson(A, num_matvecs, distribution)
    mark()
    return torch.tensor(trace(_Linear(A), probes=num_matvecs, seed=_seed()).value)


def hutchpp_trace(A: Any, num_matvecs: int, distribution: str = "rademacher") -> Tensor:
    """Theirs on our estimator, a third of the products for each part."""
    if distribution != "rademacher":
        return their_hutchpp(A, num_matvecs, distribution)
    mark()
    third = num_matvecs // 3
    return torch.tensor(trace(_Linear(A), probes=third, deflation=third, seed=_seed()).value)


def approximate_boundaries(
    A: Any, tol: float = 1e-2, boundaries: Any = None
) -> tuple[float, float]:
    """Theirs on our two ends."""
    mark()
    low, high = boundaries or (None, None)
    if low is None or high is None:
        ends = extreme_eigenvalues(_Linear(A), rtol=max(tol, 1e-12))
        low = ends.lambda_min.value if low is None else low
        high = ends.lambda_max.value if high is None else high
    return low, high


replace(
    {
        "HessianLinearOperator": HessianLinearOperator,
        "GGNLinearOperator": GGNLinearOperator,
        "hutchinson_trace": hutchinson_trace,
        "hutchpp_trace": hutchpp_trace,
        "approximate_boundaries": approximate_boundaries,
    },
    "curvlinops",
)
