"""PyHessian 0.1: power iteration for the eigenvalue of largest magnitude.

It gives no λ_min. The one way through its interface is to ask again for a shifted loss,
L(w) − ½σ‖w‖² with σ = λ_max, whose Hessian has λ_min − σ as its largest magnitude; `Shifted` does.
GPL: imported when called, nothing copied.
"""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.compare.problems import Problem
from benchmarks.compare.tools.base import Answer, Multiply, Setting

_MOST = 300
"""Products allowed to each power iteration."""

_LARGE = 1e7
"""Parameters times samples beyond which hundreds of products are not waited for."""


class PowerIteration:
    """`pyhessian.hessian(...).eigenvalues()`: λ_max, where it is the larger in magnitude."""

    key = "pyhessian (λ_max only)"
    package = "pyhessian"
    gives_both = False
    ordered = True
    defaults: list[Setting] = [{"tol": 1e-3, "maxIter": 100}]  # noqa: RUF012
    rehearses = False
    brief: Setting = {"tol": 0.0, "maxIter": 2}  # noqa: RUF012

    def settings(self) -> list[Setting]:
        """Changes from product to product at which it stops."""
        return [{"tol": tol, "maxIter": _MOST} for tol in (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4)]

    def refuses(self, problem: Problem) -> str | None:  # noqa: ARG002
        """See `Tool.refuses`."""
        return None

    def ends(
        self,
        problem: Problem,
        setting: Setting,
        seed: int,
        *,
        multiply: Multiply | None = None,  # noqa: ARG002
    ) -> Answer:
        """See `Tool.ends`; the products are always its own."""
        value, products = _largest(problem, problem.criterion, setting, seed)
        return Answer(
            lambda_max=value,
            lambda_min=None,
            products=products,
            claims="converged" if products < setting["maxIter"] else "not converged",
        )


class Shifted(PowerIteration):
    """Two power iterations, the second on the loss shifted by λ_max."""

    key = "pyhessian (shifted loss)"
    gives_both = True

    def settings(self) -> list[Setting]:
        """As its base's, only tighter: λ_min is a small part of the shifted eigenvalue."""
        return [{"tol": tol, "maxIter": _MOST} for tol in (1e-3, 1e-4, 1e-5, 1e-6)]

    def refuses(self, problem: Problem) -> str | None:
        """See `Tool.refuses`."""
        if problem.size * len(problem.targets) > _LARGE:
            return f"up to {2 * _MOST} products, each of its sweep: too long for this many samples"
        return None

    def ends(
        self,
        problem: Problem,
        setting: Setting,
        seed: int,
        *,
        multiply: Multiply | None = None,  # noqa: ARG002
    ) -> Answer:
        """See `Tool.ends`; the products are always its own."""
        top, first = _largest(problem, problem.criterion, setting, seed)
        if top < 0.0:
            return Answer(None, top, first, "nothing")
        parameters = list(problem.model.parameters())

        def shifted(outputs: Tensor, targets: Tensor) -> Tensor:
            value: Tensor = problem.criterion(outputs, targets)
            for parameter in parameters:
                value = value - 0.5 * top * parameter.square().sum()
            return value

        moved, second = _largest(problem, shifted, setting, seed)
        stopped = max(first, second) < setting["maxIter"]
        return Answer(
            lambda_max=top,
            lambda_min=top + moved,
            products=first + second,
            claims="converged" if stopped else "not converged",
        )


def _largest(problem: Problem, criterion: Any, setting: Setting, seed: int) -> tuple[float, int]:
    """Its eigenvalue, and products used."""
    from pyhessian import hessian

    products = 0

    def count(_: Tensor) -> None:
        nonlocal products
        products += 1

    batches = problem.batches()
    cuda = problem.device.type == "cuda"
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using backward", category=UserWarning)
        if len(batches) == 1:
            computer = hessian(problem.model, criterion, data=batches[0], cuda=cuda)
            # It counts nothing itself: each product runs once back through its gradient.
            computer.gradsH[0].register_hook(count)
            (value,), _ = computer.eigenvalues(**setting, top_n=1)
        else:
            # Of several batches it recomputes each for every product.
            computer = hessian(problem.model, criterion, dataloader=batches, cuda=cuda)
            inner = computer.dataloader_hv_product

            def counted(vector: list[Tensor]) -> Any:
                nonlocal products
                products += 1
                return inner(vector)

            computer.dataloader_hv_product = counted
            (value,), _ = computer.eigenvalues(**setting, top_n=1)
    _forget(problem.model)
    return float(value), products


def _forget(model: nn.Module) -> None:
    """Drop the gradients it leaves, whose graphs refer to the parameters they belong to."""
    for parameter in model.parameters():
        parameter.grad = None
