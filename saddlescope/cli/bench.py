"""`saddlescope bench`: a door to the benchmarks, which stand in a clone and are not installed."""

import sys
from pathlib import Path

import typer

from saddlescope.cli.console import one_line_errors
from saddlescope.errors import UsageError

CLONE = Path(__file__).resolve().parents[2]


@one_line_errors
def bench(context: typer.Context) -> None:
    """Time every tool to a verified 1 % at both ends (in a clone of the repository only)."""
    if not (CLONE / "benchmarks" / "compare").is_dir():
        raise UsageError(
            "bench is not part of the installed package: clone the repository and run "
            "`python -m benchmarks` there"
        )
    sys.path.append(str(CLONE))
    from benchmarks.command import app

    app(context.args, prog_name="saddlescope bench")
