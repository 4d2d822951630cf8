"""From run folders on disk to `Run` objects, and from broken folders to one-line problems.

Nothing here raises because of what a folder holds: a report of nineteen good runs must not be
lost to the twentieth, which a full disk cut in half.
"""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from saddlescope.errors import SaddlescopeError
from saddlescope.reporting.text import clean, method_label
from saddlescope.runs import (
    METRIC_COLUMNS,
    SPECTRUM_COLUMNS,
    RunFolder,
    find_runs,
    read_rows,
    read_spectrum,
    read_view,
    view_file,
)

MONITOR_COLUMNS = (
    "epoch", "kind", "name", "n", "gradient_norm",
    *(
        f"{quantity}{end}"
        for quantity in ("lambda_max", "lambda_min", "lambda_ratio")
        for end in ("", "_lower", "_upper")
    ),
)  # fmt: skip
"""What is read of `monitor.jsonl`."""

DRAWN_VIEWS = ("density", "slices", "plane")
"""Views that a figure is drawn from."""

_READ_ERRORS = (SaddlescopeError, OSError, ValueError, csv.Error, RecursionError)


@dataclass(frozen=True)
class Problem:
    """Something that could not be read: the folder's name and a one-line reason."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Run:
    """One run folder in memory.

    Attributes:
        name: The folder's name.
        method: Method key, such as `sse-sam`.
        method_label: The method's name as the paper prints it.
        seed: The training seed, where the folder tells it.
        recipe: The resolved recipe as plain data.
        recipe_text: The same as it stands in the file.
        info: The content of run.json.
        metrics: One row an epoch, all of `METRIC_COLUMNS`; NaN where the file has no value.
        spectra: Every row of every spectrum table, all of `SPECTRUM_COLUMNS`.
        monitor: Eigenvalues measured while training, one row a measurement and group, all of
            `MONITOR_COLUMNS`.
        views: Records of the views that figures are drawn from, by view.
    """

    name: str
    method: str
    method_label: str
    seed: int | None
    recipe: dict[str, Any]
    recipe_text: str
    info: dict[str, Any]
    metrics: pd.DataFrame
    spectra: pd.DataFrame
    monitor: pd.DataFrame
    views: dict[str, list[dict[str, Any]]]

    @property
    def data(self) -> dict[str, Any]:
        """What run.json tells about the data set."""
        return _mapping(self.info.get("data"))

    @property
    def counts(self) -> list[int]:
        """Training samples of each class."""
        return _integers(self.data.get("counts"))

    @property
    def class_names(self) -> list[str]:
        """The class names, or an empty list."""
        names = self.data.get("class_names")
        return [str(name) for name in names] if isinstance(names, list) else []

    @property
    def switch_epoch(self) -> int | None:
        """The first epoch of stage 2."""
        return _integer(self.info.get("switch_epoch"))

    @property
    def epochs(self) -> int | None:
        """The epochs the run was to have."""
        return _integer(self.info.get("epochs"))

    @property
    def finished(self) -> bool:
        """Whether the training came to its end."""
        return self.info.get("state") == "finished"

    @property
    def provenance(self) -> dict[str, Any]:
        """Command, versions, hardware."""
        return _mapping(self.info.get("provenance"))

    def group(self, name: str) -> list[int]:
        """The classes of a group such as `head` or `few`; empty when unknown."""
        return _integers(_mapping(self.data.get("groups")).get(name))


def load_runs(paths: Iterable[str | Path]) -> tuple[list[Run], list[Problem]]:
    """Read run folders; a folder that contains run folders stands for all of them.

    Args:
        paths: Folders. One named twice is read once.

    Returns:
        The runs in the order given (folders inside a folder by name), and what was wrong.
    """
    runs: list[Run] = []
    problems: list[Problem] = []
    seen: set[Path] = set()
    for path in map(Path, paths):
        if not path.is_dir():
            problems.append(Problem(clean(path.name or str(path)), "no such folder"))
            continue
        folders = find_runs(path)
        if not folders:
            problems.append(Problem(clean(path.resolve().name), "holds no run folder"))
        for folder in folders:
            if folder.path.resolve() in seen:
                continue
            seen.add(folder.path.resolve())
            try:
                runs.append(_load(folder, problems))
            except _READ_ERRORS as error:
                problems.append(_problem(folder, error))
    return runs, problems


def _load(folder: RunFolder, problems: list[Problem]) -> Run:
    recipe = clean(folder.recipe())
    info = clean(folder.run())
    method = str(info.get("method") or _mapping(recipe.get("method")).get("name") or "unknown")
    seed = _integer(info.get("seed"))
    run = Run(
        name=clean(folder.name),
        method=method,
        method_label=method_label(method),
        seed=_integer(_mapping(recipe.get("training")).get("seed")) if seed is None else seed,
        recipe=recipe,
        recipe_text=clean(folder.recipe_file.read_text(encoding="utf-8")),
        info=info,
        metrics=_metrics(folder, problems),
        spectra=_spectra(folder, problems),
        monitor=_monitor(folder, problems),
        views=_views(folder, problems),
    )
    if not run.finished:
        state = run.info.get("state") or "not stated"
        reason = f"state {state}: {len(run.metrics)} of {run.epochs or '?'} epochs; shown as it is"
        problems.append(Problem(run.name, " ".join(reason.split())))
    return run


def _metrics(folder: RunFolder, problems: list[Problem]) -> pd.DataFrame:
    try:
        rows = clean(read_rows(folder.metrics_file))
    except _READ_ERRORS as error:
        problems.append(_problem(folder, error))
        rows = []
    frame = pd.DataFrame(
        [{column: row.get(column) for column in METRIC_COLUMNS} for row in rows],
        columns=list(METRIC_COLUMNS),
    )
    for column in METRIC_COLUMNS:
        if column != "acc_per_class":
            frame[column] = pd.to_numeric(frame[column], errors="coerce").astype(float)
    epoch = frame["epoch"].where(frame["epoch"].notna(), pd.Series(range(len(frame)), dtype=float))
    frame["epoch"] = epoch.astype(int)
    # A run resumed in the middle of an epoch may have written that epoch twice.
    frame = frame.drop_duplicates("epoch", keep="last")
    return frame.sort_values("epoch").reset_index(drop=True)


def _spectra(folder: RunFolder, problems: list[Problem]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for file in folder.spectrum_files():
        try:
            rows += clean(read_spectrum(file))
        except _READ_ERRORS as error:
            problems.append(_problem(folder, error))
    return pd.DataFrame(rows, columns=list(SPECTRUM_COLUMNS))


def _monitor(folder: RunFolder, problems: list[Problem]) -> pd.DataFrame:
    try:
        rows = clean(read_rows(folder.monitor_file))
    except _READ_ERRORS as error:
        problems.append(_problem(folder, error))
        rows = []
    frame = pd.DataFrame(
        [{column: row.get(column) for column in MONITOR_COLUMNS} for row in rows],
        columns=list(MONITOR_COLUMNS),
    )
    for column in MONITOR_COLUMNS:
        if column not in ("kind", "name"):
            frame[column] = pd.to_numeric(frame[column], errors="coerce").astype(float)
    frame[["kind", "name"]] = frame[["kind", "name"]].astype(str)
    return frame.dropna(subset=["epoch"]).reset_index(drop=True)


def _views(folder: RunFolder, problems: list[Problem]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for table in folder.spectrum_files():
        for view in DRAWN_VIEWS:
            file = view_file(table, view)
            if not file.is_file():
                continue
            try:
                records = clean(read_view(file))
            except _READ_ERRORS as error:
                problems.append(_problem(folder, error))
            else:
                found.setdefault(view, []).extend(records)
    return found


def _problem(folder: RunFolder, error: BaseException) -> Problem:
    text = str(error).replace(f"{folder.path}/", "").replace(str(folder.path), folder.name)
    reason = " ".join(clean(text).split()) or type(error).__name__
    return Problem(clean(folder.name), reason[:300])


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _integer(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if math.isfinite(value) else None


def _integers(values: Any) -> list[int]:
    if not isinstance(values, list):
        return []
    numbers = [_integer(value) for value in values]
    return [number for number in numbers if number is not None]
