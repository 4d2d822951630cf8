"""Bounds of second order in the residual, with a gap certified by a second run."""

from saddlescope.curvature import temple_bounds
from saddlescope.measurement.views.row_work import RowWork
from saddlescope.measurement.views.view import Records, View


def _compute(work: RowWork) -> Records:
    stop, ends = work.settings.stop, work.ends
    found, cost = work.count(lambda matrix: temple_bounds(matrix, ends, stop, seed=work.seed))
    records = []
    for end, bound in (("max", found.lambda_max), ("min", found.lambda_min)):
        record = {
            "end": end,
            "value": bound.value,
            "residual": bound.residual,
            "gap": bound.gap,
            "temple_lower": bound.lower,
            "temple_upper": bound.upper,
            "confidence": found.confidence,
            "matvecs": found.matvecs,
            "gradient_cost": cost,
        }
        records.append(record)
    return records


VIEW = View(
    compute=_compute,
    settings=lambda row, _rule: row.column(),
    gradients=lambda _options, products: 2.0 * products,
    from_row=True,
)
