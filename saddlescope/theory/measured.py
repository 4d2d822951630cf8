"""The terms of Theorem 6, read from a run folder."""

import math
from typing import Any

from saddlescope.errors import DataError
from saddlescope.runs import RadiusOptions, RunFolder, of_one_loss, read_spectrum, record_at
from saddlescope.theory.theorem6 import LEAST_RHO, MOST_RHO, Terms


def bound_terms(
    folder: RunFolder, *, weight_norm: float, weights: str = "", rho: float | None = None
) -> Terms:
    """Read the terms of the bound from the row "all" on the training set.

    Args:
        folder: of a run with the spectrum of its last checkpoint.
        weight_norm: ‖w‖ of that checkpoint.
        weights: its digest, with which the row's own has to begin; "" takes any row.
        rho: ρ, any above 0, for which the bound holds; None is the recipe's `method.rho`, whatever
            radii its method takes.

    Raises:
        DataError: no such row, one of other weights, or a broken record.
    """
    file = folder.spectrum_file("last", "train")
    if not file.is_file():
        raise DataError(f"{file}: missing; run `saddlescope spectrum {folder.path}` first")
    rows = of_one_loss(read_spectrum(file))
    rows = [row for row in rows if (row["kind"], row["name"]) == ("group", "all")]
    if not rows:
        raise DataError(
            f"{file}: no row for the group 'all' of the Hessian of all parameters; run "
            f"`saddlescope spectrum {folder.path} --groups all` first"
        )
    rows = [row for row in rows if row["digest"].startswith(weights)]
    if not rows:
        raise DataError(
            f"{file}: was measured of other weights than {folder.path} ends with (trained on "
            f"since?); run `saddlescope spectrum {folder.path} --groups all` again"
        )
    with record_at(folder.path):
        return _terms(folder, rows[0], weight_norm, rho)


def _terms(folder: RunFolder, row: dict[str, Any], weight_norm: float, rho: float | None) -> Terms:
    run = folder.run()
    if rho is None:
        rho = float(folder.recipe().get("method", {}).get("rho", RadiusOptions.rho))
    if not LEAST_RHO <= rho <= MOST_RHO or not math.isfinite(row["lambda_max"]):
        raise DataError(
            f"{folder.path}: Theorem 6 needs a finite λ_max, and ρ > 0 whose "
            f"square is finite; it is {rho:g}"
        )
    return Terms(
        loss=float(row["loss"]),
        lambda_max=float(row["lambda_max_upper"]),
        rho=rho,
        parameters=int(run["parameters"]),
        samples=int(sum(run["data"]["counts"])),
        weight_norm=weight_norm,
    )
