"""`python -m benchmarks`: this instrument beside the tools people use, on equal accuracy."""

from contextvars import Context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saddlescope.cli import options
from saddlescope.cli.console import (
    choose_device,
    choose_threads,
    one_line_errors,
    say,
    stop_on_signal,
)
from saddlescope.cli.rows import Json
from saddlescope.errors import UsageError
from saddlescope.parallel import launch
from saddlescope.stages import Stage

if TYPE_CHECKING:
    import torch

    from benchmarks.compare import Tool


app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
@one_line_errors
def bench(
    parts: Annotated[
        list[str] | None,
        typer.Argument(
            help="ends, defaults, table, memory, scaling, steps, launches, precision; all if none "
            "is named.",
            metavar="[PART]...",
            show_default=False,
        ),
    ] = None,
    cases: Annotated[
        str | None,
        typer.Option(
            help="mlp, digits, transformer, resnet32-class-C, resnet34-class-C, separated by "
            "commas; by default the three and ResNet-32's (on CUDA ResNet-34's too).",
            show_default=False,
        ),
    ] = None,
    tools: Annotated[
        str | None,
        typer.Option(
            help="saddlescope, hessian-eigenthings, curvlinops, pyhessian; by default those "
            "installed.",
            show_default=False,
        ),
    ] = None,
    run: Annotated[
        list[Path] | None,
        typer.Option(
            help="A run of ResNet-32 or ResNet-34 on CIFAR-100-LT; may be repeated. Without one, "
            "a stand-in on random images.",
            metavar="FOLDER",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Start vectors a swept setting must be right on.")
    ] = 3,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each tool, in turn.")] = 3,
    every: Annotated[
        bool, typer.Option(help="Of the table, all 100 classes as well as ten.")
    ] = True,
    time_limit: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Begin nothing more after this many seconds; repeat the command to go on.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="JSON to write, or to go on with.")
    ] = Path("bench.json"),
    json: Json = False,
    data_root: options.DataRoot = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
) -> None:
    """Time every tool to a verified 1 % at both ends, and show what the defaults of each give.

    Prints Markdown tables of what the JSON holds. Interrupted or out of time, the same command goes
    on where it stopped.
    """
    from benchmarks.compare import PARTS, Cases, Plan, Record, carry_out, read_record
    from benchmarks.compare.tables import tables
    from saddlescope.runs.atomic import to_json

    if launch() is not None:
        raise UsageError("bench is one process: the part `scaling` starts its own ranks")
    chosen = tuple(parts or PARTS)
    if unknown := [part for part in chosen if part not in PARTS]:
        raise UsageError(f"part {unknown[0]!r}: expected {', '.join(PARTS)}")
    on = choose_device(device)
    choose_threads(threads, 32 * 32)
    if parts and "launches" in parts and on.type != "cuda":
        raise UsageError("launches is measured on CUDA only: name other parts, or --device cuda")
    source = Cases(run or (), data_root=data_root, device=on)
    plan = Plan(
        cases=source,
        names=_case_names(cases, on),
        tools=_tools(tools),
        parts=chosen,
        seeds=seeds,
        repeats=repeats,
        every=every,
        runs=tuple(run or ()),
        data_root=data_root,
    )
    record = Record(output, device=str(on))
    with Stage("bench") as stage, stop_on_signal() as stop:
        # In a context of its own, where nobody watches: what is timed draws no bar.
        left = Context().run(
            carry_out,
            plan,
            record,
            time_limit=time_limit,
            stop=stop,
            report=lambda key, share: stage.update(share, lambda: key),
        )
    if left:
        say(f"{left} units left: repeat the command to go on")
    if not output.is_file():
        return
    say(f"saved: {output}")
    content = read_record(output)
    typer.echo(to_json(content, indent=2) if json else tables(content))


def _case_names(asked: str | None, device: "torch.device") -> list[str]:
    from benchmarks.compare import ALL_CASES

    if asked is not None:
        return [name.strip() for name in asked.split(",") if name.strip()]
    large = device.type == "cuda"
    return [name for name in ALL_CASES if large or not name.startswith("resnet34")]


def _tools(asked: str | None) -> "list[Tool]":
    """Of each name asked for the tool itself, or all that begin with it; says what is missing."""
    from benchmarks.compare import TOOLS, installed

    wanted = None if asked is None else [name.strip() for name in asked.split(",") if name.strip()]
    keys = set(TOOLS) if wanted is None else set()
    for name in wanted or ():
        matching = {name} if name in TOOLS else {key for key in TOOLS if key.startswith(name)}
        if not matching:
            raise UsageError(f"tool {name!r}: expected a beginning of {', '.join(TOOLS)}")
        keys |= matching
    found = [tool for key, tool in TOOLS.items() if key in keys]
    for package in sorted({tool.package for tool in found if not installed(tool)}):
        say(f"not installed, left out: {package} (pip install 'saddlescope[bench]')")
    return [tool for tool in found if installed(tool)]
