"""Where real checkpoints stand in the phase diagram: read from run folders, nothing computed anew.

Of each measured row λ_min stands in the spectrum table. What makes a step of it is the run's:

- η is the step size of the row's epoch over 1 − β, the length of a step that momentum β repeats;
  rows at the end of a schedule, where η has all but vanished, are left out: no step is taken.
- ρ is the radius with which the method perturbs the row's samples in that epoch: of head or tail,
  where all of them lie in one, and what SAM would take for SGD. Rows not perturbed are left out.
- ‖∇L‖ is a mini-batch's, where norms.jsonl has it (rows "all", "head", "tail" of the training
  split under the training loss): that is the gradient which a step divides by, the median over the
  batches logged nearest to the row's epoch. Elsewhere it is the row's own.

Theorem 1's L is a maximum over trajectories: with ‖∇L‖ in its place the hypothesis looks easier to
meet than it is, so where b falls short here it is not met.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import pandas as pd

from saddlescope.errors import DataError, SaddlescopeError
from saddlescope.runs import (
    Radii,
    RadiusOptions,
    RunFolder,
    method_radii,
    of_one_loss,
    read_rows,
    read_spectrum,
    record_at,
)
from saddlescope.stages import counted
from saddlescope.theory.phase import (
    DISPLACEMENT_REGIONS,
    DISTANCE_REGIONS,
    displacement_region,
    distance_region,
    theorem1_border,
)

COLUMNS = (
    "run", "method", "checkpoint", "epoch", "split", "kind", "name", "eta", "rho", "lambda_min",
    "gradient_norm", "norm_of", "a", "b", "distance", "displacement", "b_theorem1",
    "theorem1_possible",
)  # fmt: skip

ENDED: Final = 0.01
"""A schedule has ended where its step size is below this share of the run's largest."""

BATCHES: Final = 3
"""So many logged mini-batches at least, where there are: one alone may hold an odd sample."""


def place(
    folders: Iterable[RunFolder],
    *,
    mu: float = 1.0,
    skip: Callable[[DataError], None] | None = None,
) -> pd.DataFrame:
    """Place each row with λ_min < 0 and a step that perturbs its samples.

    Args:
        folders: of runs with spectra.
        mu: μ of Theorem 1.
        skip: told why a run is left out whose record is broken, or of a method that is not known
            here; None raises that.

    Returns:
        The columns `COLUMNS`; `b_theorem1` is the least b with which its hypothesis can hold.

    Raises:
        DataError: no folder has a spectrum, or a run's record is broken.
    """
    rows: list[dict[str, Any]] = []
    measured = False
    for folder in counted("run", folders):
        # Before it is placed: a spectrum is there, whatever else is wrong with the run.
        measured = measured or bool(folder.spectrum_files())
        try:
            with record_at(folder.path):
                rows += _placed(folder, mu)
        except SaddlescopeError as error:
            # What a recipe on disk says is no mistake in this command's own arguments.
            broken = error if isinstance(error, DataError) else DataError(f"{folder.path}: {error}")
            if skip is None:
                raise broken from None
            skip(broken)
    if not measured:
        raise DataError("no spectrum in these folders; run `saddlescope spectrum RUN` first")
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _placed(folder: RunFolder, mu: float) -> list[dict[str, Any]]:
    files = folder.spectrum_files()
    if not files:
        return []
    rows = []
    steps = _Steps.of(folder)
    for found in of_one_loss([row for file in files for row in read_spectrum(file)]):
        eta, rho = steps.eta(found["epoch"]), steps.radius(found)
        if eta and rho and found["lambda_min"] < 0 and found["gradient_norm"] > 0:
            rows.append(_row(folder, found, eta, rho, steps, mu))
    return rows


@dataclass(frozen=True)
class _Steps:
    """What a run's steps were like, epoch by epoch."""

    sizes: Mapping[int, float]
    momentum: float
    batch_size: int
    radii: Radii
    as_sam: float
    reduction: str
    groups: Mapping[str, Sequence[int]]
    loss: str
    norms: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, folder: RunFolder) -> "_Steps":
        """Read them from a run folder."""
        recipe, rows = folder.recipe(), read_rows(folder.metrics_file)
        method = recipe.get("method", {})
        words = [field.name for field in fields(RadiusOptions) if field.name in method]
        options = RadiusOptions(**{word: method[word] for word in words})
        return cls(
            sizes={row["epoch"]: float(row.get("lr") or 0.0) for row in rows if "epoch" in row},
            momentum=float(recipe.get("optimizer", {}).get("momentum", 0.0)),
            batch_size=int(recipe.get("optimizer", {}).get("batch_size", 1)),
            radii=method_radii(
                method.get("name", "sgd"),
                epochs=int(recipe["training"]["epochs"]),
                options=options,
                first_stage=method.get("first_stage"),
            ),
            as_sam=float(options.rho),
            reduction=method.get("group_reduction", "batch"),
            groups=(folder.run().get("data") or {}).get("groups") or {},
            loss=recipe.get("loss", {}).get("name", "ce"),
            norms=read_rows(folder.norms_file),
        )

    def eta(self, epoch: int | None) -> float | None:
        """η/(1 − β) of an epoch; None where no step is taken any more."""
        size = self.sizes.get(-1 if epoch is None else epoch, 0.0)
        ended = size <= ENDED * max(self.sizes.values(), default=0.0)
        return None if ended else size / (1.0 - self.momentum)

    def radius(self, row: Mapping[str, Any]) -> float | None:
        """ρ of a row's samples in its epoch; None where they have no one radius, 0 without any."""
        radii = self.radii.at(row["epoch"] or 0)
        if "all" in radii:
            return radii["all"] or self.as_sam
        tail = set(self.groups.get("tail", ()))
        classes = self.groups.get(row["name"], ()) if row["kind"] == "group" else [int(row["name"])]
        found = {radii["tail" if c in tail else "head"] for c in classes}
        return found.pop() if len(found) == 1 else None

    def batch_norm(self, row: Mapping[str, Any]) -> float | None:
        """‖∇L_B‖ of a group's mean loss over the mini-batches logged nearest to a row's epoch.

        They are of training images under the training loss: of a row on other data or of another
        loss they say nothing.
        """
        if row["kind"] != "group" or row["name"] not in ("all", "head", "tail") or not self.norms:
            return None
        if row["split"] != "train" or row["criterion"] != self.loss:
            return None
        name, column = row["name"], "gradient_norm"
        column += "" if name == "all" else f"_{name}"
        logged = [(norm, norm[column]) for norm in self.norms if norm.get(column)]
        if not logged:
            return None
        away = sorted(abs(norm["epoch"] - row["epoch"]) for norm, _ in logged)
        reach = away[min(BATCHES, len(away)) - 1]
        return statistics.median(
            value / self._share(norm, name)
            for norm, value in logged
            if abs(norm["epoch"] - row["epoch"]) <= reach
        )

    def _share(self, norm: Mapping[str, Any], name: str) -> float:
        """What the group's mean loss was multiplied by in the batch, see `group_losses`."""
        if name == "all" or self.reduction == "group":
            return 1.0
        tail, batch = norm["batch_tail"], norm.get("batch", self.batch_size)
        twice = 2.0 if (self.reduction, name) == ("batch-tail-x2", "tail") else 1.0
        return twice * (tail if name == "tail" else batch - tail) / batch


def _row(
    folder: RunFolder,
    found: Mapping[str, Any],
    eta: float,
    rho: float,
    steps: _Steps,
    mu: float,
) -> dict[str, Any]:
    of_batch = steps.batch_norm(found)
    slope = found["gradient_norm"] if of_batch is None else of_batch
    size = -found["lambda_min"]
    a, b = eta * size, rho * size / slope
    needed = float(theorem1_border(a, mu))
    return {
        "run": folder.name,
        **{key: found[key] for key in ("method", "checkpoint", "epoch", "split", "kind", "name")},
        "eta": eta,
        "rho": rho,
        "lambda_min": found["lambda_min"],
        "gradient_norm": slope,
        "norm_of": "row" if of_batch is None else "mini-batch",
        "a": a,
        "b": b,
        "distance": DISTANCE_REGIONS[int(distance_region(a, b))],
        "displacement": DISPLACEMENT_REGIONS[int(displacement_region(b))],
        "b_theorem1": needed,
        "theorem1_possible": b >= needed,
    }
