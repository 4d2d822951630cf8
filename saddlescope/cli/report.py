"""`saddlescope report`: run folders and spectrum tables in, one offline HTML file out."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from saddlescope.cli import options
from saddlescope.cli.console import one_line_errors, say
from saddlescope.cli.rows import selection
from saddlescope.errors import DataError


@one_line_errors
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Run folders, folders of run folders, tables of `spectrum -o`.", metavar="RUNS…"
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file to write.")] = Path(
        "report.html"
    ),
    plain: Annotated[
        bool, typer.Option("--plain", help="Print the class table as CSV instead.")
    ] = False,
    browser: Annotated[
        bool, typer.Option("--open", help="Open the file in the browser afterwards.")
    ] = False,
    force: options.Replace = False,
) -> None:
    """Write a report over runs and spectrum tables: one HTML file that needs no network.

    Prints a compact table on stdout. Broken or half-written folders are named, and the rest shown.
    """
    from saddlescope.reporting import class_table, summary_text, to_csv, write_report
    from saddlescope.runs import refuse_foreign_output

    refuse_foreign_output(output, force=force)
    missing = [path for path in runs if not path.exists()]
    if missing:
        raise DataError(f"{missing[0]}: no such folder or table")
    chosen = selection(runs)
    written = write_report(chosen, output)
    for problem in written.problems[len(chosen.problems) :]:
        say(f"{problem.name}: {problem.reason}")
    typer.echo(to_csv(class_table(chosen)) if plain else summary_text(chosen), nl=not plain)
    say(f"report: {written.path}")
    if browser:
        webbrowser.open(written.path.resolve().as_uri())
