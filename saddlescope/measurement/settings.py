"""Options of a spectrum job that decide its numbers, as the columns of its tables hold them."""

import math
from dataclasses import dataclass
from typing import Any

from saddlescope.curvature.krylov.extreme import default_atol
from saddlescope.curvature.named_operators import OperatorName
from saddlescope.curvature.resampling import interval_rank
from saddlescope.errors import UsageError
from saddlescope.runs import OPERATORS


@dataclass(frozen=True)
class Settings:
    """What is measured of a row, and how precisely.

    Attributes:
        rtol, confidence, certify, max_matvecs, atol: see `extreme_eigenvalues`; together they
            are the `settings` column.
        operator: which matrix, see `build_operator`.
        parameters: name patterns of the parameters that make up w; None for all trainable.
        weight_decay: factor of an optional L2 term.

    Raises:
        UsageError: an unknown operator or a weight decay that is negative or not finite.
    """

    rtol: float = 1e-2
    confidence: float = 0.999
    certify: bool = False
    max_matvecs: int = 200
    atol: float | None = None
    operator: OperatorName = "hessian"
    parameters: tuple[str, ...] | None = None
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.operator not in OPERATORS:
            raise UsageError(f"operator {self.operator!r}: expected one of {', '.join(OPERATORS)}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0.0):
            raise UsageError(f"weight_decay = {self.weight_decay}: expected a number >= 0")

    @property
    def floor(self) -> float:
        """`atol`, or what it is by default."""
        return default_atol(self.rtol) if self.atol is None else self.atol

    def column(self) -> str:
        """The `settings` column: "rtol=0.01 atol=1e-05 confidence=0.999 certify=0 …"."""
        return (
            f"rtol={self.rtol:g} atol={self.floor:g} confidence={self.confidence:g} "
            f"certify={int(self.certify)} max_matvecs={self.max_matvecs}"
        )

    def key(self) -> dict[str, Any]:
        """The columns that say which matrix."""
        return {
            "operator": self.operator,
            "parameters": "*" if self.parameters is None else ",".join(self.parameters),
            "weight_decay": float(self.weight_decay),
        }

    def matrix(self) -> dict[str, Any]:
        """Keyword arguments for `subset_operator`."""
        return {
            "operator": self.operator,
            "parameters": self.parameters,
            "weight_decay": self.weight_decay,
        }

    def iteration(self) -> dict[str, Any]:
        """Keyword arguments for `extreme_eigenvalues`."""
        return {
            "rtol": self.rtol,
            "confidence": self.confidence,
            "certify": self.certify,
            "max_matvecs": self.max_matvecs,
            "atol": self.floor,
        }


@dataclass(frozen=True)
class ViewSettings:
    """Options of the views.

    Attributes:
        steps: Lanczos steps a probe, of the density.
        probes: random probes of the density and of the trace; None takes 8 and 30.
        k: eigenvalues at each end.
        radius: slices and plane reach from −radius to radius, in the units of w.
        points: of a slice.
        plane_points: of a plane along each direction.
        resamples: of the bootstrap.
        level: nominal coverage of the bootstrap's intervals.

    Raises:
        UsageError: an option out of range.
    """

    steps: int = 60
    probes: int | None = None
    k: int = 10
    radius: float = 0.5
    points: int = 41
    plane_points: int = 11
    resamples: int = 20
    level: float = 0.9

    def __post_init__(self) -> None:
        counts = ("steps", "probes", "k", "points", "plane_points", "resamples")
        for name in counts:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} = {value}: expected at least 1")
        if not (math.isfinite(self.radius) and self.radius > 0.0):
            raise UsageError(f"radius = {self.radius}: expected a positive distance")
        interval_rank(self.resamples, self.level)  # refuses too few resamples, in words

    @property
    def density_probes(self) -> int:
        """Probes of the density: each takes `steps` products."""
        return 8 if self.probes is None else self.probes

    @property
    def trace_probes(self) -> int:
        """Probes of the trace: each takes one product."""
        return 30 if self.probes is None else self.probes
