"""How the gradient and each optimiser's update lie to v_max and v_min."""

from saddlescope.curvature import alignments
from saddlescope.measurement.views.row_work import RowWork
from saddlescope.measurement.views.view import Records, View


def _compute(work: RowWork) -> Records:
    base, directions = work.built.base, work.directions()
    names = base.objective.vector.names
    updates = {f"{d.method} {d.stage}": d.flat(names) for d in directions}
    found = alignments(work.ends, base.gradient, updates)
    records = []
    for lies, of in zip(found, (None, *directions), strict=True):
        record = {
            "vector": "gradient" if of is None else of.method,
            "stage": None if of is None else of.stage,
            "rho": "" if of is None else " ".join(f"{g}={r:g}" for g, r in of.radii.items()),
            "norm": lies.norm,
            "cos_v_max": lies.v_max,
            "cos_v_min": lies.v_min,
            "update_cost": 0.0 if of is None else round(of.cost, 2),
            "converged": work.ends.converged,
            "gradient_cost": 1.0,
        }
        records.append(record)
    return records


VIEW = View(
    compute=_compute,
    settings=lambda row, rule: f"{row.column()} {rule.column()} batchnorm=eval",
    gradients=lambda _options, _products: 1.0,
    once=7.0,
    from_row=True,
    of_the_loss=True,
)
