"""The density of the eigenvalues, by stochastic Lanczos quadrature."""

from typing import Final

import numpy as np

from saddlescope.curvature import spectral_density
from saddlescope.measurement.views.row_work import RowWork
from saddlescope.measurement.views.view import Records, View

GRID_POINTS: Final = 256
"""Points at which a density is evaluated for drawing."""


def _compute(work: RowWork) -> Records:
    options, seed = work.settings.views, work.own_seed("density")
    found, cost = work.count(
        lambda matrix: spectral_density(
            matrix, steps=options.steps, probes=options.density_probes, seed=seed
        )
    )
    low, high = float(found.nodes.min()), float(found.nodes.max())
    # One per cent of the range; of a single point, of its distance from 0.
    sigma = 0.01 * ((high - low) or abs(high) or 1.0)
    grid = np.linspace(low - 5.0 * sigma, high + 5.0 * sigma, GRID_POINTS)
    band = found.evaluate(grid, sigma=sigma)
    record = {
        "steps": options.steps,
        "probes": options.density_probes,
        "size": found.size,
        "matvecs": found.matvecs,
        "nodes": found.nodes.tolist(),
        "weights": found.weights.tolist(),
        "sigma": sigma,
        "grid": grid.tolist(),
        "density": band.mean.tolist(),
        "density_spread": band.spread.tolist(),
        "gradient_cost": cost,
    }
    return [record]


VIEW = View(
    compute=_compute,
    settings=lambda row, _rule: f"steps={row.views.steps} probes={row.views.density_probes}",
    gradients=lambda options, _products: 2.0 * options.steps * options.density_probes,
)
