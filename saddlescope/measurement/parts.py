"""Part files: the rows that one rank of a job has finished, beside the table they belong to.

A part file lives from its rank's first finished row until the rows are in the table. If the job is
cut before that, the next one finds it: `TABLE.csv.part-RANK`, a list of rows.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saddlescope.errors import DataError
from saddlescope.runs import SPECTRUM_COLUMNS, write_text


def part_file(table: Path, rank: int) -> Path:
    """Where a rank keeps its rows."""
    return table.with_name(f"{table.name}.part-{rank}")


def write_part(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Replace a part file atomically; NaN, infinities and all digits survive."""
    write_text(path, json.dumps(rows))


def part_files(table: Path) -> list[Path]:
    """The part files beside a table, by rank."""
    prefix = f"{table.name}.part-"
    found = table.parent.iterdir() if table.parent.is_dir() else ()
    parts = [path for path in found if path.name.removeprefix(prefix).isdigit()]
    return sorted(parts, key=lambda path: int(path.name.removeprefix(prefix)))


def read_part(path: Path) -> list[dict[str, Any]]:
    """The rows of a part file.

    Raises:
        DataError: it is not one.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [{column: row[column] for column in SPECTRUM_COLUMNS} for row in rows]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{path}: not rows of this version's table ({type(error).__name__}: {error}); delete "
            "it, and its rows are measured again"
        ) from None
