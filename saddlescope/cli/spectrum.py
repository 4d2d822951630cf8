"""`saddlescope spectrum`: λ_max, λ_min and λ_ratio of a checkpoint, by class and group."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saddlescope.cli import options
from saddlescope.cli.console import (
    Ticker,
    choose_device,
    choose_threads,
    number_list,
    one_line_errors,
    say,
    show_log,
    stop_on_signal,
)
from saddlescope.errors import ExitCode, UsageError

if TYPE_CHECKING:
    import torch

    from saddlescope.measurement import PlannedRow, SpectrumJob, Target


class Split(StrEnum):
    """Which samples."""

    TRAIN = "train"
    TEST = "test"


class Criterion(StrEnum):
    """Which loss."""

    CE = "ce"
    TRAINING = "training"


@one_line_errors
def spectrum(
    run: Annotated[
        Path | None, typer.Argument(help="A run folder.", metavar="[RUN]", show_default=False)
    ] = None,
    checkpoint: Annotated[
        str,
        typer.Option(help="last, best or an epoch number; with --model, a file of weights."),
    ] = "last",
    model: Annotated[
        str | None, typer.Option(help="package.module:factory of a network from elsewhere.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="package.module:dataset to go with --model.")
    ] = None,
    classes: Annotated[
        str, typer.Option(help="all, none, or numbers such as 0,80 or 0-9.")
    ] = "all",
    groups: Annotated[
        str | None,
        typer.Option(
            help="Of all, head, tail, many, medium, few; or none. By default all, and head and "
            "tail where the data set tells them apart.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[Split, typer.Option(help="train or test.")] = Split.TRAIN,
    criterion: Annotated[
        Criterion, typer.Option(help="ce, or training for the loss the network was trained with.")
    ] = Criterion.CE,
    rtol: Annotated[float, typer.Option(help="Stop below this relative residual.")] = 1e-2,
    certify: Annotated[
        bool, typer.Option("--certify", help="Stop when the intervals are below rtol instead.")
    ] = False,
    confidence: Annotated[float, typer.Option(help="Joint, of a row's intervals.")] = 0.999,
    max_matvecs: Annotated[int, typer.Option(help="Most products a row may take.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the start vectors.")] = 0,
    strategy: Annotated[
        str, typer.Option(help="Kind of product: auto, double-backward or traced.")
    ] = "auto",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="CSV to write; by default in the run folder, with --model none.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be measured and its cost.")
    ] = False,
    data_root: options.DataRoot = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
) -> None:
    """Measure λ_max, λ_min and λ_ratio of a checkpoint, for classes and groups of classes.

    Every finished row is saved at once, with --model if -o names a file; started again, the
    command goes on where it was cut.
    Prints an aligned table on a terminal, CSV into a pipe.
    """
    from saddlescope.measurement import Settings, SpectrumJob

    show_log()
    wanted: Any = classes if classes in ("all", "none") else number_list(classes)
    settings = Settings(rtol=rtol, confidence=confidence, certify=certify, max_matvecs=max_matvecs)
    target, path = _target(
        run, model, data,
        checkpoint=checkpoint, split=split.value, criterion=criterion.value,
        data_root=data_root, device=choose_device(device),
    )  # fmt: skip
    first = target.samples.inputs(target.samples.targets[:1] * 0)
    choose_threads(threads, int(first[0, 0].numel()) if first.dim() == 4 else 0)
    job = SpectrumJob.plan(
        target,
        classes=wanted,
        groups=_groups(groups, target),
        settings=settings,
        seed=seed,
        path=output or path,
        strategy=strategy,
    )
    if dry_run:
        _print_plan(job)
        return

    done, total = 0, len(job.subsets)
    with stop_on_signal() as should_stop, Ticker("spectrum") as ticker:

        def progress(subset: Any, products: int, largest: float, smallest: float) -> None:
            ticker.update(
                done / total,
                lambda: (
                    f"{subset.kind} {subset.name}: product {products}, "
                    f"λ_max {largest:.4g}, λ_min {smallest:.4g}"
                ),
            )

        def on_row(row: dict[str, Any], reused: bool) -> None:
            nonlocal done
            done += 1
            if reused:
                say(f"{row['kind']} {row['name']}: already measured")

        rows = job.run(on_row=on_row, progress=progress, should_stop=should_stop)
    say(f"saved: {job.path}" if job.path else "not saved: name a file with -o to keep the table")
    _print_rows(rows, json=json)
    open_rows = [row["name"] for row in rows if not row["converged"]]
    if open_rows:
        say(
            f"saddlescope: not converged after {max_matvecs} products: {', '.join(open_rows)}; "
            "raise --max-matvecs or --rtol"
        )
        raise typer.Exit(ExitCode.NOT_CONVERGED)


def _target(
    run: Path | None,
    model: str | None,
    data: str | None,
    *,
    checkpoint: str,
    split: str,
    criterion: str,
    data_root: Path | None,
    device: "torch.device",
) -> "tuple[Target, Path | None]":
    """The target asked for, and where its table belongs."""
    from saddlescope.measurement import foreign_target, run_target
    from saddlescope.runs import RunFolder

    if (run is None) == (model is None):
        raise UsageError("give a run folder, or --model with --data: one of the two")
    if run is not None:
        if data is not None:
            raise UsageError("--data goes with --model; a run folder knows its own data")
        folder = RunFolder(run)
        target = run_target(
            folder, checkpoint=checkpoint, split=split, criterion=criterion, device=device,
            data_root=data_root,
        )  # fmt: skip
        return target, folder.spectrum_file(target.identity["checkpoint"], split)
    if data is None:
        raise UsageError("--model needs --data package.module:dataset")
    if criterion != "ce":
        raise UsageError("--criterion training is known of run folders only")
    assert model is not None
    weights = None if checkpoint == "last" else Path(checkpoint)
    return foreign_target(model, data, checkpoint=weights, split=split, device=device), None


def _groups(text: str | None, target: "Target") -> list[str]:
    """The groups asked for; by default those that this data set has."""
    if text is None:
        known = getattr(target.samples, "groups", {})
        return ["all", *(name for name in ("head", "tail") if name in known)]
    return [] if text == "none" else [name.strip() for name in text.split(",")]


def _print_rows(rows: list[dict[str, Any]], *, json: bool) -> None:
    from saddlescope.runs.atomic import to_json
    from saddlescope.runs.tables import spectrum_csv

    if json:
        typer.echo(to_json(rows, indent=2))
    elif sys.stdout.isatty():
        from saddlescope.reporting import spectrum_text

        typer.echo(spectrum_text(rows))
    else:
        typer.echo(spectrum_csv(rows), nl=False)


def _print_plan(job: "SpectrumJob") -> None:
    """What would be measured: samples, gradients by operation count, and memory."""
    from saddlescope.curvature.memory import available_bytes
    from saddlescope.measurement import plan_rows

    parameters = [p for p in job.target.model.parameters() if p.requires_grad]
    size = sum(p.numel() for p in parameters)
    rows: list[PlannedRow] = []
    for row in plan_rows(job):
        if not rows:
            typer.echo(",".join(row.columns()))
        typer.echo(",".join(str(value) for value in row.columns().values()))
        rows.append(row)
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
