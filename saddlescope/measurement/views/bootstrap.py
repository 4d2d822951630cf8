"""How much the ends depend on which samples there are."""

from saddlescope.curvature import NothingToResample, bootstrap_spectra
from saddlescope.measurement.views.row_work import RowWork
from saddlescope.measurement.views.view import Records, View
from saddlescope.wording import exact


def _compute(work: RowWork) -> Records:
    target, options = work.target, work.settings.views
    try:
        found = bootstrap_spectra(
            target.model,
            target.criterion,
            target.samples,
            work.subset,
            resamples=options.resamples,
            level=options.level,
            seed=work.seed,
            measured=work.measured,
            progress=work.check,
            matrix=work.settings.matrix,
            stop=work.settings.stop,
        )
    except NothingToResample as reason:
        return [{"skipped": str(reason), "gradient_cost": 0.0}]
    cost = found.bootstrap_gradient_cost
    return [found.columns() | {"skipped": "", "gradient_cost": cost}]


VIEW = View(
    compute=_compute,
    settings=lambda row, _rule: (
        f"{row.column()} resamples={row.views.resamples} level={exact(row.views.level)}"
    ),
    gradients=lambda options, products: options.resamples * (2.0 * products + 2.0),
    from_row=True,
)
