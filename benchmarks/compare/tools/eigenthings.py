"""hessian-eigenthings 1.0 (alpha): its Lanczos, with either of its two products.

`lanczos(k=m, max_iter=m)` gives all Ritz values of one Krylov space, and so both ends in one run;
asking for k=1 at each end, as its documentation does, takes two runs.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmarks.compare.problems import Problem
from benchmarks.compare.tools.base import Answer, Multiply, Setting


class Eigenthings:
    """`hessian_eigenthings.lanczos`.

    Args:
        method: of its `HessianOperator`.
    """

    package = "hessian-eigenthings"
    gives_both = True
    ordered = True
    # One eigenvalue at each end is what is asked; its own k is 10. Both take 2k steps.
    defaults: list[Setting] = [{"k": 1}, {"k": 10}]  # noqa: RUF012
    brief: Setting = {"max_iter": 2}  # noqa: RUF012

    def __init__(self, method: Literal["autograd", "finite_difference"]) -> None:
        self.key = {
            "autograd": "hessian-eigenthings",
            "finite_difference": "hessian-eigenthings (finite differences)",
        }[method]
        self._method: Literal["autograd", "finite_difference"] = method
        self.rehearses = method == "autograd"

    def settings(self) -> list[Setting]:
        """Numbers of Lanczos steps: its stopping rule reports, but does not stop."""
        if self._method == "finite_difference":
            # Its errors are those of the step: more products do not mend them.
            return [
                {"max_iter": 24, "reorthogonalize": True, "fd_eps": step}
                for step in (5e-3, 1e-3, 2e-4)
            ]
        return [
            {"max_iter": steps, "reorthogonalize": True}
            for steps in (*range(6, 41, 2), *range(44, 81, 4))
        ]

    def refuses(self, problem: Problem) -> str | None:  # noqa: ARG002
        """See `Tool.refuses`."""
        return None

    def ends(
        self, problem: Problem, setting: Setting, seed: int, *, multiply: Multiply | None = None
    ) -> Answer:
        """See `Tool.ends`."""
        from hessian_eigenthings import HessianOperator, lanczos

        def loss(model: nn.Module, batch: Any) -> Tensor:
            value: Tensor = problem.criterion(model(batch[0]), batch[1])
            return value

        products = 0
        operator = HessianOperator(
            problem.model,
            problem.batches(),
            loss,
            method=self._method,
            fd_eps=setting.get("fd_eps"),
        )
        inner = operator.matvec if multiply is None else multiply

        def counted(vector: Tensor) -> Tensor:
            nonlocal products
            products += 1
            return inner(vector)

        operator.matvec = counted
        if "max_iter" in setting:
            steps = min(setting["max_iter"], problem.size)
            # Its default gives reorthogonalisation up beyond 50 steps, and loses λ_min with it.
            found = lanczos(
                operator, k=steps, max_iter=steps, which="LA", seed=seed,
                reorthogonalize=setting.get("reorthogonalize"),
            )  # fmt: skip
            values, converged = found.eigenvalues, found.converged[[0, -1]]
        else:
            high = lanczos(operator, k=setting["k"], which="LA", seed=seed)
            low = lanczos(operator, k=setting["k"], which="SA", seed=seed)
            values = torch.cat((high.eigenvalues[:1], low.eigenvalues[:1]))
            converged = torch.stack((high.converged[0], low.converged[0]))
        return Answer(
            lambda_max=float(values.max()),
            lambda_min=float(values.min()),
            products=products,
            claims="converged" if bool(converged.all()) else "not converged",
        )
