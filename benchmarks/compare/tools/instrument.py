"""This project's instrument: one Krylov space for both ends, each with an interval."""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.compare.problems import Problem
from benchmarks.compare.tools.base import Answer, Multiply, Setting
from saddlescope.curvature import HessianOperator, Objective, Programs, extreme_eigenvalues


class Instrument:
    """`extreme_eigenvalues` of a `HessianOperator`.

    Args:
        programs: shared by the rows of a job; None makes one for each row, as a first call does.
        bare: without the float64 product that measures rounding, so that the intervals hold for
            exact products only, and stopped after a number of steps that is swept, as tools without
            a stopping rule must be.
        streamed: nothing is retained between products: the least memory it can do with.
    """

    package = "saddlescope"
    gives_both = True
    ordered = True
    defaults: list[Setting] = [{}]  # noqa: RUF012
    rehearses = True
    brief: Setting = {"max_matvecs": 2}  # noqa: RUF012

    def __init__(
        self, programs: Programs | None = None, *, bare: bool = False, streamed: bool = False
    ) -> None:
        kind = " (bare)" if bare else " (streamed)" if streamed else ""
        self.key = "saddlescope" + kind
        self._programs, self._budget = programs, 0 if streamed else None
        self._noise = 0.0 if bare else None

    def settings(self) -> list[Setting]:
        """Shares of each eigenvalue that its residual must fall below; bare, numbers of steps."""
        if self._noise is not None:
            return [
                {"max_matvecs": steps, "rtol": 1e-6}
                for steps in (*range(6, 41, 2), *range(44, 81, 4))
            ]
        return [{"rtol": rtol} for rtol in (0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)]

    def refuses(self, problem: Problem) -> str | None:  # noqa: ARG002
        """See `Tool.refuses`."""
        return None

    def ends(
        self, problem: Problem, setting: Setting, seed: int, *, multiply: Multiply | None = None
    ) -> Answer:
        """See `Tool.ends`."""
        if multiply is not None:
            operator = Rehearsed(problem.size, problem.dtype, problem.device, multiply)
            found = extreme_eigenvalues(operator, seed=seed, noise=0.0, **setting)
        else:
            programs = self._programs
            if programs is None:
                programs = Programs("auto")
                objective = Objective(problem.model, problem.criterion, problem.batches())
                programs.expect(objective, [len(problem.targets)])
            hessian = HessianOperator(
                problem.model, problem.criterion, problem.batches(), programs=programs,
                memory_budget=self._budget,
            )  # fmt: skip
            found = extreme_eigenvalues(hessian, seed=seed, noise=self._noise, **setting)
        upper, lower = found.lambda_max, found.lambda_min
        return Answer(
            lambda_max=upper.value,
            lambda_min=lower.value,
            products=found.matvecs,
            claims="converged" if found.converged else "not converged",
            bounds=((upper.lower, upper.upper), (lower.lower, lower.upper)),
        )


@dataclass(frozen=True)
class Rehearsed:
    """A symmetric operator around products that come from elsewhere."""

    size: int
    dtype: torch.dtype
    device: torch.device
    multiply: Multiply

    def matvec(self, vector: Tensor) -> Tensor:
        """H·v."""
        return self.multiply(vector)
