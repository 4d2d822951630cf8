"""The loss on the plane of v_max and v_min."""

import numpy as np

from saddlescope.curvature import loss_plane
from saddlescope.measurement.views.row_work import RowWork
from saddlescope.measurement.views.view import Records, View
from saddlescope.wording import exact


def _compute(work: RowWork) -> Records:
    assert work.ends.eigenvectors is not None
    options, (v_max, v_min) = work.settings.views, work.ends.eigenvectors
    radii = np.linspace(-options.radius, options.radius, options.plane_points)
    found = loss_plane(work.built.base.objective, v_max, v_min, radii.tolist())
    record = {
        "lambda_max": work.ends.lambda_max.value,
        "lambda_min": work.ends.lambda_min.value,
        "converged": work.ends.converged,
        "v_max_radii": found.first_radii.tolist(),
        "v_min_radii": found.second_radii.tolist(),
        "losses": found.losses.tolist(),
        "gradient_cost": round(found.losses.size / 3.0, 2),
    }
    return [record]


VIEW = View(
    compute=_compute,
    settings=lambda row, _rule: (
        f"{row.column()} radius={exact(row.views.radius)} points={row.views.plane_points}"
    ),
    gradients=lambda options, _products: options.plane_points**2 / 3.0,
    from_row=True,
    of_the_loss=True,
)
