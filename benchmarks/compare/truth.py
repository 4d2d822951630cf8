"""The truth an answer is held to: a dense spectrum, or a long certified run, in float64."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.compare.problems import Problem
from benchmarks.compare.tools.base import Answer
from saddlescope.curvature import HessianOperator, Programs, extreme_eigenvalues
from saddlescope.curvature.reference import DENSE_LIMIT, dense_reference

TOLERANCE = 0.01
"""Share of each eigenvalue that an answer may be off."""

LARGE = 3e8
"""Parameters times samples from which on float64 is kept for the last products."""

_CERTIFIED: dict[str, Any] = {
    "rtol": 1e-3, "certify": True, "confidence": 0.999999, "max_matvecs": 400, "seed": 2**20
}  # fmt: skip


@dataclass(frozen=True)
class Truth:
    """Both ends, each to within an error that is small beside the tolerance.

    The values are Rayleigh quotients, which never leave the spectrum: the ends themselves lie there
    or further out.

    Attributes:
        lambda_max: in float64.
        lambda_min: in float64.
        max_error: λ_max is larger by at most this.
        min_error: λ_min is smaller by at most this.
        means: how it was found.
        products: it took.
    """

    lambda_max: float
    lambda_min: float
    max_error: float
    min_error: float
    means: str
    products: int

    def row(self) -> dict[str, Any]:
        """For the record."""
        return asdict(self)

    def errors(self, answer: Answer) -> tuple[float | None, float | None]:
        """Relative errors of λ_max and λ_min, from wherever in their intervals these are.

        None for what is missing.
        """
        return (
            _farthest(answer.lambda_max, self.lambda_max, self.lambda_max + self.max_error),
            _farthest(answer.lambda_min, self.lambda_min, self.lambda_min - self.min_error),
        )

    def meets(self, answer: Answer, *, both: bool = True) -> bool:
        """Whether an answer is verified: both ends (or λ_max alone) within the tolerance."""
        top, bottom = self.errors(answer)
        if top is None or top > TOLERANCE:
            return False
        return not both or (bottom is not None and bottom <= TOLERANCE)


def _farthest(found: float | None, inner: float, outer: float) -> float | None:
    """The larger of the distances from an interval's ends, relative to the inner one."""
    return None if found is None else max(abs(found - inner), abs(found - outer)) / abs(inner)


def find_truth(problem: Problem) -> Truth:
    """Both ends, in float64.

    Up to some thousand parameters from the dense spectrum; else from a run in float64 with
    intervals 0.2 % wide; and where its products would take hours, from such a run in float32 whose
    eigenvectors are taken to float64: their Rayleigh quotients there lie inside the spectrum, and
    the outer bounds, widened by the rounding measured against float64, stay. Intervals hold with
    probability 0.999999; the dense case of the benchmark and the tests hold them to LAPACK.
    """
    exact = problem.double()
    if exact.size <= DENSE_LIMIT:
        dense = dense_reference(exact.model, exact.criterion, (exact.inputs, exact.targets))
        assert dense.lambda_max is not None
        assert dense.lambda_min is not None
        return Truth(dense.lambda_max, dense.lambda_min, dense.error, dense.error,
                     "dense Hessian, LAPACK, float64", dense.products)  # fmt: skip
    if exact.size * len(exact.targets) > LARGE:
        return _refined(problem, exact)
    operator = HessianOperator(exact.model, exact.criterion, exact.batches())
    ends = extreme_eigenvalues(operator, **_CERTIFIED)
    top, bottom = ends.lambda_max, ends.lambda_min
    return Truth(
        top.value,
        bottom.value,
        max(top.upper - top.value, top.value - top.lower),
        max(bottom.upper - bottom.value, bottom.value - bottom.lower),
        f"certified run in float64, {ends.stop_rule}",
        ends.matvecs,
    )


def _refined(problem: Problem, exact: Problem) -> Truth:
    programs = Programs("traced")
    operator = HessianOperator(
        problem.model, problem.criterion, problem.batches(), programs=programs
    )
    ends = extreme_eigenvalues(operator, eigenvectors=True, **_CERTIFIED)
    assert ends.eigenvectors is not None
    del operator
    reference = HessianOperator(exact.model, exact.criterion, exact.batches())
    quotients = []
    for vector in ends.eigenvectors:
        unit = vector.double() / torch.linalg.vector_norm(vector.double())
        quotients.append(float(unit @ reference.matvec(unit)))
    top, bottom = quotients
    return Truth(
        top,
        bottom,
        max(ends.lambda_max.upper - top, 0.0),
        max(bottom - ends.lambda_min.lower, 0.0),
        f"certified run in float32, eigenvectors in float64, {ends.stop_rule}",
        ends.matvecs,
    )
