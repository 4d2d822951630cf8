"""`saddlescope data`: look at a data set before training on it."""

from typing import Annotated

import typer

from saddlescope.cli import options
from saddlescope.cli.console import one_line_errors

app = typer.Typer(help="Look at a data set before training on it.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Keep `inspect` a subcommand although it is the only one."""


@app.command("inspect")
@one_line_errors
def inspect(
    name: Annotated[
        str, typer.Argument(help="digits, prototypes, cifar10, cifar100.", metavar="NAME")
    ],
    imbalance_factor: Annotated[
        float | None,
        typer.Option(help="Largest over smallest class; 100 for CIFAR, else 20."),
    ] = None,
    profile: Annotated[str, typer.Option(help="exp or step.")] = "exp",
    subset: Annotated[str, typer.Option(help="first or shuffled.")] = "first",
    tail_threshold: Annotated[
        int | None, typer.Option(help="Tail classes have fewer images than this.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    data_root: options.DataRoot = None,
) -> None:
    """Print class counts, head and tail, shots and checksums of a long-tailed data set."""
    from saddlescope.longtail import dataset_spec, describe, describe_text, load_data
    from saddlescope.runs.atomic import to_json

    usual = dataset_spec(name).imbalance_factor
    factor = usual if imbalance_factor is None else imbalance_factor
    description = describe(
        load_data(
            name, root=data_root, imbalance_factor=factor, profile=profile, subset=subset,
            tail_threshold=tail_threshold,
        )
    )  # fmt: skip
    typer.echo(to_json(description, indent=2) if json else describe_text(description))
