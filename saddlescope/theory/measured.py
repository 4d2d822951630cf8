"""What Theorem 6 asks of a run, read from its folder."""

import math
from typing import Any

from saddlescope.errors import DataError
from saddlescope.runs import RadiusOptions, RunFolder, read_spectrum, record_at
from saddlescope.theory.theorem6 import BoundTerms


def bound_terms(folder: RunFolder, *, weight_norm: float) -> BoundTerms:
    """Read the terms of Theorem 6 from a run: of the row "all" on the training set.

    Args:
        folder: of a run with the spectrum of its last checkpoint.
        weight_norm: ‖w‖ of that checkpoint.

    Raises:
        DataError: no such row, or a broken record.
    """
    file = folder.spectrum_file("last", "train")
    if not file.is_file():
        raise DataError(f"{file}: missing; run `saddlescope spectrum {folder.path}` first")
    rows = [r for r in read_spectrum(file) if (r["kind"], r["name"]) == ("group", "all")]
    if not rows:
        raise DataError(f"{file}: no row for the group 'all'")
    with record_at(folder.path):
        return _terms(folder, rows[0], weight_norm)


def _terms(folder: RunFolder, row: dict[str, Any], weight_norm: float) -> BoundTerms:
    run = folder.run()
    rho = float(folder.recipe().get("method", {}).get("rho", RadiusOptions.rho))
    if not rho > 0 or not math.isfinite(row["lambda_max"]):
        raise DataError(f"{folder.path}: Theorem 6 needs ρ > 0 and a finite λ_max")
    return BoundTerms(
        loss=float(row["loss"]),
        lambda_max=float(row["lambda_max_upper"]),
        rho=rho,
        parameters=int(run["parameters"]),
        samples=int(sum(run["data"]["counts"])),
        weight_norm=weight_norm,
    )
