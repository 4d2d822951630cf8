"""The loss along v_max and v_min, and its second difference beside the eigenvalue."""

from typing import Final

import numpy as np

from saddlescope.curvature import loss_slice, measured_curvature
from saddlescope.measurement.views.row_work import RowWork
from saddlescope.measurement.views.view import Records, View
from saddlescope.wording import exact

SECOND_DIFFERENCE: Final = 60
"""Losses that a measured second difference takes, about."""


def _compute(work: RowWork) -> Records:
    assert work.ends.eigenvectors is not None
    objective, options, records = work.built.base.objective, work.settings.views, []
    radii = np.linspace(-options.radius, options.radius, options.points)
    ends = {"v_max": work.ends.lambda_max, "v_min": work.ends.lambda_min}
    for (direction, end), vector in zip(ends.items(), work.ends.eigenvectors, strict=True):
        found = loss_slice(objective, vector, radii.tolist())
        work.check(0, float("nan"), float("nan"))
        seen = measured_curvature(objective, vector)
        work.check(0, float("nan"), float("nan"))
        record = {
            "direction": direction,
            "eigenvalue": end.value,
            "eigenvalue_lower": end.lower,
            "eigenvalue_upper": end.upper,
            "measured": seen.value,
            "measured_error": seen.error,
            "measured_step": seen.step,
            "loss_noise": seen.noise,
            "agrees": end.lower - seen.error <= seen.value <= end.upper + seen.error,
            "converged": work.ends.converged,
            "radii": found.radii.tolist(),
            "losses": found.losses.tolist(),
            "gradient_cost": round((options.points + seen.evaluations) / 3.0, 2),
        }
        records.append(record)
    return records


VIEW = View(
    compute=_compute,
    settings=lambda row, _rule: (
        f"{row.column()} radius={exact(row.views.radius)} points={row.views.points}"
    ),
    gradients=lambda options, _products: 2.0 * (options.points + SECOND_DIFFERENCE) / 3.0,
    from_row=True,
    of_the_loss=True,
)
