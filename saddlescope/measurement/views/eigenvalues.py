"""The k outermost eigenvalues at each end, with bounds."""

from typing import Any, Literal

from saddlescope.curvature import Eigenpairs, top_eigenpairs
from saddlescope.measurement.settings import Settings
from saddlescope.measurement.views.row_work import RowWork
from saddlescope.measurement.views.view import Records, View
from saddlescope.wording import exact


def _compute(work: RowWork) -> Records:
    stop, seed, records = work.settings.stop, work.own_seed("eigenvalues"), []
    ends: tuple[Literal["max", "min"], ...] = ("max", "min")
    for end in ends:

        def outermost(matrix: Any, end: Literal["max", "min"] = end) -> Eigenpairs:
            return top_eigenpairs(
                matrix, stop, k=min(work.settings.views.k, matrix.size), end=end, seed=seed
            )

        found, cost = work.count(outermost)
        columns = (found.values, found.lower, found.upper, found.residuals)
        pairs = zip(*(column.tolist() for column in columns), strict=True)
        for rank, (value, lower, upper, residual) in enumerate(pairs, start=1):
            records.append(
                {
                    "end": end,
                    "rank": rank,
                    "eigenvalue": value,
                    "residual": residual,
                    "eigenvalue_lower": lower,
                    "eigenvalue_upper": upper,
                    "confidence": found.confidence,
                    "matvecs": found.matvecs,
                    "converged": found.converged,
                    "gradient_cost": cost,
                }
            )
    return records


def _settings(row: Settings, _: object) -> str:
    stop = row.stop
    return (
        f"k={row.views.k} rtol={exact(stop.rtol)} atol={exact(stop.floor)} "
        f"confidence={exact(stop.confidence)} max_matvecs={stop.max_matvecs}"
    )


VIEW = View(
    compute=_compute,
    settings=_settings,
    # 2 gradients a product, at 2 ends, with about twice the products of the row's own ends.
    gradients=lambda options, products: 2.0 * 2.0 * 2.0 * max(products, 2 * options.k),
)
