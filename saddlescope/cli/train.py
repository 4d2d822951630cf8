"""`saddlescope train`: a recipe in, a run folder out."""

from pathlib import Path
from typing import Annotated

import typer

from saddlescope.cli import options
from saddlescope.cli.console import (
    Ticker,
    choose_device,
    choose_threads,
    one_line_errors,
    say,
    span,
    stop_on_signal,
)
from saddlescope.cli.sweep import (
    refuse_of_a_run,
    refuse_of_a_sweep,
    run_sweep,
    say_plan,
    sweep_arguments,
)


@one_line_errors
def train(
    recipe: Annotated[
        str, typer.Argument(help="A TOML file, or package:digits-lt.", metavar="RECIPE")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Run folder; by default runs/RECIPE-METHOD-seedN. Of a sweep: the folder of the "
            "run folders; by default runs/RECIPE.",
        ),
    ] = None,
    overrides: options.Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run there.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Delete the run there first.")] = False,
    monitor: Annotated[
        str | None,
        typer.Option(help="Groups whose curvature to measure along the way, such as all,tail."),
    ] = None,
    monitor_every: Annotated[
        int, typer.Option(min=1, help="Epochs between two measurements of --monitor.")
    ] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved recipe and stop.")
    ] = False,
    only: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of a sweep: this run alone, here.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Of a sweep: runs at a time.")] = 1,
    shard: Annotated[
        str, typer.Option(metavar="K/N", help="Of a sweep: every N-th run, from the K-th on.")
    ] = "1/1",
    data_root: options.DataRoot = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
) -> None:
    """Train one network by a recipe and leave a run folder.

    Killed at any moment, the run goes on with --resume and ends with the same weights. A recipe
    with [[sweep]] blocks describes many runs: what is missing is run, what was cut goes on.
    """
    import torch

    from saddlescope.curvature import CurvatureMonitor
    from saddlescope.longtail import ImageSamples
    from saddlescope.runs import RunFolder
    from saddlescope.training import load_plan
    from saddlescope.training import train as run_training
    from saddlescope.training.restore import load_section
    from saddlescope.training.trainer import Progress

    plan = load_plan(recipe, overrides=overrides or ())
    if plan.swept and only is None:
        refuse_of_a_sweep(resume=resume, force=force, monitor=monitor)
        chosen, where_to = plan.shard(shard), output or Path("runs") / plan.name
        if dry_run:
            say_plan(chosen, where_to)
            return
        where = choose_device(device)
        count = torch.cuda.device_count() if where.type == "cuda" and where.index is None else 0
        run_sweep(
            chosen,
            where_to,
            arguments=sweep_arguments(recipe, overrides, data_root, threads),
            jobs=jobs,
            devices=[f"cuda:{index}" for index in range(count)] or [str(where)],
        )
        return
    refuse_of_a_run(jobs=jobs, shard=shard)
    resolved = plan.runs[0] if only is None else plan.only(only)
    folder = RunFolder(output or Path("runs") / resolved.run_name)
    data = load_section(resolved.data, root=data_root)
    head, tail = (sum(data.counts[c] for c in data.groups[g]) for g in ("head", "tail"))
    say(
        f"{data.name}: {len(data.train)} training images in {data.num_classes} classes "
        f"({data.counts[0]} … {data.counts[-1]}; head {head}, tail {tail}), {len(data.test)} test"
    )
    if dry_run:
        typer.echo(resolved.to_toml(), nl=False)
        say(f"would write {folder.path}")
        return
    choose_threads(threads, data.train.images[0, 0].numel())
    where = choose_device(device)
    watch = None
    if resume and monitor is None and folder.run_file.is_file():
        # A run that was started with a monitor goes on with it.
        before = folder.run().get("monitor")
        if before:
            monitor, monitor_every = ",".join(before["subsets"]), before["every"]
    if monitor is not None:
        watch = CurvatureMonitor(
            torch.nn.CrossEntropyLoss(),
            ImageSamples(data.train.to(where), data.groups),
            groups=[name.strip() for name in monitor.split(",")],
            every=monitor_every,
        )

    finished = resume and folder.run_file.is_file() and folder.run().get("state") == "finished"
    with stop_on_signal() as should_stop, Ticker(folder.name) as ticker:

        def report(progress: Progress) -> None:
            ticker.update(
                progress.share,
                lambda: (
                    f"epoch {progress.epoch + 1}/{progress.epochs}  loss {progress.loss():.4f}  "
                    f"{progress.images_per_s:.0f} images/s  {span(progress.eta_s)} left"
                ),
            )

        run_training(
            resolved, data, folder, device=where, resume=resume, force=force,
            should_stop=should_stop, report=report, monitor=watch,
        )  # fmt: skip
    done = "already finished" if finished else f"trained {resolved.training.epochs} epochs"
    say(f"{done}: {folder.path}")
    typer.echo(folder.path)
