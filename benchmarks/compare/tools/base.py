"""What a tool is to the benchmark: settings, and both ends of a problem's Hessian with one of them.

A tool is called the way its own documentation shows, on the same model, loss and batches as every
other, and timed from there to two numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from benchmarks.compare.problems import Problem

Setting = dict[str, Any]
Multiply = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Answer:
    """What a tool says.

    Attributes:
        lambda_max: None if it gives none.
        lambda_min: None if it gives none.
        products: Hessian-vector products it took.
        claims: what the tool itself says of the result: "converged", "not converged", or
            "nothing".
        bounds: (lower, upper) of λ_max and of λ_min, where the tool gives any.
    """

    lambda_max: float | None
    lambda_min: float | None
    products: int
    claims: str
    bounds: tuple[tuple[float, float], tuple[float, float]] | None = None


class Tool(Protocol):
    """One way to both ends.

    Attributes:
        key: its name in tables and on the command line.
        package: the distribution whose version is recorded.
        defaults: the settings of a user who changes nothing but asks for both ends.
        gives_both: False for one that cannot give λ_min.
        rehearses: whether products from elsewhere may stand in for its own while its settings are
            swept; False where its own errors are the question.
        ordered: whether more products never make its settings worse, so that the first right one
            is the cheapest.
        brief: a setting of two products, for the peak of memory.
    """

    key: str
    package: str
    defaults: list[Setting]
    gives_both: bool
    rehearses: bool
    ordered: bool
    brief: Setting

    def settings(self) -> list[Setting]:
        """Candidates for the sweep, the cheapest first."""

    def refuses(self, problem: Problem) -> str | None:
        """Why it is not run on a problem; None where it is."""

    def ends(
        self, problem: Problem, setting: Setting, seed: int, *, multiply: Multiply | None = None
    ) -> Answer:
        """Both ends of the Hessian of `problem`.

        Args:
            problem: model, loss and batches.
            setting: one of `settings()` or of `defaults`.
            seed: of the start vector.
            multiply: another way to the same products, for a rehearsal; None takes the tool's.
        """


def label(setting: Setting) -> str:
    """A setting as a reader sees it."""
    return ", ".join(f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
                     for key, value in setting.items()) or "defaults"  # fmt: skip
