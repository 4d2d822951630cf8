"""The trace by random probes, with its standard error."""

from saddlescope.curvature import trace
from saddlescope.measurement.views.row_work import RowWork
from saddlescope.measurement.views.view import Records, View


def _compute(work: RowWork) -> Records:
    probes, seed = work.settings.views.trace_probes, work.own_seed("trace")
    found, cost = work.count(lambda matrix: trace(matrix, probes=probes, seed=seed))
    record = {
        "trace": found.value,
        "trace_error": found.standard_error,
        "probes": found.probes,
        "matvecs": found.probes,
        "gradient_cost": cost,
    }
    return [record]


VIEW = View(
    compute=_compute,
    settings=lambda row, _rule: f"probes={row.views.trace_probes}",
    gradients=lambda options, _products: 2.0 * options.trace_probes,
)
