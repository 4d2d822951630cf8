"""`saddlescope check`: the instrument against independent tools, on the user's own problem."""

import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saddlescope.cli import options, targets
from saddlescope.cli.completion import GROUPS, some_of
from saddlescope.cli.console import (
    choose_device,
    choose_threads,
    number_list,
    one_line_errors,
    say,
)
from saddlescope.cli.targets import Split, asked_groups, find_target, pixels, usual_groups
from saddlescope.errors import ExitCode
from saddlescope.stopping import StopRule

if TYPE_CHECKING:
    from saddlescope.measurement import CheckRow


@one_line_errors
def check(
    run: targets.Run = None,
    checkpoint: targets.Checkpoint = "last",
    entry: targets.Entry = None,
    model: targets.Model = None,
    data: targets.Data = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="all, none, or numbers such as 0,80; by default the smallest class.",
            show_default=False,
        ),
    ] = None,
    groups: Annotated[
        str,
        typer.Option(
            help="Groups to check as well, named as for spectrum; or none.",
            autocompletion=some_of(GROUPS),
        ),
    ] = "none",
    samples: Annotated[int, typer.Option(min=1, help="Most samples, the first of each row.")] = 50,
    split: targets.WhichSplit = Split.TRAIN,
    criterion: targets.WhichCriterion = "ce",
    rtol: Annotated[
        float, typer.Option(help="Half-width of the intervals to check.")
    ] = StopRule.rtol,
    confidence: targets.Confidence = StopRule.confidence,
    max_matvecs: Annotated[int, typer.Option(help="Most products of the instrument.")] = 500,
    seed: options.Seed = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="CSV to write; a JSON beside it.")
    ] = None,
    force: options.Replace = False,
    json: options.JsonTable = False,
    data_root: options.DataRoot = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
) -> None:
    """Hold the instrument to a dense Hessian, SciPy and PyHessian on a few of your own samples.

    Prints an aligned table on a terminal, CSV into a pipe. Ends with 1 if any tool contradicts an
    interval.
    """
    from saddlescope.measurement import (
        CheckRow,
        check_target,
        contradictions,
        smallest_class,
    )
    from saddlescope.runs import refuse_foreign_output, refuse_foreign_table

    stop = StopRule(rtol=rtol, confidence=confidence, max_matvecs=max_matvecs)
    asked = asked_groups(groups)
    target, _ = find_target(
        run, model, data,
        checkpoint=checkpoint, split=split.value, criterion=criterion,
        entry=entry, groups=asked, data_root=data_root, device=choose_device(device),
    )  # fmt: skip
    if output is not None:
        columns = [field.name for field in fields(CheckRow)]
        refuse_foreign_output(output, force=force, columns=columns)
        refuse_foreign_table(output, columns)
    choose_threads(threads, pixels(target))
    wanted: Any = classes
    if classes is None:
        wanted = [smallest_class(target)] if groups == "none" else "none"
    elif classes not in ("all", "none"):
        wanted = number_list(classes)
    rows = check_target(
        target,
        classes=wanted,
        groups=usual_groups(target) if asked is None else asked,
        samples=samples,
        stop=stop,
        seed=seed,
    )
    _print_rows(rows, output=output, json=json)
    found = contradictions(rows)
    for sentence in found:
        say(f"saddlescope: {sentence}")
    if found:
        raise typer.Exit(ExitCode.FAILED)
    if any(row.converged is False for row in rows):
        say(f"saddlescope: not converged after {max_matvecs} products; raise --max-matvecs")
        raise typer.Exit(ExitCode.NOT_CONVERGED)
    say("all that could be used agree")


def _print_rows(rows: "list[CheckRow]", *, output: Path | None, json: bool) -> None:
    from saddlescope.measurement import CheckRow
    from saddlescope.runs import csv_text, to_json, write_json, write_text

    plain = [row.columns() for row in rows]
    table = csv_text(plain, [field.name for field in fields(CheckRow)])
    if output is not None:
        write_text(output, table)
        write_json(output.with_suffix(".json"), plain)
        say(f"saved: {output}")
    if json:
        typer.echo(to_json(plain, indent=2))
    elif sys.stdout.isatty():
        from saddlescope.reporting import check_text

        typer.echo(check_text(plain))
    else:
        typer.echo(table, nl=False)
