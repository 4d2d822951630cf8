"""Options that several commands share, so that one word means one thing everywhere."""

import os
from pathlib import Path
from typing import Annotated

import typer

from saddlescope.cli.completion import one_of

Device = Annotated[
    str,
    typer.Option(
        help="auto, cpu, cuda or cuda:N.",
        metavar="DEVICE",
        autocompletion=one_of(("auto", "cpu", "cuda")),
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        help="Folder that holds cifar-10-batches-py or cifar-100-python, or the image files.",
        envvar="SADDLESCOPE_DATA",
        show_default=False,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Processes that decode image files; by default one a core, up to 8.",
        show_default=False,
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        help="Folder to keep decoded image files in, so that each is decoded once.",
        metavar="FOLDER",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, max=4096, help="CPU threads; by default one for tiny images."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe key; may be repeated."),
]
Seed = Annotated[
    int,
    typer.Option(min=0, max=(1 << 63) - 1, help="Seed of whatever is drawn at random."),
]
Replace = Annotated[
    bool,
    typer.Option("--force", help="Replace a file there that saddlescope has not written."),
]
JsonTable = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def chosen_workers(asked: int | None, data_set: str) -> int:
    """How many processes decode; none where a data set is no set of files."""
    from saddlescope.longtail import dataset_spec

    if not dataset_spec(data_set).in_files:
        return 0
    return min(8, os.cpu_count() or 1) if asked is None else asked
