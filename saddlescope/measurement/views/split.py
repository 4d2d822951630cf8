"""Both ends and the gradient: their Gauss-Newton part, and what the loss does along them."""

import math
from typing import Final

from saddlescope.curvature import HessianOperator, spectral_energy, split_curvature
from saddlescope.measurement.views.row_work import RowWork
from saddlescope.measurement.views.view import Records, View

BELOW: Final = 0.01
"""A split counts as curving down what lies below −0.01·λ_max."""

FLOAT64: Final = 4.0
"""Gradients in float32 that one in float64 takes, about, where there are convolutions."""

SHARE_COLUMNS: Final = ("gradient_below", "gradient_below_lower", "gradient_below_upper")
ARRAYS: Final = ("distances", "curvatures", "losses_ahead", "losses_behind")


def _compute(work: RowWork) -> Records:
    base, ends = work.built.base, work.ends
    assert isinstance(base, HessianOperator)
    found = split_curvature(ends, base)
    work.check(0, float("nan"), float("nan"))
    below, cost, share = -BELOW * ends.lambda_max.value, found.cost, (math.nan,) * 3
    if bool(base.gradient.any()):
        energy, more = work.count(
            lambda matrix: spectral_energy(matrix, base.gradient, steps=work.settings.views.steps)
        )
        share, cost = energy.below(below), cost + more
    return [
        {
            **{name: getattr(part, name) for name in ("direction", "hessian", "gauss_newton")},
            "remainder": part.remainder,
            "cos_gradient": part.cos_gradient,
            "gradient_loss_ratio": found.gradient_loss_ratio,
            "loss": found.loss,
            "below": below,
            **dict(zip(SHARE_COLUMNS, share, strict=True)),
            "converged": ends.converged,
            **{name: getattr(part, name).tolist() for name in ARRAYS},
            "gradient_cost": round(cost, 2),
        }
        for part in found.parts
    ]


VIEW = View(
    compute=_compute,
    settings=lambda row, _rule: f"{row.column()} steps={row.views.steps} below={BELOW:g}",
    gradients=lambda options, _products: (
        2.0 * options.steps + FLOAT64 * (2.0 + 3.0 * (2.0 + 7.0 / 3.0)) + 5.0
    ),
    from_row=True,
    of_the_loss=True,
)
