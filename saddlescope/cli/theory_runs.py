"""Commands of `saddlescope theory` that measure at a checkpoint of a run."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saddlescope.cli import options
from saddlescope.cli.completion import CHECKPOINTS, one_of, some_of
from saddlescope.cli.console import choose_device, choose_threads, one_line_errors, say
from saddlescope.cli.rows import Json, as_csv, print_rows, run_folders
from saddlescope.errors import UsageError
from saddlescope.runs import METHODS
from saddlescope.stages import counted

if TYPE_CHECKING:
    from saddlescope.measurement import Target
    from saddlescope.runs import RunFolder

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
Checkpoint = Annotated[
    str,
    typer.Option(help="last, best or an epoch number.", autocompletion=one_of(CHECKPOINTS)),
]
Loss = Annotated[
    str,
    typer.Option(
        "--criterion",
        help="training, the loss the network was trained with; or ce.",
        autocompletion=one_of(("training", "ce")),
    ),
]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    for name, command in (
        ("escape", escape),
        ("gradients", gradients),
        ("remark2", remark2),
        ("eq2", eq2),
        ("theorem6", theorem6),
    ):
        app.command(name)(one_line_errors(command))


def escape(
    run: Run,
    checkpoint: Checkpoint = "last",
    start: Annotated[
        str,
        typer.Option(
            help="checkpoint, or a saddle made of it: symmetric, rank-deficient.",
            autocompletion=one_of(("checkpoint", "symmetric", "rank-deficient")),
        ),
    ] = "checkpoint",
    offset: Annotated[
        float, typer.Option(min=0.0, help="Length of a random displacement from there.")
    ] = 0.0,
    steps: Annotated[int, typer.Option(min=1, help="Whole-batch steps of each method.")] = 10,
    eta: Annotated[
        float | None,
        typer.Option(help="Step size; by default the recipe's.", show_default=False),
    ] = None,
    methods: Annotated[
        str,
        typer.Option(
            help="Methods, comma-separated: sgd, sam, imbsam, sam-ext, sse-sam.",
            autocompletion=some_of(METHODS),
        ),
    ] = "sgd,sam,imbsam,sam-ext",
    samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Samples that stand for all, of each class its share; default all.",
            show_default=False,
        ),
    ] = None,
    seed: options.Seed = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="CSV to write as well.")
    ] = None,
    force: options.Replace = False,
    json: Json = False,
    data_root: options.DataRoot = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
) -> None:
    """Take whole-batch steps with each method from a checkpoint, and follow them along v_min."""
    from saddlescope.experiments import ESCAPE_COLUMNS, Steps, measure_escape
    from saddlescope.runs import RadiusOptions, refuse_foreign_output, write_text

    if output is not None:
        refuse_foreign_output(output, force=force, columns=ESCAPE_COLUMNS)

    folder, target = _target(run, checkpoint, data_root, device, threads)
    recipe = folder.recipe()
    wanted = Steps(
        steps,
        float(recipe["optimizer"]["eta"]) if eta is None else eta,
        methods=[name.strip() for name in methods.split(",")],
        start=start,
        offset=offset,
        gamma=float(recipe.get("method", {}).get("gamma", RadiusOptions.gamma)),
        samples=samples,
        seed=seed,
    )
    found = measure_escape(target, wanted, report=lambda method: say(f"{method}: {steps} steps"))
    low = found.ends.lambda_min
    say(
        f"at the start ‖∇L‖ = {found.rows[0]['gradient_norm']:.4g} and "
        f"λ_min = {low.value:.4g} [{low.lower:.4g}, {low.upper:.4g}]"
    )
    if output is not None:
        write_text(output, as_csv(found.rows))
    print_rows(found.rows, json=json)


def gradients(
    run: Run,
    checkpoints: Annotated[
        str,
        typer.Option(
            help="Comma-separated: last, best, epoch numbers; or all.",
            autocompletion=some_of((*CHECKPOINTS, "all")),
        ),
    ] = "all",
    samples: Annotated[
        int | None,
        typer.Option(min=2, help="Samples of each group for per-sample gradients; default all."),
    ] = None,
    logged: Annotated[
        bool, typer.Option("--logged", help="Summarise norms.jsonl by epoch instead.")
    ] = False,
    criterion: Loss = "training",
    seed: options.Seed = 0,
    json: Json = False,
    data_root: options.DataRoot = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
) -> None:
    """Measure what Propositions 3 and 4 assume of head and tail gradients, by epoch."""
    from saddlescope.experiments import group_gradients, logged_gradients
    from saddlescope.runs import RunFolder

    if logged:
        print_rows(logged_gradients(RunFolder(run)), json=json)
        return
    rows = []
    for name in counted("gradients", _checkpoint_names(RunFolder(run), checkpoints), text=str):
        _, target = _target(run, name, data_root, device, threads, criterion)
        rows.append(group_gradients(target, samples=samples, seed=seed))
        say(f"{name}: q = {rows[-1]['q']:.3g}, signal {rows[-1]['signal_head']:.3g} (head), "
            f"{rows[-1]['signal_tail']:.3g} (tail)")  # fmt: skip
    print_rows(rows, json=json)


def remark2(
    run: Run,
    checkpoint: Checkpoint = "last",
    batches: Annotated[int, typer.Option(min=2, help="Mini-batches.")] = 100,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Samples each; the recipe's.", show_default=False),
    ] = None,
    seed: options.Seed = 0,
    json: Json = False,
    data_root: options.DataRoot = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
) -> None:
    """Measure E⟨v_min, ∇L_B⟩² over mini-batches, for SGD's and SAM's gradients."""
    from saddlescope.experiments import negative_curvature_moments

    folder, target = _target(run, checkpoint, data_root, device, threads)
    usual = int(folder.recipe()["optimizer"]["batch_size"])
    size = min(usual, len(target.samples.targets)) if batch_size is None else batch_size
    rows = negative_curvature_moments(target, batches=batches, batch_size=size, seed=seed)
    plain, sharp = (row["moment"] for row in rows)
    say(f"SAM's moment is {sharp / plain:.4g} times SGD's" if plain > 0 else "no moment")
    print_rows(rows, json=json)


def eq2(
    run: Run,
    checkpoint: Checkpoint = "last",
    rho: Annotated[
        float | None,
        typer.Option(help="Radius of the ball; the recipe's.", show_default=False),
    ] = None,
    steps: Annotated[
        int, typer.Option(min=1, help="Steps of projected ascent from each start.")
    ] = 20,
    starts: Annotated[int, typer.Option(min=0, help="Random starts beside w + ρ∇L/‖∇L‖.")] = 2,
    seed: options.Seed = 0,
    json: Json = False,
    data_root: options.DataRoot = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
) -> None:
    """Hold SAM's first-order ascent to the largest loss found in the ball (Eq. 2)."""
    from saddlescope.experiments import inner_maximum

    _, target = _target(run, checkpoint, data_root, device, threads)
    print_rows(inner_maximum(target, rho=rho, steps=steps, starts=starts, seed=seed), json=json)


def theorem6(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder with a spectrum.")],
    most: Annotated[float, typer.Option("--most", help="M: what the loss cannot exceed.")] = 10.0,
    delta: Annotated[float, typer.Option(help="1 minus the probability of the bound.")] = 0.05,
    rho: Annotated[
        float | None,
        typer.Option(
            help="ρ of the bound, from 1e-100 to 1e100; by default the recipe's method.rho, "
            "whatever radii the method takes.",
            show_default=False,
        ),
    ] = None,
    ball: Annotated[
        bool, typer.Option("--ball", help="Seek the largest λ_max over the ρ-ball.")
    ] = False,
    seed: options.Seed = 0,
    json: Json = False,
    data_root: options.DataRoot = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
) -> None:
    """Evaluate the terms of Theorem 6 for a run, as printed and with the missing square root.

    λ_max is the upper bound of the measured one at w, or with --ball of the largest found within ρ.
    """
    import math

    from saddlescope.theory import bound_terms, check_rho, generalisation_bound
    from saddlescope.training import (
        load_checkpoint,
        refuse_other_than_tensors,
        state_dict_of,
        weights_digest,
    )

    if not 0 < delta < 1 or not most > 0:
        raise UsageError("--delta lies between 0 and 1, and --most above 0")
    if rho is not None:
        check_rho(rho, "--rho")
    (folder,) = run_folders([run])[:1]
    path = folder.checkpoint("last")
    weights = state_dict_of(load_checkpoint(path))
    refuse_other_than_tensors(weights, origin=str(path))
    learned = [t for k, t in weights.items() if t.is_floating_point() and "running_" not in k]
    length = math.sqrt(sum(float(t.double().square().sum()) for t in learned))
    digest = weights_digest(weights)
    terms = bound_terms(folder, weight_norm=length, weights=digest, rho=rho)
    where = "w"
    if ball:
        from saddlescope.experiments import largest_curvature

        _, target = _target(folder.path, "last", data_root, device, threads)
        tried = largest_curvature(target, rho=terms.rho, seed=seed)
        say("λ_max " + ", ".join(f"{value:.4g} at {name}" for name, value in tried.items()))
        where = max(tried, key=lambda name: tried[name])
        terms = replace(terms, lambda_max=tried[where])
    found = generalisation_bound(terms, most=most, delta=delta)
    row = {"run": folder.name, **asdict(terms), "lambda_max_at": where, **found.__dict__}
    print_rows(
        [row | {"printed": found.printed, "rooted": found.rooted, "vacuous": found.vacuous}],
        json=json,
    )
    word = "vacuous: it is not below M" if found.vacuous else "below M"
    say(f"the bound is {word} (printed {found.printed:.4g}, with the root {found.rooted:.4g})")


def _target(
    run: Path,
    checkpoint: str,
    data_root: Any,
    device: str,
    threads: int | None,
    criterion: str = "ce",
) -> "tuple[RunFolder, Target]":
    import torch

    from saddlescope.measurement import run_target
    from saddlescope.runs import RunFolder

    folder, where = RunFolder(run), choose_device(device)
    target = run_target(
        folder, checkpoint=checkpoint, criterion=criterion, device=where, data_root=data_root
    )
    trained = folder.recipe().get("loss", {}).get("name", "ce")
    if criterion == "ce" and trained != "ce":
        say(f"of the loss ce; the network was trained with {trained}")
    first = target.samples.inputs(torch.arange(1))
    choose_threads(threads, int(first[0, 0].numel()) if first.dim() == 4 else 0)
    return folder, target


def _checkpoint_names(folder: "RunFolder", asked: str) -> list[str]:
    """Those asked for; "all" is those of single epochs, and the last one."""
    if asked != "all":
        return [name.strip() for name in asked.split(",")]
    epochs = sorted(folder.checkpoints.glob("epoch-*.pt"))
    return [str(int(path.stem.removeprefix("epoch-"))) for path in epochs] + ["last"]
