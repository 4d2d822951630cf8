"""Tables on disk: JSON lines for what grows by the epoch, CSV and JSON for spectra."""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from saddlescope.errors import DataError
from saddlescope.runs.atomic import to_json, write_json, write_text
from saddlescope.runs.schema import SPECTRUM_COLUMNS

_INTEGERS = {"n", "matvecs", "epoch", "seed"}
_TEXT = {
    "name", "kind", "stop_rule", "verdict", "run", "method", "split", "criterion",
    "checkpoint", "dtype", "device", "digest", "settings",
}  # fmt: skip


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append one JSON object as a line and force it to disk."""
    with open(path, "a", encoding="utf-8") as handle:
        handle.write(to_json(row) + "\n")
        handle.flush()
        os.fsync(handle.fileno())


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read a JSON-lines file; a last line cut by a kill is left out, any other is an error.

    Raises:
        DataError: a line that is not a JSON object, named by number.
    """
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not a JSON object")
        except ValueError as error:
            if number == len(lines):
                break
            raise DataError(f"{path}:{number}: {error}") from None
        rows.append(row)
    return rows


def rewrite_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace a JSON-lines file atomically."""
    write_text(path, "".join(to_json(row) + "\n" for row in rows))


def write_spectrum(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write spectrum rows as CSV and, beside it, as JSON; each file atomically.

    Floats are written with `repr`, so that reading them back gives the same bits.
    """
    rows = [{column: row[column] for column in SPECTRUM_COLUMNS} for row in rows]
    write_text(path, spectrum_csv(rows))
    write_json(path.with_suffix(".json"), rows)


def spectrum_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Spectrum rows as CSV text with the columns of the schema."""
    return csv_text(rows, SPECTRUM_COLUMNS)


def csv_text(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows as CSV text with these columns; None becomes an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
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
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable: {error}") from None
    reader = csv.DictReader(io.StringIO(text))
    missing = [name for name in SPECTRUM_COLUMNS if name not in (reader.fieldnames or [])]
    if missing:
        raise DataError(f"{path}: not a spectrum table: missing columns {', '.join(missing)}")
    return [
        {column: _parse(path, number, column, row[column]) for column in SPECTRUM_COLUMNS}
        for number, row in enumerate(reader, start=2)
    ]


def _parse(path: Path, line: int, column: str, text: str | None) -> Any:
    if text is None:
        raise DataError(f"{path}:{line}: the row ends before column {column!r}")
    if column in _TEXT:
        return text
    try:
        if column == "converged":
            return {"True": True, "False": False}[text]
        if text == "":
            return None if column in _INTEGERS else math.nan
        return int(text) if column in _INTEGERS else float(text)
    except (KeyError, ValueError):
        raise DataError(f"{path}:{line}: {column} = {text!r} is not a value") from None
