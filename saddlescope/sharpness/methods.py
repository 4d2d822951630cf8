"""The five methods as radii by group and epoch.

| method  | groups     | radii                                            |
|---------|------------|--------------------------------------------------|
| sgd     | all        | 0                                                |
| sam     | all        | ρ                                                |
| imbsam  | head, tail | 0, ρ_tail                                        |
| sam-ext | head, tail | ρ_head, ρ_tail                                   |
| sse-sam | head, tail | epoch < γT: as sam-ext; from epoch γT on: as imbsam |

Eq. 14 prints ε_tail with ρ_head and ‖∇L‖; the paper's code, and this one, use ρ_tail and
‖∇L_tail‖.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

from saddlescope.errors import UsageError


@dataclass(frozen=True)
class Radii:
    """Radii of the two stages; methods without a switch have only the first.

    Attributes:
        first: group name to ρ before the switch.
        second: group name to ρ from the switch on.
        switch_epoch: the first epoch of stage 2; None without a switch.
    """

    first: dict[str, float]
    second: dict[str, float]
    switch_epoch: int | None

    def at(self, epoch: int) -> dict[str, float]:
        """The radii of an epoch, counted from 0."""
        return self.second if self.stage(epoch) == 2 else self.first

    def stage(self, epoch: int) -> int:
        """1 or 2."""
        return 2 if self.switch_epoch is not None and epoch >= self.switch_epoch else 1

    def passes(self, epoch: int) -> tuple[int, int]:
        """Forward and backward passes of a step in an epoch, as `SharpnessAware` takes them."""
        radii = self.at(epoch).values()
        perturbed, plain = sum(rho > 0 for rho in radii), any(rho == 0 for rho in radii)
        return 1 + perturbed, 2 * perturbed + plain

    def grouped(self, epoch: int) -> bool:
        """Whether an epoch's steps tell head from tail."""
        return "all" not in self.at(epoch)


def first_epoch(share: float, epochs: int) -> int:
    """The first epoch that is >= share·epochs, compared exactly.

    The share is taken as the decimal number it is written as, so 0.7 of 10 epochs is 7 and not
    7.000000000000001.
    """
    return math.ceil(Fraction(repr(share)) * epochs)


def method_radii(
    method: str,
    *,
    epochs: int,
    rho: float = 0.05,
    rho_head: float = 0.05,
    rho_tail: float = 0.10,
    gamma: float = 0.70,
    first_stage: str | None = None,
) -> Radii:
    """Radii of a method by its key ("sgd", "sam", "imbsam", "sam-ext", "sse-sam").

    Stage 2 begins with `first_epoch(gamma, epochs)`. A `first_stage` puts another method before it:
    SSE-SAM is "imbsam" after a first stage "sam-ext".

    Raises:
        UsageError: an unknown method or γ outside [0, 1]; a stage that has two itself.
    """
    if not 0.0 <= gamma <= 1.0:
        raise UsageError(f"gamma = {gamma}: expected a share of the epochs between 0 and 1")
    if method == "sse-sam" and first_stage is None:
        method, first_stage = "imbsam", "sam-ext"
    one_stage = {
        "sgd": {"all": 0.0},
        "sam": {"all": rho},
        "imbsam": {"head": 0.0, "tail": rho_tail},
        "sam-ext": {"head": rho_head, "tail": rho_tail},
    }
    if unknown := [name for name in (method, first_stage or method) if name not in one_stage]:
        raise UsageError(
            f"unknown method {unknown[0]!r}: expected sgd, sam, imbsam, sam-ext or sse-sam"
            if unknown[0] != "sse-sam"
            else "a stage is of one method: sse-sam has two"
        )
    if first_stage is None:
        return Radii(one_stage[method], {}, None)
    return Radii(one_stage[first_stage], one_stage[method], first_epoch(gamma, epochs))
