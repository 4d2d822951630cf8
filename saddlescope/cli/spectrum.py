"""`saddlescope spectrum`: λ_max, λ_min and λ_ratio of a checkpoint, by class and group."""

import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from saddlescope.cli import options, targets
from saddlescope.cli.completion import one_of, some_of
from saddlescope.cli.console import (
    choose_device,
    choose_threads,
    number_list,
    one_line_errors,
    say,
    show_log,
    stop_on_signal,
)
from saddlescope.cli.ranks import on_all_ranks, sharing
from saddlescope.cli.rows import print_rows
from saddlescope.cli.targets import Split, asked_groups, find_target, pixels, usual_groups
from saddlescope.cli.views import say_view, say_view_costs, say_views_saved
from saddlescope.errors import ExitCode, UsageError
from saddlescope.parallel import job_board, leads
from saddlescope.runs import OPERATORS, VIEW_COLUMNS
from saddlescope.stopping import StopRule

if TYPE_CHECKING:
    from saddlescope.measurement import PlannedRow, SpectrumJob


class Shard(StrEnum):
    """The part that each of several ranks takes."""

    CLASSES = "classes"
    SAMPLES = "samples"


@one_line_errors
@on_all_ranks
def spectrum(
    run: targets.Run = None,
    checkpoint: targets.Checkpoint = "last",
    entry: targets.Entry = None,
    model: targets.Model = None,
    data: targets.Data = None,
    classes: Annotated[
        str, typer.Option(help="all, none, or numbers such as 0,80 or 0-9.")
    ] = "all",
    groups: targets.WhichGroups = None,
    split: targets.WhichSplit = Split.TRAIN,
    criterion: targets.WhichCriterion = "ce",
    rtol: Annotated[float, typer.Option(help="Stop below this relative residual.")] = StopRule.rtol,
    certify: Annotated[
        bool, typer.Option("--certify", help="Stop when the intervals are below rtol instead.")
    ] = False,
    atol: Annotated[
        float | None,
        typer.Option(
            help="Or below this share of the matrix's norm; by default a thousandth of rtol.",
            show_default=False,
        ),
    ] = None,
    confidence: targets.Confidence = StopRule.confidence,
    max_matvecs: Annotated[int, typer.Option(help="Most products a row may take.")] = (
        StopRule.max_matvecs
    ),
    seed: Annotated[
        str, typer.Option(help="Seed of the start vectors; several such as 0,1,2 give a row each.")
    ] = "0",
    operator: Annotated[
        str,
        typer.Option(
            help=f"Which matrix: {', '.join(OPERATORS)}.", autocompletion=one_of(OPERATORS)
        ),
    ] = "hessian",
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Only parameters whose name matches, such as 'layer3.*'; may be repeated.",
        ),
    ] = None,
    weight_decay: Annotated[
        float, typer.Option(help="Factor of an L2 term added to the loss.")
    ] = 0.0,
    views: Annotated[
        str,
        typer.Option(
            "--with",
            metavar="VIEWS",
            help="Views of each row to compute and keep beside the table: "
            f"{', '.join(VIEW_COLUMNS)}.",
            show_default=False,
            autocompletion=some_of(VIEW_COLUMNS),
        ),
    ] = "",
    steps: Annotated[int, typer.Option(help="density, split: Lanczos steps.")] = 60,
    probes: Annotated[
        int | None,
        typer.Option(
            help="density, trace: random probes; by default 8 and 30.", show_default=False
        ),
    ] = None,
    k: Annotated[int, typer.Option("--k", help="eigenvalues: how many at each end.")] = 10,
    radius: Annotated[float, typer.Option(help="slices, plane: how far from w they reach.")] = 0.5,
    resamples: Annotated[int, typer.Option(help="bootstrap: how many.")] = 20,
    randomness: Annotated[
        str,
        typer.Option(
            help="Data that are others when read again: frozen keeps the first reading and says "
            "so, refuse does not measure them.",
            autocompletion=one_of(("frozen", "refuse")),
        ),
    ] = "frozen",
    strategy: Annotated[
        str,
        typer.Option(
            help="Kind of product: auto, double-backward or traced.",
            autocompletion=one_of(("auto", "double-backward", "traced")),
        ),
    ] = "auto",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="CSV to write; by default in the run folder, with --model none.",
        ),
    ] = None,
    json: options.JsonTable = False,
    plain: Annotated[bool, typer.Option("--plain", help="Print CSV on a terminal too.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be measured and its cost.")
    ] = False,
    shard: Annotated[
        Shard,
        typer.Option(help="Part of a rank under torchrun: classes, or the samples of each."),
    ] = Shard.CLASSES,
    data_root: options.DataRoot = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
) -> None:
    """Measure λ_max, λ_min and λ_ratio of a checkpoint, for classes and groups of classes.

    Every finished row is saved at once, with --model if -o names a file, and its views (--with)
    after it; started again, the command goes on where it was cut.
    Prints an aligned table on a terminal, CSV into a pipe.
    """
    from saddlescope.curvature import MatrixSpec, usual_batch_size
    from saddlescope.measurement import Settings, SpectrumJob, ViewSettings, run_sharded

    show_log()
    wanted: Any = classes if classes in ("all", "none") else number_list(classes)
    place = choose_device(device)
    settings = Settings(
        StopRule(rtol, atol, confidence, certify, max_matvecs),
        MatrixSpec(
            operator=cast("Any", operator), parameters=tuple(parameters) if parameters else None,
            weight_decay=weight_decay, batch_size=usual_batch_size(place),
            strategy=cast("Any", strategy), randomness=cast("Any", randomness),
        ),
        ViewSettings(steps=steps, probes=probes, k=k, radius=radius, resamples=resamples),
    )  # fmt: skip
    ranks = sharing(shard.value, place)
    if views and job_board() is not None:
        raise UsageError(
            "--with needs one process: run it again without torchrun, finished rows are kept"
        )
    asked = asked_groups(groups)
    target, path = find_target(
        run, model, data,
        checkpoint=checkpoint, split=split.value, criterion=criterion,
        entry=entry, groups=asked, data_root=data_root, device=place,
    )  # fmt: skip
    choose_threads(threads, pixels(target))
    job = SpectrumJob.plan(
        target,
        classes=wanted,
        groups=usual_groups(target) if asked is None else asked,
        settings=settings,
        seed=number_list(seed, "--seed", "numbers"),
        path=output or path,
        views=[name.strip() for name in views.split(",")] if views else (),
    )
    if dry_run:
        _print_plan(job, json=json)
        say_view_costs(job)
        return

    def on_row(row: dict[str, Any], reused: bool) -> None:
        if reused:
            say(f"{row['kind']} {row['name']}: already measured")

    with stop_on_signal() as should_stop:
        run_job = partial(job.run, on_view=say_view)
        if (shared := job_board()) is not None:
            run_job = partial(run_sharded, job, shared, ranks=ranks)
        rows = run_job(on_row=on_row, should_stop=should_stop)
    say(f"saved: {job.path}" if job.path else "not saved: name a file with -o to keep the table")
    say_views_saved(job)
    _print_rows(rows, json=json, plain=plain)
    open_rows = [f"{row['kind']} {row['name']}" for row in rows if not row["converged"]]
    if open_rows:
        say(
            f"saddlescope: not converged after {max_matvecs} products: {', '.join(open_rows)}; "
            "raise --max-matvecs or --rtol"
        )
        raise typer.Exit(ExitCode.NOT_CONVERGED)


def _print_rows(rows: list[dict[str, Any]], *, json: bool, plain: bool) -> None:
    from saddlescope.runs import spectrum_csv, to_json

    if not leads():
        return
    if json:
        typer.echo(to_json(rows, indent=2))
    elif sys.stdout.isatty() and not plain:
        from saddlescope.reporting import spectrum_text

        typer.echo(spectrum_text(rows))
    else:
        typer.echo(spectrum_csv(rows), nl=False)


def _print_plan(job: "SpectrumJob", *, json: bool) -> None:
    """What would be measured: samples, gradients by operation count, and memory."""
    from saddlescope.curvature import available_bytes
    from saddlescope.measurement import plan_rows

    if not leads():
        return
    parameters = [p for p in job.target.model.parameters() if p.requires_grad]
    size = sum(p.numel() for p in parameters)
    rows: list[PlannedRow] = []
    for row in plan_rows(job):
        if not (rows or json):
            typer.echo(",".join(row.columns()))
        if not json:
            typer.echo(",".join(str(value) for value in row.columns().values()))
        rows.append(row)
    if json:
        print_rows([row.columns() for row in rows], json=True)
    vector = size * parameters[0].element_size() / 2**20
    peak = max(row.memory.peak for row in rows) / 2**20
    vectors = min(row.memory.vectors for row in rows)
    restarted = vectors <= max(row.products for row in rows)
    say(
        f"{size:,} parameters: the basis takes {vector:.1f} MiB a product; beside model and data a "
        f"row takes up to {peak:.0f} MiB, {available_bytes(parameters[0].device) / 2**20:.0f} MiB "
        "are free"
        + (f"; the basis is restarted where it holds {vectors} vectors" if restarted else "")
    )
