"""Run folders in, rows out: what several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saddlescope.cli.console import say
from saddlescope.errors import DataError

if TYPE_CHECKING:
    from saddlescope.reporting import Selection
    from saddlescope.runs import RunFolder

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def run_folders(paths: list[Path] | None) -> "list[RunFolder]":
    """Return the run folders, or those inside folders of them.

    Raises:
        DataError: a path is neither.
    """
    from saddlescope.runs import find_runs

    found = []
    for path in paths or []:
        inside = find_runs(path)
        if not inside:
            raise DataError(f"{path}: no run folder")
        found += inside
    return found


def selection(paths: list[Path]) -> "Selection":
    """Read and select runs, and say what could not be read.

    Raises:
        DataError: nothing could.
    """
    from saddlescope.reporting import select_runs

    chosen = select_runs(paths)
    for problem in chosen.problems:
        say(f"{problem.name}: {problem.reason}")
    if paths and not chosen.runs:
        raise DataError(f"no readable run in {', '.join(map(str, paths))}")
    return chosen


def print_rows(rows: list[dict[str, Any]], *, json: bool, hidden: tuple[str, ...] = ()) -> None:
    """To stdout: as JSON, or as CSV without the hidden columns."""
    from saddlescope.runs import to_json

    if json:
        typer.echo(to_json(rows, indent=2))
        return
    shown = [{k: v for k, v in row.items() if k not in hidden} for row in rows]
    typer.echo(as_csv(shown), nl=False)


def as_csv(rows: list[dict[str, Any]]) -> str:
    """One line a row, after a header."""
    import pandas as pd

    return pd.DataFrame(rows).to_csv(index=False)
