"""`saddlescope figure`: a figure or a table of the paper, or one beyond it, from run folders."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saddlescope.cli import options
from saddlescope.cli.console import one_line_errors, print_path, say
from saddlescope.cli.rows import run_folders
from saddlescope.errors import DataError, UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from saddlescope.reporting import Run

ALONE = ("fig2",)
"""Figures that no run is needed for."""


@one_line_errors
def figure(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Such as fig4 or table1; all draws what it can."),
    ],
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RUNS]…", help="Run folders, or folders of run folders."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")] = Path(
        "figures/out"
    ),
    formats: Annotated[
        str, typer.Option(help="Of svg, pdf, png; tables are CSV, Markdown and LaTeX.")
    ] = "svg,pdf,png",
    force: options.Replace = False,
) -> None:
    """Draw figures and tables from what run folders hold.

    Prints the path of each file it wrote.
    """
    from saddlescope.reporting import (
        PAPER_COLUMNS,
        PICTURES,
        TABLES,
        load_runs,
        save_figure,
        save_table,
    )
    from saddlescope.runs import refuse_foreign_output

    known = (*PICTURES, *ALONE, "phase", *TABLES)
    if name not in (*known, "all"):
        raise UsageError(f"no figure {name!r}: choose from {', '.join(sorted(known))}, all")
    if not runs and name not in (*ALONE, "phase", *TABLES):
        raise UsageError(f"{name}: give run folders")
    loaded, problems = load_runs(runs or [])
    for problem in problems:
        say(f"{problem.name}: {problem.reason}")
    if runs and not loaded:
        raise DataError(f"no readable run in {', '.join(map(str, runs))}")
    kinds = [kind.strip() for kind in formats.split(",")]
    chosen = known if name == "all" else (name,)
    for each in set(chosen) - set(TABLES):
        for kind in kinds:
            refuse_foreign_output(output / f"{each}.{kind}", force=force)
    for each in set(chosen) & set(TABLES):
        refuse_foreign_output(output / f"{each}.csv", force=force, columns=PAPER_COLUMNS)
        if not (output / f"{each}.csv").exists():  # ours are written together
            for kind in ("md", "tex"):
                refuse_foreign_output(output / f"{each}.{kind}", force=force)
    written: list[Path] = []
    for each in chosen:
        if each in TABLES:
            written += save_table(loaded, each, output)
        else:
            written += save_figure(_draw(each, loaded, runs), output, each, formats=kinds)
    for path in written:
        print_path(path)


def _draw(name: str, loaded: "list[Run]", paths: list[Path] | None) -> "Figure":
    from saddlescope.reporting import PICTURES, fig2, house_style

    if name == "fig2":
        from saddlescope.theory import figure2

        return fig2(figure2())
    if name == "phase":
        from saddlescope.theory import phase_figure, place

        with house_style():
            # What is wrong with a run has been said when it was read for the other figures.
            placed = place(run_folders(paths), skip=lambda _: None) if paths else None
            return phase_figure(placed)
    return PICTURES[name].draw(loaded)
