"""`saddlescope train`: a recipe in, a run folder out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saddlescope.cli import options
from saddlescope.cli.completion import GROUPS, one_of, recipes, some_of
from saddlescope.cli.console import (
    choose_device,
    choose_threads,
    one_line_errors,
    print_path,
    say,
    stop_on_signal,
)
from saddlescope.cli.ranks import on_all_ranks
from saddlescope.cli.sweep import (
    refuse_of_a_run,
    refuse_of_a_sweep,
    run_sweep,
    say_plan,
    sweep_arguments,
)
from saddlescope.cli.tensorboard import epoch_writer
from saddlescope.errors import UsageError
from saddlescope.parallel import join, launch, leads
from saddlescope.runs import CLASSIFIERS

if TYPE_CHECKING:
    import torch

    from saddlescope.curvature import CurvatureMonitor
    from saddlescope.longtail import LongTailData
    from saddlescope.parallel import Ranks
    from saddlescope.runs import RunFolder
    from saddlescope.training.recipe import DataSection


@one_line_errors
@on_all_ranks
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A TOML file, or package:digits-lt.", metavar="RECIPE", autocompletion=recipes
        ),
    ] = None,
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
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="Instead of a recipe: a run, or a checkpoint in one, to give a new classifier.",
        ),
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            help="With --from: crt, lws or tau-norm.",
            show_default=False,
            autocompletion=one_of(CLASSIFIERS),
        ),
    ] = None,
    tau: Annotated[
        float | None,
        typer.Option(min=0.0, help="Power of a length, for tau-norm.", show_default="0.7"),
    ] = None,
    monitor: Annotated[
        str | None,
        typer.Option(
            help="Groups whose curvature to measure along the way, such as all,tail.",
            autocompletion=some_of(GROUPS),
        ),
    ] = None,
    monitor_every: Annotated[
        int, typer.Option(min=1, help="Epochs between two measurements of --monitor.")
    ] = 1,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write the metrics for TensorBoard.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved recipe and stop.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON; goes with --dry-run.")] = False,
    only: Annotated[
        str | None, typer.Option(metavar="NAME", help="Run of a sweep to train alone, here.")
    ] = None,
    branch: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Go on from this run's kept checkpoint of the epochs that both recipes share, as "
            "the runs of a sweep do by themselves.",
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs of a sweep at a time.")] = 1,
    shard: Annotated[
        str,
        typer.Option(
            metavar="K/N", help="Part of a sweep to train: every N-th run, from the K-th on."
        ),
    ] = "1/1",
    data_root: options.DataRoot = None,
    workers: options.Workers = None,
    cache: options.Cache = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
) -> None:
    """Train one network by a recipe and leave a run folder.

    Killed at any moment, the run goes on with --resume and ends with the same weights. A recipe
    with sweeps describes many runs: what is missing is run, what was cut goes on. Started by
    torchrun, several processes share each batch.
    """
    import torch

    from saddlescope.runs import RunFolder, to_json
    from saddlescope.training import (
        APART,
        Branching,
        RunOptions,
        in_a_sweep,
        load_plan,
        load_section,
        require_trunk,
        second_stage,
    )
    from saddlescope.training import train as run_training

    if json and not dry_run:
        raise UsageError("--json is for --dry-run: a run's numbers are in its metrics.jsonl")
    if (recipe is None) == (source is None):
        raise UsageError("give a recipe, or --from with --classifier: one of the two")
    if (source is None) != (classifier is None):
        raise UsageError("--from and --classifier go together")
    if resume and force:
        raise UsageError("--resume goes on with a run and --force deletes it: give one of them")
    if monitor_every != 1 and monitor is None:
        raise UsageError("--monitor-every goes with --monitor, which says what to measure")
    if tau is not None and classifier != "tau-norm":
        raise UsageError("--tau goes with --classifier tau-norm")
    start = None
    if source is not None and classifier is not None:
        refuse_of_a_run(jobs=jobs, shard=shard)
        if only is not None:
            raise UsageError("--only is for a recipe with [[sweep]] blocks, and --from is one run")
        resolved, start = second_stage(
            source, classifier, overrides=overrides or (), **({} if tau is None else {"tau": tau})
        )
    else:
        assert recipe is not None
        plan = load_plan(recipe, overrides=overrides or ())
        if plan.swept and only is None:
            refuse_of_a_sweep(resume=resume, force=force, monitor=monitor, branch=branch)
            chosen, where_to = plan.shard(shard), output or Path("runs") / plan.name
            if dry_run:
                say_plan(chosen, where_to, data_root=data_root, json=json)
                return
            arguments = sweep_arguments(
                recipe, overrides, {
                    "--data-root": data_root, "--workers": workers, "--cache": cache,
                    "--threads": threads, "--tensorboard": tensorboard or None,
                },
            )  # fmt: skip
            where = choose_device(device)

            def load(section: "DataSection") -> "LongTailData":
                many = options.chosen_workers(workers, section.name)
                return load_section(section, root=data_root, workers=many, cache=cache, report=say)

            count = torch.cuda.device_count() if where.type == "cuda" and where.index is None else 0
            run_sweep(
                chosen,
                where_to,
                arguments=arguments,
                jobs=jobs,
                devices=[f"cuda:{index}" for index in range(count)] or [str(where)],
                load=load,
            )
            return
        refuse_of_a_run(jobs=jobs, shard=shard)
        resolved = plan.runs[0] if only is None else plan.only(only)
    home = Path("runs") if only is None else Path("runs") / plan.name
    folder = RunFolder(output or home / resolved.run_name)
    branching = APART
    if branch is not None:
        branching = Branching(require_trunk(resolved, RunFolder(branch)))
    elif only is not None:
        branching = in_a_sweep(resolved, plan.runs, folder.path.parent)
    data = load_section(
        resolved.data, root=data_root, workers=options.chosen_workers(workers, resolved.data.name),
        cache=cache, report=say,
    )  # fmt: skip
    head, tail = (sum(data.counts[c] for c in data.groups[g]) for g in ("head", "tail"))
    say(
        f"{data.name}: {len(data.train)} training images in {data.num_classes} classes "
        f"({max(data.counts)} … {min(data.counts)}; head {head}, tail {tail}), {len(data.test)} "
        "test"
    )
    if dry_run:
        if leads() and json:
            content = resolved.model_dump(exclude_none=True)
            typer.echo(to_json({"folder": str(folder.path), "recipe": content}, indent=2))
        elif leads():
            typer.echo(resolved.to_toml(), nl=False)
        say(f"would write {folder.path}")
        return
    choose_threads(threads, data.image_pixels)
    where = choose_device(device)
    ranks = join(where)
    if ranks.size > 1:
        say(f"{ranks.size} ranks share each batch")
    finished = resume and folder.run_file.is_file() and folder.run().get("state") == "finished"
    watch = _monitor(monitor, monitor_every, data, folder, where, ranks, resume=resume)
    with (
        stop_on_signal() as should_stop,
        epoch_writer(folder, wanted=tensorboard and leads()) as on_epoch,
    ):
        run_training(
            resolved, data, folder,
            RunOptions(
                device=where, resume=resume, force=force, should_stop=should_stop,
                on_epoch=on_epoch, monitor=watch, start=start,
                branching=branching, ranks=ranks,
            ),
        )  # fmt: skip
    done = "already finished" if finished else f"trained {resolved.training.epochs} epochs"
    if classifier == "tau-norm":
        done = "classifier normalised"
    say(f"{done}: {folder.path}")
    if leads():
        print_path(folder.path)


def _monitor(
    groups: str | None,
    every: int,
    data: "LongTailData",
    folder: "RunFolder",
    device: "torch.device",
    ranks: "Ranks",
    *,
    resume: bool,
) -> "CurvatureMonitor | None":
    """The monitor asked for; of a run that was started with one, that one."""
    import torch

    from saddlescope.curvature import CurvatureMonitor, SharedSamples
    from saddlescope.longtail import ImageSamples
    from saddlescope.runs import record_at

    if resume and groups is None and folder.run_file.is_file():
        before = folder.run().get("monitor")
        with record_at(folder.run_file):
            if before:
                groups, every = ",".join(before["subsets"]), int(before["every"])
    if groups is None:
        return None
    samples = ImageSamples(data.train.to(device), data.groups)
    return CurvatureMonitor(
        torch.nn.CrossEntropyLoss(),
        samples if launch() is None else SharedSamples(samples, ranks),
        groups=[name.strip() for name in groups.split(",")],
        every=every,
    )
