"""From run folders and tables on disk to `Run` objects, and from broken ones to one-line problems.

Nothing here raises because of what a folder holds: a report of nineteen good runs must not be
lost to the twentieth, which a full disk cut in half.

Text is made safe to show as it is read. Labels and recipes are shown as they are, but control
characters (terminal escapes, NUL) and the characters that turn the writing direction around would
act on the reader's screen, and lone surrogates cannot be written as UTF-8; they become U+FFFD. HTML
escaping is left to the template.
"""

import csv
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from saddlescope.errors import SaddlescopeError
from saddlescope.reporting.networks import networks_of
from saddlescope.reporting.text import method_label
from saddlescope.runs import (
    METRIC_COLUMNS,
    SPECTRUM_COLUMNS,
    VIEW_COLUMNS,
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

_ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_READ_ERRORS = (SaddlescopeError, OSError, ValueError, csv.Error, RecursionError)


@dataclass(frozen=True)
class Problem:
    """Something that could not be read: the folder's name and a one-line reason."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Run:
    """One run in memory: a folder, or the rows of one network in tables alone.

    Attributes:
        name: The folder's name, or what the tables call the network.
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
        views: Records of what was kept beside the tables, by view.
        path: The folder; None where only tables are known, and nothing of the training.
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
    path: Path | None = None

    @property
    def data(self) -> dict[str, Any]:
        """The data set, as run.json tells of it."""
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
        """Tell whether the training came to its end."""
        return self.info.get("state") == "finished"

    @property
    def provenance(self) -> dict[str, Any]:
        """Command, versions, hardware."""
        return _mapping(self.info.get("provenance"))

    def group(self, name: str) -> list[int]:
        """List the classes of a group such as `head` or `few`; none when unknown."""
        return _integers(_mapping(self.data.get("groups")).get(name))


def clean(value: Any) -> Any:
    """Replace acting characters in every string of `value`, keys included."""
    if isinstance(value, str):
        return _ACTING.sub("\ufffd", value.replace("\r\n", "\n"))
    if isinstance(value, dict):
        return {clean(str(key)): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    return value


def load_runs(paths: Iterable[str | Path]) -> tuple[list[Run], list[Problem]]:
    """Read run folders and spectrum tables; a folder of run folders stands for all of them.

    Args:
        paths: Folders, and tables as `saddlescope spectrum -o` writes them. What is named twice is
            read once. The rows of one network in several tables become one run.

    Returns:
        The runs in the order given (folders inside a folder by name, then what tables hold), and
        what was wrong.
    """
    problems: list[Problem] = []
    folders: dict[Path, RunFolder] = {}
    tables: dict[Path, Path] = {}
    for path in map(Path, paths):
        if path.is_file():
            tables.setdefault(path.resolve(), path)
        elif path.is_dir():
            found = find_runs(path)
            if not found:
                problems.append(Problem(clean(path.resolve().name), "holds no run folder"))
            for folder in found:
                folders.setdefault(folder.path.resolve(), folder)
        else:
            problems.append(Problem(clean(path.name or str(path)), "no such folder"))
    runs = []
    for folder in folders.values():
        try:
            runs.append(_from_folder(folder, problems))
        except _READ_ERRORS as error:
            problems.append(problem_of(folder.path, error))
    return runs + _from_tables(list(tables.values()), problems), problems


def _from_folder(folder: RunFolder, problems: list[Problem]) -> Run:
    recipe = clean(folder.recipe())
    info = clean(folder.run())
    method = str(info.get("method") or _mapping(recipe.get("method")).get("name") or "unknown")
    seed = _integer(info.get("seed"))
    tables = folder.spectrum_files()
    run = Run(
        name=clean(folder.name),
        method=method,
        method_label=method_label(method),
        seed=_integer(_mapping(recipe.get("training")).get("seed")) if seed is None else seed,
        recipe=recipe,
        recipe_text=clean(folder.recipe_file.read_text(encoding="utf-8")),
        info=info,
        metrics=_metrics(_read(read_rows, [folder.metrics_file], folder.path, problems)),
        spectra=_spectra(_read(read_spectrum, tables, folder.path, problems)),
        monitor=_monitor(_read(read_rows, [folder.monitor_file], folder.path, problems)),
        views=_views(tables, folder.path, problems),
        path=folder.path,
    )
    if not run.finished:
        state = run.info.get("state") or "not stated"
        reason = f"state {state}: {len(run.metrics)} of {run.epochs or '?'} epochs; shown as it is"
        problems.append(Problem(run.name, " ".join(reason.split())))
    return run


def _from_tables(tables: Sequence[Path], problems: list[Problem]) -> list[Run]:
    """One run for each network that the tables speak of."""
    rows: list[dict[str, Any]] = []
    views: dict[str, list[dict[str, Any]]] = {}
    for table in tables:
        rows += _read(read_spectrum, [table], table, problems)
        for view, records in _views([table], table, problems).items():
            views.setdefault(view, []).extend(records)

    return [
        Run(
            name=network.name,
            method=network.method or network.name,
            method_label=method_label(network.method or network.name),
            seed=None,
            recipe={},
            recipe_text="",
            info={},
            metrics=_metrics([]),
            spectra=_spectra([row for row in rows if network.holds(row)]),
            monitor=_monitor([]),
            views={
                view: [record for record in records if network.holds(record)]
                for view, records in views.items()
            },
        )
        for network in networks_of(rows)
    ]


def flatten(value: Any, prefix: str = "") -> dict[str, str]:
    """Return a recipe's keys, sections and key joined by dots, with their values as JSON."""
    if isinstance(value, dict):
        flat: dict[str, str] = {}
        for key, item in value.items():
            flat |= flatten(item, f"{prefix}.{key}" if prefix else key)
        return flat
    return {prefix: json.dumps(value, default=str)}


def _read(
    reader: Callable[[Path], list[dict[str, Any]]],
    files: Iterable[Path],
    place: Path,
    problems: list[Problem],
) -> list[dict[str, Any]]:
    """What files hold; one that cannot be read is a problem, and the others count."""
    rows: list[dict[str, Any]] = []
    for file in files:
        try:
            rows += clean(reader(file))
        except _READ_ERRORS as error:
            problems.append(problem_of(place, error))
    return rows


def _metrics(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    frame = _numbers(rows, METRIC_COLUMNS, words=("acc_per_class",))
    epoch = frame["epoch"].where(frame["epoch"].notna(), pd.Series(range(len(frame)), dtype=float))
    frame["epoch"] = epoch.astype(int)
    # A run resumed in the middle of an epoch may have written that epoch twice.
    frame = frame.drop_duplicates("epoch", keep="last")
    return frame.sort_values("epoch").reset_index(drop=True)


def _spectra(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(SPECTRUM_COLUMNS))
    # A column of whole numbers that is empty throughout would hold None instead of NaN.
    whole = [column for column, kind in SPECTRUM_COLUMNS.items() if kind is int]
    return frame.assign(**{column: pd.to_numeric(frame[column]) for column in whole})


def _monitor(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    frame = _numbers(rows, MONITOR_COLUMNS, words=("kind", "name"))
    frame[["kind", "name"]] = frame[["kind", "name"]].astype(str)
    return frame.dropna(subset=["epoch"]).reset_index(drop=True)


def _numbers(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, words: Sequence[str]
) -> pd.DataFrame:
    """Rows with these columns, all but `words` as numbers; NaN where there is none."""
    frame = pd.DataFrame([{c: row.get(c) for c in columns} for row in rows], columns=list(columns))
    for column in set(columns) - set(words):
        frame[column] = pd.to_numeric(frame[column], errors="coerce").astype(float)
    return frame


def _views(
    tables: Sequence[Path], place: Path, problems: list[Problem]
) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for view in VIEW_COLUMNS:
        files = [view_file(table, view) for table in tables if view_file(table, view).is_file()]
        if records := _read(read_view, files, place, problems):
            found[view] = records
    return found


def problem_of(place: Path, error: BaseException) -> Problem:
    """Say in one line what is wrong with a folder or table, by its name alone."""
    text = str(error).removeprefix(f"{place}: ")
    text = text.replace(f"{place}/", "").replace(str(place), place.name)
    reason = " ".join(clean(text).split()) or type(error).__name__
    return Problem(clean(place.resolve().name), reason[:300])


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
