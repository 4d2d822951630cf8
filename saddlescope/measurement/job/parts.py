"""Part files: the rows that one rank of a job has finished, beside the table they belong to.

A part file lives from its rank's first finished row until the rows are in the table. If the job is
cut before that, the next one finds it: `TABLE.csv.saddlescope-part-RANK`, a list of rows.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saddlescope.errors import DataError
from saddlescope.runs import SPECTRUM_COLUMNS, read_json, typed_record, write_text

_NAME = re.compile(r"\.(?P<own>saddlescope-)?part-(?P<rank>[0-9]{1,9})")


_ADVICE = "move it away, and its rows are measured again"


def part_file(table: Path, rank: int) -> Path:
    """Return where a rank keeps its rows."""
    return table.with_name(f"{table.name}.saddlescope-part-{rank}")


def write_part(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Replace a part file atomically; NaN, infinities and all digits survive."""
    write_text(path, json.dumps(rows))


def part_files(table: Path) -> list[Path]:
    """List the part files beside a table, by rank.

    What is called as part files once were, `TABLE.csv.part-RANK`, may be anybody's: it is one if it
    holds rows.
    """
    found: list[tuple[int, Path]] = []
    for path in table.parent.iterdir() if table.parent.is_dir() else ():
        if not path.name.startswith(table.name) or not path.is_file():
            continue
        match = _NAME.fullmatch(path.name.removeprefix(table.name))
        if match is not None and (match["own"] or _holds_rows(path)):
            found.append((int(match["rank"]), path))
    return [path for _, path in sorted(found)]


def read_part(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a part file, each value of its column's type.

    Raises:
        DataError: it is not one.
    """
    content = read_json(path)
    if not isinstance(content, list) or not content:
        raise DataError(f"{path}: not a list of rows; {_ADVICE}")
    try:
        return [
            typed_record(path, number, SPECTRUM_COLUMNS, row)
            for number, row in enumerate(content, start=1)
        ]
    except DataError as error:
        raise DataError(f"{error}; {_ADVICE}") from None


def _holds_rows(path: Path) -> bool:
    try:
        return bool(read_part(path))
    except DataError:
        return False
