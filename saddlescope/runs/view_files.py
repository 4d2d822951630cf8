"""Views on disk: what `saddlescope spectrum --with` adds beside a spectrum table.

    spectrum/last-train.csv             the table
    spectrum/last-train.views/          its views, one file each
        trace.csv, eigenvalues.csv, kato-temple.csv, alignments.csv, bootstrap.csv,
        eigenvectors.csv
        density.json, slices.json, plane.json, split.json
        eigenvectors/class-9-1a2b3c4d.safetensors

A view is a list of records, one or several a row of the table. Records of numbers and words are
CSV; records that hold arrays are JSON, a list with one record a line.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from saddlescope.errors import DataError, UsageError
from saddlescope.runs.atomic import to_json, write_text
from saddlescope.runs.reading import read_json
from saddlescope.runs.schema import VIEW_COLUMNS, VIEW_IDENTITY
from saddlescope.runs.tables import csv_text, read_csv

_AXES: dict[str, dict[str, tuple[str, ...]]] = {
    "density": {
        "nodes": ("probe", "step"),
        "weights": ("probe", "step"),
        "grid": ("point",),
        "density": ("point",),
        "density_spread": ("point",),
    },
    "slices": {"radii": ("point",), "losses": ("point",)},
    "plane": {"v_max_radii": ("a",), "v_min_radii": ("b",), "losses": ("a", "b")},
    "split": dict.fromkeys(
        ("distances", "curvatures", "losses_ahead", "losses_behind"), ("distance",)
    ),
}
"""View to its arrays, and what each runs over: arrays over the same thing are equally long."""


def views_folder(table: Path) -> Path:
    """Where the views of the spectrum table at `table` are kept."""
    return table.with_suffix(".views")


def view_file(table: Path, view: str) -> Path:
    """Where a view of the spectrum table at `table` is kept.

    Raises:
        UsageError: there is no such view.
    """
    holds_arrays = list in view_columns(view).values()
    return views_folder(table) / f"{view}.{'json' if holds_arrays else 'csv'}"


def view_columns(view: str) -> dict[str, type]:
    """Return all columns of a view, in order, each with what it holds.

    Raises:
        UsageError: there is no such view.
    """
    if view not in VIEW_COLUMNS:
        raise UsageError(f"there is no view {view!r}: choose from {', '.join(VIEW_COLUMNS)}")
    own = (columns.types for columns in VIEW_COLUMNS[view])
    return {**VIEW_IDENTITY, **{name: kind for types in own for name, kind in types.items()}}


def write_view(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write the records of a view, named by the file's stem, atomically.

    In CSV floats read back to the same bits. In JSON too, but NaN and Inf, which it lacks,
    become null.
    """
    columns = view_columns(path.stem)
    kept = [{column: record[column] for column in columns} for record in records]
    if path.suffix == ".csv":
        write_text(path, csv_text(kept, columns))
    else:
        write_text(path, "[\n" + ",\n".join(to_json(record) for record in kept) + "\n]\n")


def read_view(path: Path) -> list[dict[str, Any]]:
    """Read the records of a view back, with types; null is NaN where a number is expected.

    Raises:
        DataError: not readable, columns missing, a value of another type, or arrays that do not
            fit together, named by line and column.
        UsageError: the file's stem names no view.
    """
    columns = view_columns(path.stem)
    if path.suffix == ".csv":
        return read_csv(path, columns, what=f"view {path.stem!r}")
    content = read_json(path)
    if not isinstance(content, list):
        raise DataError(f"{path}: not a view: expected a JSON list of records")
    records = []
    for line, record in enumerate(content, start=2):
        records.append(typed_record(path, line, columns, record))
        _check_axes(path, line, records[-1])
    return records


def _check_axes(path: Path, line: int, record: Mapping[str, Any]) -> None:
    """Refuse arrays that do not fit together: what draws them would fail in NumPy's words."""
    lengths: dict[str, tuple[int, str]] = {}
    for column, axes in _AXES.get(path.stem, {}).items():
        shape = _shape(record[column])
        if shape is None or len(shape) != len(axes):
            wanted = "a list of numbers" if len(axes) == 1 else "lists of numbers, equally long"
            raise DataError(f"{path}:{line}: {column}: expected {wanted}")
        for axis, length in zip(axes, shape, strict=True):
            known, where = lengths.setdefault(axis, (length, column))
            if length != known:
                raise DataError(
                    f"{path}:{line}: {column} has {length} values where {where} has {known}; "
                    "delete the file and measure the view again"
                )


def _shape(value: Any) -> tuple[int, ...] | None:
    """The shape of a (nested) list; None of a ragged one."""
    if not isinstance(value, list):
        return ()
    shapes = {_shape(item) for item in value} or {()}
    inner = shapes.pop()
    return None if shapes or inner is None else (len(value), *inner)


def typed_record(path: Path, line: int, columns: Mapping[str, type], record: Any) -> dict[str, Any]:
    """Take these columns of a record read as JSON; null is NaN where a number is expected.

    Args:
        path: for messages, as the next one.
        line: of the record.
        columns: wanted, each with what it holds.
        record: as it was read.

    Raises:
        DataError: not an object, a column missing, or a value of another type.
    """
    if not isinstance(record, dict):
        raise DataError(f"{path}:{line}: expected a JSON object")
    return {name: _value(path, line, name, record, kind) for name, kind in columns.items()}


def _value(path: Path, line: int, column: str, record: dict[str, Any], kind: type) -> Any:
    if column not in record:
        raise DataError(f"{path}:{line}: the record has no {column!r}")
    value = record[column]
    try:
        return _numbers(value) if kind is list else _typed(value, kind)
    except (TypeError, OverflowError):
        shown = str(value)[:40]
        raise DataError(f"{path}:{line}: {column} = {shown!r} is not a value") from None


def _numbers(value: Any) -> Any:
    """A (nested) list of floats."""
    if not isinstance(value, list):
        raise TypeError
    return [_numbers(item) if isinstance(item, list) else _typed(item, float) for item in value]


def _typed(value: Any, kind: type) -> Any:
    if value is None and kind in (int, float):
        return None if kind is int else math.nan
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind or (isinstance(value, int) and abs(value) >= 1 << 63):
        raise TypeError
    return value
