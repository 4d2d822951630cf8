"""`saddlescope theory`: the paper's statements, tried; checkpoints placed in its picture."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saddlescope.cli import options
from saddlescope.cli.console import choose_device, choose_threads, one_line_errors, say
from saddlescope.errors import DataError, ExitCode, UsageError

if TYPE_CHECKING:
    from saddlescope.runs import RunFolder

app = typer.Typer(
    help="Check the paper's statements, and place checkpoints in them.", no_args_is_help=True
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_STATEMENTS = {
    "theorem1": "Theorem 1: SAM's component along v_min against SGD's.",
    "proposition3": "Proposition 3: when the gradients of head and tail are of one size.",
    "proposition4": "Proposition 4: the perturbation points where the head's does.",
    "proposition5-1": "Proposition 5 (1): Theorem 1 beside ImbSAM.",
    "proposition5-2": "Proposition 5 (2): where SAM does not escape, ImbSAM does not.",
    "weingarten": "Eq. 5: principal curvatures of the graph of the loss.",
}
"""Key to its help; a test holds the keys to those of `saddlescope.theory.STATEMENTS`."""


def _checker(key: str) -> Callable[..., None]:
    @one_line_errors
    def command(
        trials: Annotated[int, typer.Option(min=1, help="Instances of each variant.")] = 100_000,
        seed: Annotated[int, typer.Option(min=0, help="Of the instances.")] = 0,
        search: Annotated[
            bool, typer.Option("--search", help="Look for a counterexample of each instead.")
        ] = False,
        json: Json = False,
    ) -> None:
        _check(key, trials=trials, seed=seed, search=search, json=json)

    command.__doc__ = (
        f"{_STATEMENTS[key]}\n\nTries it, as printed and as corrected, on random instances; ends "
        "with 1 if a variant that is known to be true is violated."
    )
    return command


for _key in _STATEMENTS:
    app.command(_key)(_checker(_key))


def _check(key: str, *, trials: int, seed: int, search: bool, json: bool) -> None:
    from saddlescope.theory import STATEMENTS, check, find_counterexample

    rows: list[dict[str, Any]] = []
    broken = []
    for variant in STATEMENTS[key]:
        if search:
            found = find_counterexample(variant, trials=trials, seed=seed)
            rows.append({"statement": key, "variant": variant.variant, "counterexample": found})
            violated = found is not None
        else:
            tally = check(variant, trials=trials, seed=seed)
            say(f"{variant.variant}: {variant.says}")
            rows.append(tally.row())
            violated = tally.violations > 0
        if violated and variant.expected:
            broken.append(variant.variant)
    _print(rows, json=json, hidden=("worst", "notes"))
    if broken:
        say(f"saddlescope: {key}: violated, although known to be true: {', '.join(broken)}")
        raise typer.Exit(ExitCode.FAILED)


@app.command("phase")
@one_line_errors
def phase(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUNS]…", help="Run folders with spectra.")
    ] = None,
    mu: Annotated[float, typer.Option(min=1.0, help="μ of Theorem 1.")] = 1.0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Draw the diagram: .svg, .pdf or .png."),
    ] = None,
    json: Json = False,
) -> None:
    """Place measured checkpoints in the phase diagram of a SAM step near a saddle."""
    if not runs and output is None:
        raise UsageError("give run folders to place, or -o FILE to draw the diagram alone")
    if output is not None and output.suffix not in (".svg", ".pdf", ".png"):
        raise UsageError(f"-o {output}: end it in .svg, .pdf or .png")
    from saddlescope.theory import place
    from saddlescope.theory.drawing import draw_phase

    placed = place(_folders(runs), mu=mu) if runs else None
    if placed is not None:
        _print([dict(row) for _, row in placed.iterrows()], json=json)
        possible = int(placed["theorem1_possible"].sum())
        say(f"Theorem 1's hypothesis is possible in {possible} of {len(placed)} rows (μ = {mu:g})")
    if output is not None:
        draw_phase(output, placed, mu=mu)
        say(f"drawn: {output}")


@app.command("escape")
@one_line_errors
def escape(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    checkpoint: Annotated[str, typer.Option(help="last, best or an epoch number.")] = "last",
    steps: Annotated[int, typer.Option(min=1, help="Whole-batch steps of each method.")] = 10,
    eta: Annotated[
        float | None,
        typer.Option(help="Step size; by default the recipe's.", show_default=False),
    ] = None,
    methods: Annotated[
        str, typer.Option(help="Of sgd, sam, imbsam, sam-ext.")
    ] = "sgd,sam,imbsam,sam-ext",
    seed: Annotated[int, typer.Option(min=0, help="Of the start vectors.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="CSV to write as well.")
    ] = None,
    json: Json = False,
    data_root: options.DataRoot = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
) -> None:
    """Take whole-batch steps with each method from a checkpoint, and follow them along v_min."""
    import torch

    from saddlescope.measurement import measure_escape, run_target
    from saddlescope.runs import RunFolder, write_text

    folder, where = RunFolder(run), choose_device(device)
    target = run_target(folder, checkpoint=checkpoint, device=where, data_root=data_root)
    first = target.samples.inputs(torch.arange(1))
    choose_threads(threads, int(first[0, 0].numel()) if first.dim() == 4 else 0)
    found = measure_escape(
        target,
        steps=steps,
        eta=float(folder.recipe()["optimizer"]["eta"]) if eta is None else eta,
        methods=[name.strip() for name in methods.split(",")],
        seed=seed,
        report=lambda method: say(f"{method}: {steps} steps"),
    )
    low = found.ends.lambda_min
    say(f"λ_min {low.value:.4g} [{low.lower:.4g}, {low.upper:.4g}] at the start")
    if output is not None:
        write_text(output, _csv(found.rows))
    _print(found.rows, json=json)


@app.command("theorem6")
@one_line_errors
def theorem6(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder with a spectrum.")],
    most: Annotated[float, typer.Option("--most", help="M: what the loss cannot exceed.")] = 10.0,
    delta: Annotated[float, typer.Option(help="1 minus the probability of the bound.")] = 0.05,
    json: Json = False,
) -> None:
    """Evaluate the terms of Theorem 6 for a run, as printed and with the missing square root.

    λ_max is the upper bound of the measured one at w, not the largest over the ρ-ball.
    """
    import torch

    from saddlescope.theory import generalisation_bound
    from saddlescope.theory.measured import bound_arguments
    from saddlescope.training import load_checkpoint
    from saddlescope.training.checkpoints import state_dict_of

    if not 0 < delta < 1 or not most > 0:
        raise UsageError("--delta lies between 0 and 1, and --most above 0")
    (folder,) = _folders([run])[:1]
    weights = state_dict_of(load_checkpoint(folder.checkpoint("last")))
    learned = [t for k, t in weights.items() if t.is_floating_point() and "running_" not in k]
    length = float(torch.stack([t.double().square().sum() for t in learned]).sum().sqrt())
    arguments = bound_arguments(folder, weight_norm=length)
    found = generalisation_bound(**arguments, most=most, delta=delta)
    row = {"run": folder.name, **arguments, **found.__dict__}
    _print(
        [row | {"printed": found.printed, "rooted": found.rooted, "vacuous": found.vacuous}],
        json=json,
    )
    word = "vacuous: it is not below M" if found.vacuous else "below M"
    say(f"the bound is {word} (printed {found.printed:.4g}, with the root {found.rooted:.4g})")


def _folders(paths: list[Path] | None) -> "list[RunFolder]":
    """The run folders, or those inside a folder of them."""
    from saddlescope.runs import RunFolder

    found = []
    for path in paths or []:
        inside = [RunFolder(p) for p in sorted(path.glob("*")) if RunFolder(p).exists()]
        if not RunFolder(path).exists() and not inside:
            raise DataError(f"{path}: no run folder")
        found += [RunFolder(path)] if RunFolder(path).exists() else inside
    return found


def _print(rows: list[dict[str, Any]], *, json: bool, hidden: tuple[str, ...] = ()) -> None:
    from saddlescope.runs.atomic import to_json

    if json:
        typer.echo(to_json(rows, indent=2))
        return
    typer.echo(_csv([{k: v for k, v in row.items() if k not in hidden} for row in rows]), nl=False)


def _csv(rows: list[dict[str, Any]]) -> str:
    import pandas as pd

    return pd.DataFrame(rows).to_csv(index=False)
