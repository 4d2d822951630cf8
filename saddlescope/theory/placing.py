"""Where real checkpoints stand in the phase diagram: read from run folders, nothing computed anew.

Of each measured row λ_min and ‖∇L‖ stand in the spectrum table; the step size η is that of its
epoch and the radius ρ its recipe's. Theorem 1's L is a maximum over trajectories: with ‖∇L‖ in its
place the hypothesis looks easier to meet than it is, so where b falls short here it is not met.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from saddlescope.errors import DataError
from saddlescope.runs import RunFolder, read_rows, read_spectrum, record_at
from saddlescope.theory.phase import (
    DISPLACEMENT_REGIONS,
    DISTANCE_REGIONS,
    displacement_region,
    distance_region,
    theorem1_border,
)

COLUMNS = (
    "run", "method", "checkpoint", "epoch", "split", "kind", "name", "eta", "rho", "lambda_min",
    "gradient_norm", "a", "b", "distance", "displacement", "b_theorem1", "theorem1_possible",
)  # fmt: skip


def place(
    folders: Iterable[RunFolder],
    *,
    mu: float = 1.0,
    skip: Callable[[DataError], None] | None = None,
) -> pd.DataFrame:
    """One row for each row of their spectra with λ_min < 0 and a step size.

    Args:
        folders: of runs with spectra.
        mu: μ of Theorem 1.
        skip: told why a run is left out whose record is broken; None raises that.

    Returns:
        The columns `COLUMNS`; `b_theorem1` is the least b with which its hypothesis can hold.

    Raises:
        DataError: no folder has a spectrum, or a run's record is broken.
    """
    rows: list[dict[str, Any]] = []
    measured = False
    for folder in folders:
        try:
            with record_at(folder.path):
                found = _placed(folder, mu)
        except DataError as error:
            if skip is None:
                raise
            skip(error)
            continue
        measured = measured or bool(folder.spectrum_files())
        rows += found
    if not measured:
        raise DataError("no spectrum in these folders; run `saddlescope spectrum RUN` first")
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _placed(folder: RunFolder, mu: float) -> list[dict[str, Any]]:
    steps = {
        row["epoch"]: row.get("lr") for row in read_rows(folder.metrics_file) if "epoch" in row
    }
    method = folder.recipe().get("method", {})
    rows = []
    for file in folder.spectrum_files():
        for found in read_spectrum(file):
            eta = steps.get(found["epoch"])
            if eta and found["lambda_min"] < 0 and found["gradient_norm"] > 0:
                rows.append(_row(folder, found, float(eta), radius(method, found), mu))
    return rows


def radius(method: Mapping[str, Any], row: Mapping[str, Any]) -> float:
    """ρ with which a method perturbs these samples; of SGD what SAM would take."""
    name = method.get("name")
    if name in ("imbsam", "sam-ext", "sse-sam"):
        tail = row["kind"] == "group" and row["name"] == "tail"
        key = "rho_tail" if tail or name == "imbsam" else "rho_head"
        return float(method.get(key, 0.05))
    return float(method.get("rho", 0.05))


def _row(
    folder: RunFolder, found: Mapping[str, Any], eta: float, rho: float, mu: float
) -> dict[str, Any]:
    size, slope = -found["lambda_min"], found["gradient_norm"]
    a, b = eta * size, rho * size / slope
    needed = float(theorem1_border(a, mu))
    return {
        "run": folder.name,
        **{key: found[key] for key in ("method", "checkpoint", "epoch", "split", "kind", "name")},
        "eta": eta,
        "rho": rho,
        "lambda_min": found["lambda_min"],
        "gradient_norm": slope,
        "a": a,
        "b": b,
        "distance": DISTANCE_REGIONS[int(distance_region(a, b))],
        "displacement": DISPLACEMENT_REGIONS[int(displacement_region(b))],
        "b_theorem1": needed,
        "theorem1_possible": b >= needed,
    }
