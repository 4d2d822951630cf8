"""Tables on disk: JSON lines for what grows by the epoch, CSV and JSON for spectra."""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from saddlescope.errors import DataError, UsageError
from saddlescope.runs.atomic import atomic_path, to_json, write_text
from saddlescope.runs.reading import read_bytes, read_json, read_text
from saddlescope.runs.schema import SPECTRUM_COLUMNS

WHOLE_HESSIAN = "hessian"
"""What `matrix_words` says of the Hessian of all parameters, without a penalty."""


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append one JSON object as a line and force it to disk."""
    with open(path, "a", encoding="utf-8", errors="backslashreplace") as handle:
        handle.write(to_json(row) + "\n")
        handle.flush()
        os.fsync(handle.fileno())


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read a JSON-lines file; a last line cut by a kill is left out, any other is an error.

    Raises:
        DataError: a line that is not a JSON object, named by number.
    """
    if not os.path.lexists(path):
        return []
    # Not splitlines: it also parts at characters that JSON has within its strings.
    lines = read_bytes(path).decode("utf-8", "replace").removesuffix("\n").split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not a JSON object")
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise DataError(f"{path}:{number}: {error}") from None
        rows.append(row)
    return rows


def count_lines(path: Path) -> int:
    """Count the lines of a log or table that may be growing; 0 where there is none."""
    try:
        with open(path, "rb") as handle:
            return sum(1 for _ in handle)
    except OSError:
        return 0


def rewrite_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace a JSON-lines file atomically."""
    write_text(path, "".join(to_json(row) + "\n" for row in rows))


def write_spectrum(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write spectrum rows as CSV and, beside it, as JSON; each file atomically.

    Neither is replaced before both are on disk: where there is no room, both stay as they were.
    Floats are written with `repr`, so that reading them back gives the same bits.
    """
    rows = [{column: row[column] for column in SPECTRUM_COLUMNS} for row in rows]
    with atomic_path(path) as table, atomic_path(path.with_suffix(".json")) as copy:
        table.write_bytes(spectrum_csv(rows).encode("utf-8", "backslashreplace"))
        copy.write_bytes((to_json(rows, indent=2) + "\n").encode("utf-8", "backslashreplace"))


def refuse_foreign_table(path: Path, columns: Iterable[str]) -> None:
    """Refuse a place for a table where writing it would replace what we have not written.

    Args:
        path: of the CSV; a JSON is written beside it.
        columns: of the table.

    Raises:
        UsageError: not a .csv, or another JSON or a folder there; it says which.
    """
    if path.suffix != ".csv":
        raise UsageError(f"{path}: end its name in .csv; a .json is written beside it")
    beside = path.with_suffix(".json")
    if path.is_dir() or beside.is_dir():
        raise UsageError(f"{path if path.is_dir() else beside}: is a folder; choose another name")
    if not os.path.lexists(beside):
        return
    try:
        content = read_json(beside)
        ours = isinstance(content, list) and (bool(content) or path.is_file())
        ours = ours and all(isinstance(row, dict) and set(columns) <= set(row) for row in content)
    except DataError:
        ours = False
    if not ours:
        raise UsageError(
            f"{beside}: is there and holds something else, and the table's JSON would replace it; "
            "choose another name, or move it away"
        )


def spectrum_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Spectrum rows as CSV text with the columns of the schema."""
    return csv_text(rows, SPECTRUM_COLUMNS)


def csv_text(rows: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> str:
    """Rows as CSV text with these columns; None becomes an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(
        {key: "" if value is None else value for key, value in row.items()} for row in rows
    )
    return text.getvalue()


def read_spectrum(path: Path) -> list[dict[str, Any]]:
    """Read a spectrum table back, with types.

    Raises:
        DataError: columns missing, or a cell that does not parse, named by line and column.
    """
    return read_csv(path, SPECTRUM_COLUMNS, what="spectrum table")


def matrix_words(row: Mapping[str, Any]) -> str:
    """Say which matrix a row is about: `hessian`, `gauss-newton of fc.* with weight decay 0.01`."""
    words = str(row["operator"])
    if row["parameters"] != "*":
        words += f" of {row['parameters']}"
    if row["weight_decay"]:
        words += f" with weight decay {row['weight_decay']:g}"
    return words


def of_one_loss(rows: Iterable[dict[Any, Any]]) -> list[dict[Any, Any]]:
    """Return the rows of the whole Hessian of one loss: cross-entropy's, or else the first's."""
    found = [row for row in rows if matrix_words(row) == WHOLE_HESSIAN]
    criteria = [row["criterion"] for row in found]
    wanted = "ce" if "ce" in criteria else next(iter(criteria), None)
    return [row for row in found if row["criterion"] == wanted]


def read_csv(path: Path, columns: Mapping[str, type], *, what: str) -> list[dict[str, Any]]:
    """Read a CSV with at least these columns, each of its type; others are left out.

    Raises:
        DataError: not readable, columns missing, or a cell that does not parse.
    """
    reader = csv.DictReader(io.StringIO(read_text(path)))
    try:
        missing = [name for name in columns if name not in (reader.fieldnames or [])]
        if missing:
            raise DataError(
                f"{path}: not a {what}: missing columns {', '.join(missing)}; if another version "
                "wrote it, move it away and measure again"
            )
        return [_row(path, number, row, columns) for number, row in enumerate(reader, start=2)]
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not CSV: {error}") from None


def _row(
    path: Path, number: int, row: Mapping[str | None, Any], columns: Mapping[str, type]
) -> dict[str, Any]:
    if None in row:
        raise DataError(f"{path}:{number}: the row has more cells than there are columns")
    return {name: _parse(path, number, name, row[name], kind) for name, kind in columns.items()}


def _parse(path: Path, line: int, column: str, text: str | None, kind: type) -> Any:
    if text is None:
        raise DataError(f"{path}:{line}: the row ends before column {column!r}")
    if kind is str:
        return text
    try:
        if kind is bool:
            return {"True": True, "False": False}[text]
        if text == "":
            return None if kind is int else math.nan
        value = kind(text)
        if kind is int and abs(value) >= 1 << 63:
            raise ValueError
        return value
    except (KeyError, ValueError):
        raise DataError(f"{path}:{line}: {column} = {text[:80]!r} is not a value") from None
