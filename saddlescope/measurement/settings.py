"""Options of a spectrum job that decide its numbers, as the columns of its tables hold them."""

import math
from dataclasses import dataclass, field
from typing import Any

from saddlescope.curvature import TYPICAL_PRODUCTS, MatrixSpec, StopRule, interval_rank
from saddlescope.errors import UsageError
from saddlescope.wording import exact

_CERTIFIED_PRODUCTS = 50


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


@dataclass(frozen=True)
class Settings:
    """Say what is measured of a row, and how precisely.

    Attributes:
        stop: the `settings` column.
        matrix: the columns `operator`, `parameters` (name patterns only) and `weight_decay`.
        views: how what `--with` adds is computed.
    """

    stop: StopRule = field(default_factory=StopRule)
    matrix: MatrixSpec = field(default_factory=MatrixSpec)
    views: ViewSettings = field(default_factory=ViewSettings)

    @property
    def typical_products(self) -> int:
        """Return about how many products a row takes."""
        typical = _CERTIFIED_PRODUCTS if self.stop.certify else TYPICAL_PRODUCTS
        return min(self.stop.max_matvecs, typical)

    def column(self) -> str:
        """Return the `settings` column: "rtol=0.01 atol=1e-05 confidence=0.999 certify=0 …"."""
        stop = self.stop
        return (
            f"rtol={exact(stop.rtol)} atol={exact(stop.floor)} confidence={exact(stop.confidence)} "
            f"certify={int(stop.certify)} max_matvecs={stop.max_matvecs}"
        )

    def key(self) -> dict[str, Any]:
        """Return the columns that say which matrix; `SpectrumJob.plan` has named the parameters."""
        chosen = self.matrix.parameters
        patterns = (chosen,) if isinstance(chosen, str) else chosen
        return {
            "operator": self.matrix.operator,
            "parameters": ",".join(map(str, patterns)) if isinstance(patterns, tuple) else "*",
            "weight_decay": float(self.matrix.weight_decay),
        }
