"""Which matrix of a loss, and how its products are computed: one object for a whole table."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from saddlescope.curvature.objective import Choice, ObjectiveOptions, Randomness
from saddlescope.curvature.products import Programs, Strategy
from saddlescope.errors import UsageError
from saddlescope.runs import OPERATORS, OperatorName


class MatrixOptions(ObjectiveOptions, total=False):
    """Name the fields of `MatrixSpec` as keywords of a public function."""

    operator: OperatorName
    strategy: Strategy
    programs: Programs | None


@dataclass(frozen=True)
class MatrixSpec:
    """Say which matrix of a loss is meant, and how its products are computed.

    Attributes:
        operator: a name of the table in `named`.
        parameters: that make up w, by patterns of their names or themselves; None for all
            trainable ones.
        weight_decay: factor of an optional L2 term, not negative.
        reduction: overrides what the criterion says of itself, see `Objective`.
        memory_budget: bytes for what is retained between products; None takes a share of what is
            free.
        batch_size: samples a forward pass; changes memory and speed only. None takes batches as
            they are given, and 256 samples of a data set.
        randomness: "refuse" or "frozen", see `Objective`.
        strategy: "auto", "traced" or "double-backward", see `Programs`.
        programs: traced products to share with other operators, in place of the strategy's own.

    Raises:
        UsageError: an unknown operator, or a weight decay that is negative or not finite.
    """

    operator: OperatorName = "hessian"
    parameters: Choice | None = None
    weight_decay: float = 0.0
    reduction: str | None = None
    memory_budget: int | None = None
    batch_size: int | None = None
    randomness: Randomness = "frozen"
    strategy: Strategy = "auto"
    programs: Programs | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.operator not in OPERATORS:
            raise UsageError(f"operator {self.operator!r}: expected one of {', '.join(OPERATORS)}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0.0):
            raise UsageError(f"weight_decay = {self.weight_decay}: expected a number >= 0")
        # Asked for anew by every row: `module.parameters()` would be spent after the first.
        if isinstance(self.parameters, Iterator):
            object.__setattr__(self, "parameters", tuple(self.parameters))

    @property
    def samples_a_pass(self) -> int:
        """Return the batch size of a data set's samples."""
        return 256 if self.batch_size is None else self.batch_size

    def of_objective(self) -> ObjectiveOptions:
        """Return the part that `Objective` takes."""
        return {
            "parameters": self.parameters,
            "weight_decay": self.weight_decay,
            "reduction": self.reduction,
            "memory_budget": self.memory_budget,
            "batch_size": self.batch_size,
            "randomness": self.randomness,
        }
