"""Tables 1 to 3 of the paper: what it prints beside what was measured here.

The printed numbers are data (`printed/tables.csv`, transcribed; where a table leaves the radii
out they are those that the paper names for it). A measured cell is the last epoch's accuracy, mean
and standard deviation over the training seeds of runs that differ in nothing else. It stands
beside the printed number with its settings: the paper selects the epoch on the test set and
averages over mirror images, and runs of a smaller network do not contradict it.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import pandas as pd

from saddlescope.errors import UsageError
from saddlescope.reporting.frames import to_csv, to_latex, to_markdown
from saddlescope.reporting.loading import Run, flatten
from saddlescope.reporting.selection import Selection
from saddlescope.reporting.text import SHOTS, method_label, plural
from saddlescope.runs import LOSSES, METHODS, write_text

PAPER_COLUMNS: Final = (
    "table", "data", "imbalance_factor", "loss", "method", "rho_head", "rho_tail", "shot",
    "printed", "measured", "spread", "seeds", "difference", "settings", "command",
)  # fmt: skip
"""`spread` is the standard deviation over seeds (NaN of one), `command` what fills a gap."""

TABLE_TITLES: Final = {
    1: "Table 1: CIFAR-100-LT and CIFAR-10-LT, IF = 100",
    2: "Table 2: ImageNet-LT",
    3: "Table 3: imbalance factors and radii, CIFAR-100-LT, CE",
}

TABLES: Final[Mapping[str, int]] = {f"table{number}": number for number in TABLE_TITLES}
"""Name of a file to the number of a table of the paper."""

_FREE = ("name", "seed", "training.seed")
"""What runs of one setting may differ in."""

_NOT_RUN = "not run: no code was released for this row's method here"
_SECOND_STAGES = {"sgd+tau-norm", "sgd+crt", "sgd+lws"}


def printed_rows(table: int) -> list[dict[str, Any]]:
    """Read the rows of a table of the paper, as printed: numbers as numbers, blanks as None.

    Raises:
        UsageError: the paper has no such table.
    """
    if table not in TABLE_TITLES:
        raise UsageError(f"table {table}: the paper has Tables 1, 2 and 3")
    source = resources.files("saddlescope.reporting") / "printed" / "tables.csv"
    lines = source.read_text(encoding="utf-8").splitlines()
    rows = [row for row in csv.DictReader(lines) if row["table"] == str(table)]
    words = ("data", "loss", "method")
    return [
        {
            key: value if key in words else float(value) if value else None
            for key, value in row.items()
            if key != "table"
        }
        for row in rows
    ]


def paper_table(chosen: Selection, table: int) -> pd.DataFrame:
    """Fill a table of the paper, one row a cell: printed, measured, and their difference.

    Args:
        chosen: runs; those that are finished and belong to a cell are used. Of several settings
            in a cell, the one of the most epochs, then of the most seeds.
        table: 1, 2 or 3.

    Returns:
        The columns `PAPER_COLUMNS`, accuracies in percent.

    Raises:
        UsageError: the paper has no such table.
    """
    cells = []
    for row in printed_rows(table):
        found, settings = _belonging(chosen.runs, row)
        for shot in SHOTS:
            values = [100.0 * float(run.metrics[f"acc_{shot}"].iloc[-1]) for run in found]
            values = [value for value in values if math.isfinite(value)]
            measured = sum(values) / len(values) if values else math.nan
            cells.append(
                {
                    "table": table,
                    **{key: row[key] for key in PAPER_COLUMNS[1:7]},
                    "shot": shot,
                    "printed": row[shot],
                    "measured": measured,
                    "spread": float(pd.Series(values, dtype=float).std()),
                    "seeds": len(values),
                    "difference": measured - row[shot],
                    "settings": settings,
                    "command": "" if values else _command(table, row),
                }
            )
    return pd.DataFrame(cells, columns=list(PAPER_COLUMNS))


def paper_text(frame: pd.DataFrame) -> pd.DataFrame:
    """Set a table of `paper_table` as it is read: one row a method, a cell "measured (printed)".

    A cell without a measurement is "— (printed)"; the column `to fill` says what would fill it.
    """
    by_row: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for cell in frame.astype(object).to_dict("records"):
        key = tuple(str(cell[name]) for name in PAPER_COLUMNS[:7])
        by_row.setdefault(key, []).append({str(name): value for name, value in cell.items()})
    rows = []
    for cells in by_row.values():
        first = cells[0]
        rows.append(
            {
                "data": first["data"],
                "IF": _short(first["imbalance_factor"]),
                "loss": LOSSES.get(first["loss"], first["loss"]),
                "method": _label(first["method"]),
                "ρ_head": _short(first["rho_head"]),
                "ρ_tail": _short(first["rho_tail"]),
                **{cell["shot"].capitalize(): _cell(cell) for cell in cells},
                "seeds": first["seeds"] or "—",
                "settings": first["settings"] or "—",
                "to fill": first["command"] or "—",
            }
        )
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper that these runs belong to.

    Attributes:
        name: Of its files.
        short: Such as "Table 1".
        title: With what it is about.
        frame: Every cell, see `paper_table`.
        text: The measured rows as they are read, see `paper_text`.
    """

    name: str
    short: str
    title: str
    frame: pd.DataFrame
    text: pd.DataFrame


def measured_tables(chosen: Selection) -> list[PaperTable]:
    """Fill the tables of the paper that have a measured cell."""
    tables = []
    for name, number in TABLES.items():
        frame = paper_table(chosen, number)
        measured = frame[frame["seeds"] > 0]
        if len(measured):
            text = paper_text(measured).drop(columns="to fill").astype(str)
            tables.append(PaperTable(name, f"Table {number}", TABLE_TITLES[number], frame, text))
    return tables


def save_table(chosen: Selection, name: str, folder: str | Path) -> list[Path]:
    """Write a table of the paper as CSV (every cell, with its command), Markdown and LaTeX.

    Args:
        chosen: runs.
        name: of `TABLES`.
        folder: where.
    """
    frame = paper_table(chosen, TABLES[name])
    text = paper_text(frame)
    contents = {
        "csv": to_csv(frame),
        "md": f"{TABLE_TITLES[TABLES[name]]}. Measured, and in brackets as the paper prints it; "
        "mean ± standard deviation over training seeds, last epoch, percent.\n\n"
        + to_markdown(text),
        "tex": to_latex(text.drop(columns="to fill")),
    }
    paths = []
    for ending, content in contents.items():
        paths.append(Path(folder) / f"{name}.{ending}")
        write_text(paths[-1], content)
    return paths


def _belonging(runs: Sequence[Run], row: Mapping[str, Any]) -> tuple[list[Run], str]:
    """The runs of one cell, all of one setting and each of another seed, and it in words."""
    by_setting: dict[tuple[str, ...], dict[object, Run]] = {}
    for run in runs:
        if run.finished and len(run.metrics) and _belongs(run, row):
            own = {key: value for key, value in flatten(run.recipe).items() if key not in _FREE}
            setting = f"{_epochs(run)}", *(f"{key}={own[key]}" for key in sorted(own))
            by_setting.setdefault(setting, {}).setdefault(run.seed, run)
    if not by_setting:
        return [], ""
    settings = [list(seeds.values()) for seeds in by_setting.values()]
    found = max(settings, key=lambda runs: (_epochs(runs[0]), len(runs)))
    others = len(by_setting) - 1
    words = f"{_section(found[0], 'model').get('name', '?')}, {_epochs(found[0])} epochs"
    return found, words + (f" ({plural(others, 'other setting')} left out)" if others else "")


def _epochs(run: Run) -> int:
    return int(run.metrics["epoch"].iloc[-1]) + 1


def _belongs(run: Run, row: Mapping[str, Any]) -> bool:
    data, method = _section(run, "data"), _section(run, "method")
    if (data.get("name"), run.method) != (row["data"], row["method"]):
        return False
    if _section(run, "loss").get("name", "ce") != row["loss"]:
        return False
    factor = row["imbalance_factor"]
    if factor is not None and (
        data.get("imbalance_factor", _usual_factor(run)) != factor
        or data.get("profile", "exp") != "exp"
    ):
        return False
    name = run.method
    head, tail = row["rho_head"], row["rho_tail"]
    if name == "sam":
        return bool(method.get("rho") == head)
    if name in ("sam-ext", "sse-sam") and method.get("rho_head") != head:
        return False
    return name not in ("imbsam", "sam-ext", "sse-sam") or bool(method.get("rho_tail") == tail)


def _usual_factor(run: Run) -> float | None:
    """Largest over smallest class, of a run that names none: its data set's own."""
    counts = run.counts
    return float(round(max(counts) / min(counts))) if counts and all(counts) else None


def _section(run: Run, name: str) -> dict[str, Any]:
    found = run.recipe.get(name)
    return found if isinstance(found, dict) else {}


def _command(table: int, row: Mapping[str, Any]) -> str:
    """What trains the missing run."""
    method, loss = row["method"], row["loss"]
    if method in _SECOND_STAGES:
        first, _, classifier = method.partition("+")
        run = f"runs/table2-imagenet/table2-imagenet-{loss}-{first}-seed0"
        return f"saddlescope train --from {run} --classifier {classifier} --data-root FOLDER"
    if method not in METHODS:
        return _NOT_RUN
    if table == 2:
        recipe, only = "table2-imagenet", f"table2-imagenet-{loss}-{method}-seed0"
    elif table == 1:
        recipe = f"table1-{row['data']}"
        only = f"{recipe}-{loss}-{method}-seed9826"
    else:
        recipe = "table3"
        radius = "" if method in ("sgd", "sam") else f"-rhotail{row['rho_tail']:g}"
        only = f"table3-if{row['imbalance_factor']:g}{radius}-{method}-seed9826"
    return f"saddlescope train train/{recipe}.toml --only {only} --data-root FOLDER"


def _label(method: str) -> str:
    names = {"disalign": "DisAlign", "dro-lt": "DRO-LT"}
    return names.get(method, method_label(method))


def _short(value: float | None) -> str:
    return "—" if value is None or math.isnan(value) else f"{value:g}"


def _cell(cell: Mapping[str, Any]) -> str:
    printed = f"({cell['printed']:.1f})"
    if not cell["seeds"]:
        return f"— {printed}"
    spread = f" ± {cell['spread']:.1f}" if cell["seeds"] > 1 else ""
    return f"{cell['measured']:.1f}{spread} {printed}"
