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
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from saddlescope.errors import UsageError
from saddlescope.runs.methods import METHODS, ONE_STAGE, RadiusOptions


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
        """Return the radii of an epoch, counted from 0."""
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
        """Tell whether an epoch's steps tell head from tail."""
        return "all" not in self.at(epoch)


def first_epoch(share: float, epochs: int) -> int:
    """Return the first epoch that is >= share·epochs, compared exactly.

    The share is taken as the decimal number it is written as, so 0.7 of 10 epochs is 7 and not
    7.000000000000001.
    """
    return math.ceil(Fraction(repr(float(share))) * epochs)


def check_radii(radii: Mapping[Any, float]) -> None:
    """Refuse radii that no step can take.

    Raises:
        UsageError: one that is negative or not finite.
    """
    for name, rho in radii.items():
        if not 0.0 <= rho < math.inf:
            raise UsageError(f"radius of group {name!r} is {rho}: expected a number >= 0")


def method_radii(
    method: str,
    *,
    epochs: int,
    options: RadiusOptions | None = None,
    first_stage: str | None = None,
) -> Radii:
    """Resolve the radii of a method, by its key in `saddlescope.runs.METHODS`.

    Args:
        method: its key.
        epochs: of the whole run; stage 2 begins with `first_epoch(gamma, epochs)`.
        options: the numbers; None takes the defaults.
        first_stage: another method to put before it: SSE-SAM is "imbsam" after "sam-ext".

    Raises:
        UsageError: an unknown method, γ outside [0, 1], a radius below 0, no epoch; a stage that
            has two itself.
    """
    options = options or RadiusOptions()
    if epochs < 1:
        raise UsageError(f"epochs = {epochs}: expected at least 1")
    if not 0.0 <= options.gamma <= 1.0:
        raise UsageError(f"gamma = {options.gamma}: expected a share of the epochs between 0 and 1")
    keys = [method] if first_stage is None else [first_stage, method]
    if unknown := [key for key in keys if key not in METHODS]:
        *all_but_last, last = METHODS
        raise UsageError(
            f"unknown method {unknown[0]!r}: expected {', '.join(all_but_last)} or {last}"
        )
    if two := [key for key in keys if first_stage is not None and key not in ONE_STAGE]:
        raise UsageError(f"a stage is of one method: {two[0]} has two")
    first, *second = [
        {group: 0.0 if word is None else getattr(options, word) for group, word in stage.items()}
        for key in keys
        for stage in METHODS[key].stages
    ]
    for stage in (first, *second):
        check_radii(stage)
    if not second:
        return Radii(first, {}, None)
    return Radii(first, second[0], first_epoch(options.gamma, epochs))
