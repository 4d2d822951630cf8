"""`saddlescope data`: look at a data set before training on it."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from saddlescope.cli import options
from saddlescope.cli.completion import DATA_SETS, one_of
from saddlescope.cli.console import one_line_errors, say

app = typer.Typer(help="Look at a data set before training on it.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Keep `inspect` a subcommand although it is the only one."""


@app.command("inspect")
@one_line_errors
def inspect(
    name: Annotated[
        str,
        typer.Argument(
            help=f"{', '.join(DATA_SETS)}.",
            metavar="NAME",
            autocompletion=one_of(DATA_SETS),
        ),
    ],
    imbalance_factor: Annotated[
        float | None,
        typer.Option(
            help="Largest over smallest class; by default 100 for CIFAR, 20 for digits and "
            "prototypes, and all there is of sets of image files.",
            show_default=False,
        ),
    ] = None,
    profile: Annotated[
        str, typer.Option(help="exp or step.", autocompletion=one_of(("exp", "step")))
    ] = "exp",
    subset: Annotated[
        str,
        typer.Option(help="first or shuffled.", autocompletion=one_of(("first", "shuffled"))),
    ] = "first",
    tail_threshold: Annotated[
        int | None, typer.Option(help="Tail classes have fewer images than this.")
    ] = None,
    train_list: Annotated[
        str | None, typer.Option(help="List of `path label` lines of image files to train on.")
    ] = None,
    test_list: Annotated[str | None, typer.Option(help="List of image files to test on.")] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Also draw the first images of up to 20 classes."),
    ] = None,
    force: options.Replace = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    data_root: options.DataRoot = None,
) -> None:
    """Print class counts, head and tail, shots and checksums of a long-tailed data set."""
    from saddlescope.longtail import (
        Cut,
        FileOptions,
        dataset_spec,
        describe,
        describe_text,
        load_data,
        write_sheet,
    )
    from saddlescope.runs import refuse_foreign_output, to_json

    if sheet is not None:
        refuse_foreign_output(sheet, force=force)
    thresholds = dataset_spec(name).thresholds
    if tail_threshold is not None:
        thresholds = replace(thresholds, tail_threshold=tail_threshold)
    data = load_data(
        name, root=data_root, imbalance_factor=imbalance_factor, cut=Cut(profile, subset),
        thresholds=thresholds, files=FileOptions(train_list=train_list, test_list=test_list),
    )  # fmt: skip
    description = describe(data)
    if sheet is not None:
        shown = write_sheet(data, sheet)
        say(f"{len(shown)} of {data.num_classes} classes drawn: {sheet}")
    typer.echo(to_json(description, indent=2) if json else describe_text(description))
