"""hessian-eigenthings' interface on ours: operators, Lanczos, power iteration, trace, density.

What has no counterpart stays theirs: finite differences, micro-batches, one batch a product,
Gaussian probes, the empirical Fisher. A refusal is ours; only its wording is put into theirs.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import hessian_eigenthings
import hessian_eigenthings.operators.distributed
import numpy as np
import torch
from hessian_eigenthings.algorithms.result import EigenResult
from hessian_eigenthings.algorithms.spectral_density import SpectralDensityResult
from hessian_eigenthings.operators.base import CurvatureOperator
from hessian_eigenthings.param_utils import select_parameters
from torch import Tensor, nn

from benchmarks.peer_suites.reach import mark, ours, replace
from saddlescope.curvature import (
    BatchLoss,
    GaussNewtonOperator,
    HessianOperator,
    Ranks,
    SharedBatches,
    spectral_density,
    top_eigenpairs,
    trace,
)
from saddlescope.curvature.krylov.lanczos import Lanczos, random_start
from saddlescope.errors import UsageError

Theirs = hessian_eigenthings.HessianOperator
TheirShared = hessian_eigenthings.operators.distributed.DDPHessianOperator
their_hutchinson = hessian_eigenthings.hutchinson


@contextmanager
def refusals(words: str) -> Iterator[None]:
    """Our refusals in their words."""
    try:
        yield
    except UsageError as error:
        raise ValueError(f"{words}: {error}") from error


class Wrapped(CurvatureOperator):
    """An operator of ours as one of theirs."""

    def __init__(self, operator: Any) -> None:
        self.operator = operator

    size = property(lambda self: self.operator.size)
    dtype = property(lambda self: self.operator.dtype)
    device = property(lambda self: self.operator.device)

    def matvec(self, v: Tensor) -> Tensor:
        """A·v."""
        with refusals("expected vector of shape"):
            return self.operator.matvec(v)


def chosen(model: nn.Module, param_filter: Any) -> list[Tensor]:
    """The parameters that their filter leaves."""
    return list(select_parameters(model, param_filter).values())


def hessian(
    model: nn.Module,
    dataloader: Any,
    loss_fn: Callable[..., Tensor],
    *,
    param_filter: Any = None,
    full_dataset: bool = True,
    method: str = "autograd",
    microbatch_size: int | None = None,
    **rest: Any,
) -> Any:
    """Their `HessianOperator`."""
    if not full_dataset or method != "autograd" or microbatch_size is not None:
        rest |= {"full_dataset": full_dataset, "method": method}
        rest |= {"microbatch_size": microbatch_size, "param_filter": param_filter}
        return Theirs(model, dataloader, loss_fn, **rest)
    mark()
    parameters = chosen(model, param_filter)
    return Wrapped(HessianOperator(model, BatchLoss(loss_fn), dataloader, parameters=parameters))


def shared_hessian(
    model: nn.Module, dataloader: Any, loss_fn: Any, *, method: str = "autograd", **rest: Any
) -> Any:
    """Their `DDPHessianOperator`."""
    if method != "autograd":
        return TheirShared(model, dataloader, loss_fn, method=method, **rest)
    mark()
    shared = SharedBatches(dataloader, Ranks(torch.distributed.group.WORLD))
    return Wrapped(HessianOperator(model, BatchLoss(loss_fn), shared))


class _Forward(nn.Module):
    """Their forward function as a module."""

    def __init__(self, model: nn.Module, forward: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self.call = model, forward

    def forward(self, *batch: Any) -> Tensor:
        """Call it on the whole batch."""
        return self.call(self.model, batch)


def gauss_newton(
    model: nn.Module,
    dataloader: Any,
    forward_fn: Callable[..., Tensor],
    loss_of_output_fn: Callable[..., Tensor],
    *,
    param_filter: Any = None,
) -> Wrapped:
    """Their `GGNOperator`."""
    mark()
    both = [(batch, batch) for batch in dataloader]
    return Wrapped(
        GaussNewtonOperator(
            _Forward(model, forward_fn).train(model.training),
            loss_of_output_fn,
            both,
            parameters=chosen(model, param_filter),
            reduction="mean",
        )
    )


def order_of(values: np.ndarray, which: str) -> np.ndarray:
    """Their three orders."""
    return np.argsort({"LM": -np.abs(values), "LA": -values, "SA": values}[which], kind="stable")


def lanczos(
    operator: Any,
    *,
    k: int = 10,
    max_iter: int | None = None,
    tol: float = 1e-4,
    which: str = "LM",
    seed: int | None = None,
    **_: Any,
) -> EigenResult:
    """Their `lanczos`: so many steps of our process, and the Ritz pairs."""
    steps = min(2 * k, operator.size - 1) if max_iter is None else max_iter
    if not 1 <= k <= operator.size or steps > operator.size:
        with refusals("k must be >= 1, or exceeds operator size"):
            top_eigenpairs(operator, k=k if k < 1 or k > operator.size else steps)
    process = Lanczos(operator, random_start(operator.size, seed=seed or 0), capacity=steps)
    while process.steps < steps and not process.exhausted:
        process.step()
    values, coordinates = process.eigh()
    first = order_of(values, which)[:k]
    residuals = process.betas[-1] * np.abs(coordinates[-1, first])
    return EigenResult(
        eigenvalues=torch.as_tensor(values[first]).to(operator.dtype),
        eigenvectors=process.combine(coordinates[:, first]),
        residuals=torch.as_tensor(residuals),
        iterations=process.steps,
        converged=torch.as_tensor(residuals < tol * np.abs(values[first])),
    )


def deflated(
    operator: Any,
    *,
    k: int = 10,
    max_iter: int = 100,
    tol: float = 1e-4,
    seed: int | None = None,
    **_: Any,
) -> EigenResult:
    """Their `deflated_power_iteration`: our eigenpairs of both ends, the largest |θ| first."""
    with refusals("k must be >= 1, or exceeds operator size"):
        found = [
            top_eigenpairs(
                operator,
                k=k,
                end=end,
                rtol=max(tol, 1e-7),
                max_matvecs=k * max_iter,
                seed=seed or 0,
            )
            for end in (("max", "min") if 2 * k <= operator.size else ("max",))
        ]
    values = np.concatenate([pairs.values for pairs in found])
    first = order_of(values, "LM")[:k]
    residuals = np.concatenate([pairs.residuals for pairs in found])[first]
    return EigenResult(
        eigenvalues=torch.as_tensor(values[first]).to(operator.dtype),
        eigenvectors=torch.cat([pairs.vectors for pairs in found])[first.tolist()],
        residuals=torch.as_tensor(residuals),
        iterations=sum(pairs.matvecs for pairs in found),
        converged=torch.full((k,), all(pairs.converged for pairs in found)),
    )


def power_one(operator: Any, **options: Any) -> tuple[float, Tensor, float, int, bool]:
    """Their `power_iteration_one`."""
    found = deflated(operator, k=1, **options)
    value, residual = float(found.eigenvalues[0]), float(found.residuals[0])
    return value, found.eigenvectors[0], residual, found.iterations, bool(found.converged[0])


def hutchinson(
    operator: Any,
    *,
    num_samples: int = 100,
    distribution: str = "rademacher",
    seed: int | None = None,
    **_: Any,
) -> Any:
    """Their `hutchinson`; `samples` are taken only where a test reads them."""
    if distribution != "rademacher":
        return their_hutchinson(
            operator, num_samples=num_samples, distribution=distribution, seed=seed
        )
    mark()
    found = trace(operator, probes=num_samples, seed=seed or 0)

    class Result(SimpleNamespace):
        @property
        def samples(self) -> Tensor:
            one = [trace(operator, probes=1, seed=i).value for i in range(num_samples)]
            return torch.tensor(one)

    return Result(estimate=found.value, stderr=found.standard_error)


def hutch_plus_plus(
    operator: Any, *, num_matvecs: int = 99, seed: int | None = None, **_: Any
) -> SimpleNamespace:
    """Their `hutch_plus_plus`: a third of the products for each part."""
    with refusals("num_matvecs must be >= 1"):
        found = trace(
            operator,
            probes=num_matvecs if num_matvecs < 1 else math.ceil(num_matvecs / 3),
            deflation=max(0, min(num_matvecs // 3, operator.size - 1)),
            seed=seed or 0,
        )
    return SimpleNamespace(estimate=found.value, stderr=found.standard_error)


def any_trace(
    operator: Any, *, num_matvecs: int = 100, method: str = "hutch++", **rest: Any
) -> Any:
    """Their `trace`."""
    if method == "hutchinson":
        return hutchinson(operator, num_samples=num_matvecs, **rest)
    return hutch_plus_plus(operator, num_matvecs=num_matvecs, **rest)


def density(
    operator: Any,
    *,
    num_runs: int = 10,
    lanczos_steps: int = 80,
    num_grid_points: int = 10000,
    sigma: float | None = None,
    grid_padding: float = 0.1,
    seed: int | None = None,
    **_: Any,
) -> SpectralDensityResult:
    """Their `spectral_density`."""
    with refusals("num_runs must be >= 1"):
        found = spectral_density(operator, steps=lanczos_steps, probes=num_runs, seed=seed or 0)
    if lanczos_steps > operator.size:  # ours takes at most n; theirs refuses
        raise ValueError(f"lanczos_steps={lanczos_steps} exceeds operator size {operator.size}")
    low, high = float(found.nodes.min()), float(found.nodes.max())
    spread = max(high - low, 1e-9)
    width = spread / lanczos_steps if sigma is None else sigma
    grid = np.linspace(low - grid_padding * spread, high + grid_padding * spread, num_grid_points)
    as_tensor = torch.as_tensor
    return SpectralDensityResult(
        grid=as_tensor(grid),
        density=as_tensor(found.evaluate(grid, sigma=width).mean),
        raw_eigenvalues=as_tensor(found.nodes),
        raw_weights=as_tensor(found.weights),
        sigma=width,
    )


replace(
    {
        "HessianOperator": hessian,
        "DDPHessianOperator": shared_hessian,
        "GGNOperator": gauss_newton,
        "lanczos": ours(lanczos),
        "deflated_power_iteration": ours(deflated),
        "power_iteration_one": ours(power_one),
        "hutchinson": hutchinson,
        "hutch_plus_plus": ours(hutch_plus_plus),
        "trace": any_trace,
        "spectral_density": ours(density),
    },
    "hessian_eigenthings",
)
