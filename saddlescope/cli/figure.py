"""`saddlescope figure`: a figure or a table of the paper, or one beyond it, from measurements."""

from pathlib import Path
from typing import Annotated

import typer

from saddlescope.cli import options
from saddlescope.cli.completion import FIGURES, one_of, some_of
from saddlescope.cli.console import one_line_errors, print_path
from saddlescope.cli.rows import selection
from saddlescope.errors import UsageError


@one_line_errors
def figure(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="Such as fig4 or table1; all draws what it can.",
            autocompletion=one_of(FIGURES),
        ),
    ],
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUNS]…",
            help="Run folders, folders of run folders, tables of `spectrum -o`.",
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")] = Path(
        "figures/out"
    ),
    formats: Annotated[
        str,
        typer.Option(
            help="Formats of figures; tables are CSV, Markdown and LaTeX.",
            autocompletion=some_of(("svg", "pdf", "png")),
        ),
    ] = "svg,pdf,png",
    force: options.Replace = False,
) -> None:
    """Draw figures and tables from what run folders and spectrum tables hold.

    Prints the path of each file it wrote.
    """
    from saddlescope.reporting import PAPER_COLUMNS, PICTURES, TABLES, save_figure, save_table
    from saddlescope.runs import refuse_foreign_output

    known = (*PICTURES, *TABLES)
    if name not in (*known, "all"):
        raise UsageError(f"no figure {name!r}: choose from {', '.join(sorted(known))}, all")
    if not runs and (name == "all" or (name in PICTURES and not PICTURES[name].without_runs)):
        raise UsageError(f"{name}: give run folders")
    chosen = selection(runs or [])
    kinds = [kind.strip() for kind in formats.split(",")]
    wanted = known if name == "all" else (name,)
    for each in set(wanted) - set(TABLES):
        for kind in kinds:
            refuse_foreign_output(output / f"{each}.{kind}", force=force)
    for each in set(wanted) & set(TABLES):
        refuse_foreign_output(output / f"{each}.csv", force=force, columns=PAPER_COLUMNS)
        if not (output / f"{each}.csv").exists():  # ours are written together
            for kind in ("md", "tex"):
                refuse_foreign_output(output / f"{each}.{kind}", force=force)
    for each in wanted:
        if each in TABLES:
            written = save_table(chosen, each, output)
        else:
            written = save_figure(PICTURES[each](chosen), output, each, formats=kinds)
        for path in written:
            print_path(path)
