"""What the report's template shows: rows of ready text with the keys they sort by.

Everything here is plain text. The template escapes it; nothing in this module may return markup.
"""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saddlescope.reporting.loading import Run
from saddlescope.reporting.selection import Selection, select, spread
from saddlescope.reporting.tables import accuracy_table, class_table
from saddlescope.reporting.text import interval, number, shorten
from saddlescope.runs import METHODS

_ENVIRONMENT = (
    ("saddlescope", "saddlescope"),
    ("commit", "commit"),
    ("Python", "python"),
    ("platform", "platform"),
    ("processor", "processor"),
    ("cores", "cores"),
    ("threads", "threads"),
    ("device", "device"),
    ("device name", "device_name"),
)


@dataclass(frozen=True)
class Cell:
    """One table cell.

    Attributes:
        text: What is read.
        small: A second line, such as an interval.
        sort: What the column sorts by; empty sorts last.
        numeric: Set right, with tabular digits.
        mark: A CSS class: the verdict, or the method's colour.
    """

    text: str
    small: str = ""
    sort: str = ""
    numeric: bool = False
    mark: str = ""


CLASS_HEADINGS = (
    ("Method", False), ("Class", False), ("Name", False), ("n", True), ("λ_max", True),
    ("λ_min", True), ("λ_ratio", True), ("‖∇L‖", True), ("Verdict", False), ("Converged", False),
)  # fmt: skip
"""Heading and whether its column holds numbers."""

_MARKS = {
    "negative-curvature": "negative",
    "unresolved": "unresolved",
    "positive": "positive",
    "not-converged": "not-converged",
    "supported": "supported",
    "contradicted": "contradicted",
    "undecided": "undecided",
}


def class_rows(runs: Sequence[Run], *, split: str) -> list[list[Cell]]:
    """The class table: one row a network, class or group, and Lanczos start."""
    table = class_table(runs, split=split)
    several = len(table) and table["seed"].nunique() > 1
    rows = []
    for row in table.to_dict("records"):
        start = f"start {row['seed']}" if several else ""
        name, group = str(row["name"]), row["kind"] != "class"
        order = f"{int(name):09d}" if name.isdecimal() else f"~{name}"
        size = "" if row["n"] is None or math.isnan(row["n"]) else str(int(row["n"]))
        rows.append(
            [
                Cell(row["label"], small=start, sort=row["label"], mark=method_mark(row["method"])),
                Cell(f"group {name}" if group else name, sort=order),
                Cell(row["class_name"], sort=row["class_name"]),
                Cell(size or "—", sort=size, numeric=True),
                *(_bounded(row, key) for key in ("lambda_max", "lambda_min", "lambda_ratio")),
                _number(row["gradient_norm"]),
                Cell(row["verdict"], sort=row["verdict"], mark=mark(row["verdict"])),
                Cell("yes" if row["converged"] else "no", sort=str(row["converged"])),
            ]
        )
    return rows


def accuracy_rows(runs: Sequence[Run]) -> list[list[Cell]]:
    """The accuracy table: last epoch, with mirror images, best on test."""
    rows = []
    for row in accuracy_table(runs).to_dict("records"):
        cells = [Cell(row["label"], mark=method_mark(row["method"]))]
        for prefix in ("", "flip_", "best_"):
            if prefix != "flip_":  # of the last epoch, as the ones before it
                cells.append(_whole(row[f"{prefix}epoch"]))
            cells += [
                Cell("—" if math.isnan(value) else f"{value:.1f}", numeric=True)
                for value in (row[f"{prefix}{shot}"] for shot in ("many", "medium", "few", "avg"))
            ]
        rows.append(cells)
    return rows


def run_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Each run's command, recipe and course."""
    chosen = select(runs)
    rows = []
    for run, label in zip(chosen.runs, chosen.labels, strict=True):
        command = run.provenance.get("command")
        words = [str(word) for word in command] if isinstance(command, list) else []
        seconds = float(run.metrics["seconds"].sum())
        rows.append(
            {
                "name": run.name,
                "label": label,
                "mark": method_mark(run.method),
                "command": shlex.join(words) or "not recorded",
                "recipe": run.recipe_text,
                "seed": "—" if run.seed is None else str(run.seed),
                "epochs": f"{len(run.metrics)} of {run.epochs or '?'}",
                "switch": "—" if run.switch_epoch is None else str(run.switch_epoch),
                "seconds": number(seconds) if seconds else "—",
                "started": shorten(str(run.provenance.get("started") or "—"), 40),
                "state": shorten(str(run.info.get("state") or "not stated"), 30),
            }
        )
    return rows


def measurement(chosen: Selection) -> list[tuple[str, str]]:
    """How the spectra compared were measured."""
    rows = chosen.rows
    if rows.empty:
        return []
    facts = [
        (title, shorten(", ".join(sorted(set(rows[column].astype(str)))), 120))
        for title, column in (
            ("split", "split"), ("loss", "criterion"), ("checkpoint", "checkpoint"),
            ("dtype", "dtype"), ("device", "device"), ("stop rule", "stop_rule"),
            ("settings", "settings"),
        )
    ]  # fmt: skip
    products = rows["matvecs"].dropna().astype(int)
    if len(products):
        facts.append(("Hessian products a row", spread((products.min(), products.max()))))
        facts.append(("Hessian products in all", str(products.sum())))
    return facts


def environments(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The distinct sets of versions and hardware, each with the runs made there."""
    found: dict[tuple[tuple[str, str], ...], list[str]] = {}
    chosen = select(runs)
    for run, label in zip(chosen.runs, chosen.labels, strict=True):
        facts = run.provenance
        items = [(title, _fact(facts.get(key))) for title, key in _ENVIRONMENT]
        libraries = facts.get("libraries")
        if isinstance(libraries, dict):
            items += [(str(name), _fact(version)) for name, version in libraries.items()]
        found.setdefault(tuple(item for item in items if item[1]), []).append(label)
    return [{"items": items, "labels": labels} for items, labels in found.items()]


def method_mark(method: str) -> str:
    """The CSS class of a method's colour; strangers share one."""
    return f"m-{method}" if method in METHODS else "m-other"


def mark(verdict: str) -> str:
    """The CSS class of a verdict; an unknown one has none."""
    return _MARKS.get(verdict, "")


def _bounded(row: Mapping[Any, Any], key: str) -> Cell:
    value = float(row[key])
    bounds = interval(float(row[f"{key}_lower"]), float(row[f"{key}_upper"]))
    return Cell(number(value), small=bounds, sort=_sort(value), numeric=True)


def _number(value: float) -> Cell:
    return Cell(number(value), sort=_sort(value), numeric=True)


def _whole(value: float | None) -> Cell:
    missing = value is None or math.isnan(value)
    return Cell("—" if missing else str(int(value or 0)), numeric=True)


def _sort(value: float) -> str:
    return repr(value) if math.isfinite(value) else ""


def _fact(value: Any) -> str:
    return "" if value is None else shorten(str(value), 80)
