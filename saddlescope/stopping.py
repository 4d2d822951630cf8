"""When an iteration stops: one object from the command line down to the loop.

A leaf: it imports neither torch nor any room, so that the command line can read its defaults.
"""

from dataclasses import dataclass
from typing import TypedDict

from saddlescope.errors import UsageError


class StopOptions(TypedDict, total=False):
    """Name the fields of `StopRule` as keywords of a public function."""

    rtol: float
    atol: float | None
    confidence: float
    certify: bool
    max_matvecs: int


@dataclass(frozen=True)
class StopRule:
    """Say how precisely an end is wanted, and when to give up.

    Attributes:
        rtol: stop when both residuals (with `certify`, both intervals' half-widths) are below
            this share of their own Ritz value …
        atol: … or below this share of ‖T‖, or below the noise: a semidefinite operator must
            stop too. None follows `rtol`, see `floor`.
        confidence: joint probability of a row's intervals, λ_ratio included.
        certify: stop on the intervals instead of the residuals.
        max_matvecs: give up after this many products.

    Raises:
        UsageError: one of them is out of range.
    """

    rtol: float = 1e-2
    atol: float | None = None
    confidence: float = 0.999
    certify: bool = False
    max_matvecs: int = 200

    def __post_init__(self) -> None:
        if not 0.0 < self.rtol < 1.0:
            raise UsageError(f"rtol = {self.rtol}: expected a number between 0 and 1")
        if not 0.0 <= self.floor < 1.0:
            raise UsageError(f"atol = {self.floor}: expected a number from 0 to 1")
        if not 0.0 < self.confidence < 1.0:
            raise UsageError(
                f"confidence = {self.confidence}: expected a probability between 0 and 1"
            )
        if self.max_matvecs < 1:
            raise UsageError(f"max_matvecs = {self.max_matvecs}: expected at least 1")

    @property
    def floor(self) -> float:
        """Return the share of ‖T‖ that is precise enough where an end is near 0.

        By default it follows `rtol`, so that a finer `rtol` is not overruled by a floor nobody
        asked for: an end of a thousandth of the other's size is still measured to `rtol`.
        """
        return 1e-3 * self.rtol if self.atol is None else self.atol
