"""When two tools agree about an eigenvalue, and the rows of a check."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from saddlescope.curvature import Ends, Estimate
from saddlescope.curvature.reference import Reference

INSTRUMENT = "saddlescope"
"""The tool of the rows that hold the measurement itself."""

LARGE_SHARE: Final = 0.1
"""A tool has not converged where its own error is a larger share of the eigenvalue than this: ten
times the width of an interval of the usual tolerance. Of a value known no better, nearly every
interval holds something, and to call that agreement would say nothing."""
SMALL_SHARE: Final = 1e-3
"""Nor is an error below this share of ‖H‖ held against a tool: an eigenvalue near 0 is known to a
share of the largest one at best, by every tool."""


@dataclass(frozen=True)
class CheckRow:
    """One tool's answer for one class or group. Field names are the columns of the table.

    Attributes:
        kind, name, n: which row of a spectrum, and how many of its samples took part.
        tool: who says it; `INSTRUMENT` is the measurement that is checked.
        lambda_max, lambda_min: with `_lower` and `_upper`: of the instrument its interval, of a
            reference its own error. None where the tool does not give this end.
        lambda_max_inside, lambda_min_inside: whether the reference lies inside the instrument's
            interval, to within its own error; None where that is too large to tell.
        difference, allowed: of a test that compares no end, in the units of the eigenvalues.
        agrees: all of the above; None if the tool could not be used, or has not converged.
        converged: of the instrument, whether its intervals are as narrow as was asked for.
        products: Hessian-vector products it used.
        seconds: wall clock.
        note: what a reader must know: why a tool was not used, which end it cannot give.
    """

    kind: Literal["group", "class"]
    name: str
    n: int
    tool: str
    lambda_max: float | None = None
    lambda_max_lower: float | None = None
    lambda_max_upper: float | None = None
    lambda_max_inside: bool | None = None
    lambda_min: float | None = None
    lambda_min_lower: float | None = None
    lambda_min_upper: float | None = None
    lambda_min_inside: bool | None = None
    difference: float | None = None
    allowed: float | None = None
    agrees: bool | None = None
    converged: bool | None = None
    products: int | None = None
    seconds: float = 0.0
    note: str = ""

    def columns(self) -> dict[str, Any]:
        """Return the row as plain data."""
        return asdict(self)


def compared(found: Reference, ends: Ends) -> dict[str, Any]:
    """Hold a reference against the instrument's intervals, and return its columns.

    A reference contradicts an interval if all that its own error allows lies outside. One that has
    not converged (see `LARGE_SHARE`) cannot agree; it contradicts only if an eigenvalue, of which
    one lies within its error, must lie beyond the interval's outer side.
    """
    columns: dict[str, Any] = {}
    verdicts: list[bool | None] = []
    notes = [found.note] if found.note else []
    scale = max(abs(ends.lambda_max.value), abs(ends.lambda_min.value))
    for name, letter in (("lambda_max", "λ_max"), ("lambda_min", "λ_min")):
        value, interval = getattr(found, name), getattr(ends, name)
        if value is None:
            continue
        inside: bool | None = _inside(value, found.error, interval)
        size = max(abs(value), abs(interval.value))
        if not found.error <= max(LARGE_SHARE * size, SMALL_SHARE * max(scale, abs(value))):
            inside = False if _beyond(name, value, found.error, interval) else None
            notes.append(f"not converged: its own error is ±{found.error:.2g} on {letter}")
        verdicts.append(inside)
        columns |= {
            name: value,
            f"{name}_lower": value - found.error,
            f"{name}_upper": value + found.error,
            f"{name}_inside": inside,
        }
    undecided = None if None in verdicts else True
    return columns | {
        "agrees": False if False in verdicts else undecided,
        "products": found.products,
        "seconds": found.seconds,
        "note": "; ".join(notes),
    }


def contradictions(rows: Sequence[CheckRow]) -> list[str]:
    """Say every disagreement in a sentence; none if all agree."""
    found = []
    for row in rows:
        if row.agrees is not False:
            continue
        ends = (("λ_max", row.lambda_max_inside), ("λ_min", row.lambda_min_inside))
        outside = [end for end, inside in ends if inside is False]
        what = f"lies outside the interval of {' and '.join(outside)}"
        if not outside:
            what = f"differs by {row.difference:.3g} where {row.allowed:.3g} is allowed"
        found.append(f"{row.kind} {row.name}: {row.tool} {what}")
    return found


def _inside(value: float, error: float, interval: Estimate) -> bool:
    return bool(interval.lower - error <= value <= interval.upper + error)


def _beyond(name: str, value: float, error: float, interval: Estimate) -> bool:
    """Tell whether some eigenvalue must lie farther out than the interval allows."""
    if name == "lambda_max":
        return value - error > interval.upper
    return value + error < interval.lower
