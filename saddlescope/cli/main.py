"""The command's root: its name, its version, its subcommands."""

import os
import sys
from typing import Annotated

import typer

from saddlescope._version import __version__
from saddlescope.cli import (
    bench,
    check,
    data,
    demo,
    doctor,
    figure,
    report,
    spectrum,
    theory,
    theory_runs,
    train,
)
from saddlescope.cli.streams import flushing, prepare_streams
from saddlescope.errors import ExitCode
from saddlescope.parallel import leads

app = typer.Typer(
    name="saddlescope",
    help="Is this network at a saddle, for which classes, how sure are we, and which optimiser "
    "gets it out?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 ok, 1 failed, 2 usage, 3 not converged, 4 data, 130 interrupted with "
    "the state saved.",
)
app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("spectrum")(spectrum.spectrum)
app.command("check")(check.check)
app.command(
    "bench",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)(bench.bench)
app.command("report")(report.report)
app.command("figure")(figure.figure)
app.command("doctor")(doctor.doctor)
app.add_typer(data.app, name="data")
theory_runs.add_to(theory.app)
app.add_typer(theory.app, name="theory")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"saddlescope {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Carry the options that belong to no subcommand."""


def run() -> None:
    """Entry point of the console script and of `python -m saddlescope`."""
    # Whatever Python process is started from here on does not search the current folder.
    os.environ["PYTHONSAFEPATH"] = "1"
    prepare_streams()
    if leads():
        flushing(lambda: app(prog_name="saddlescope"))
    # What cannot be parsed is wrong on every rank, and rank 0 says so.
    try:
        code = app(prog_name="saddlescope", standalone_mode=False)
    except Exception as error:
        if not hasattr(error, "exit_code"):  # the parser's errors have one, wherever they come from
            raise
        code = error.exit_code
    sys.exit(code or ExitCode.OK)
