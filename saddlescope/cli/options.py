"""Options that several commands share, so that one word means one thing everywhere."""

from pathlib import Path
from typing import Annotated

import typer

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", metavar="DEVICE")]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        help="Folder that holds cifar-10-batches-py or cifar-100-python.",
        envvar="SADDLESCOPE_DATA",
        show_default=False,
    ),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads; by default one for tiny images.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe key; may be repeated."),
]
