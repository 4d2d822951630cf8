"""`saddlescope theory`: the paper's statements, tried, and runs placed in the phase diagram."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from saddlescope.cli import options
from saddlescope.cli.console import number_list, one_line_errors, say
from saddlescope.cli.rows import Json, print_rows, run_folders
from saddlescope.errors import ExitCode, UsageError
from saddlescope.runs import refuse_foreign_output

app = typer.Typer(
    help="Check the paper's statements, and place checkpoints in them.", no_args_is_help=True
)

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
        seed: options.Seed = 0,
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
    print_rows(rows, json=json, hidden=("worst", "notes"))
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
    force: options.Replace = False,
    json: Json = False,
) -> None:
    """Place measured checkpoints in the phase diagram of a SAM step near a saddle."""
    if not runs and output is None:
        raise UsageError("give run folders to place, or -o FILE to draw the diagram alone")
    if output is not None and output.suffix not in (".svg", ".pdf", ".png"):
        raise UsageError(f"-o {output}: end it in .svg, .pdf or .png")
    if output is not None:
        refuse_foreign_output(output, force=force)
    from saddlescope.theory import place

    placed = place(run_folders(runs), mu=mu) if runs else None
    if placed is not None:
        print_rows([dict(row) for _, row in placed.iterrows()], json=json)
        possible = int(placed["theorem1_possible"].sum())
        if placed.empty:
            say(
                "no row to place: λ_min is not negative, or the schedule had ended; measure a "
                "checkpoint from mid-training: saddlescope spectrum RUN --checkpoint EPOCH"
            )
        say(f"Theorem 1's hypothesis is possible in {possible} of {len(placed)} rows (μ = {mu:g})")
    if output is not None:
        from saddlescope.reporting import phase_figure, save_figure

        figure = phase_figure(placed, mu=mu)
        save_figure(figure, output.parent, output.stem, formats=(output.suffix[1:],))
        say(f"drawn: {output}")


@app.command("horizons")
@one_line_errors
def horizons(
    dimensions: Annotated[str, typer.Option(help="Dimensions, comma-separated.")] = "1,2,10,50",
    alignments: Annotated[
        str, typer.Option(help="Values of |⟨v_min, ∇L⟩|/‖∇L‖.")
    ] = "0.5,0.1,1e-2,1e-5,1e-10,1e-20",
    a: Annotated[float, typer.Option("--a", help="η|λ_min|.")] = 0.1,
    mu: Annotated[float, typer.Option(min=1.0, help="μ of Theorem 1.")] = 1.0,
    json: Json = False,
) -> None:
    """Print the largest t for which Theorem 1's hypothesis can hold."""
    from saddlescope.theory import horizon_table

    found = horizon_table(
        number_list(dimensions, "--dimensions", "whole numbers"),
        _numbers(alignments, "--alignments"),
        a=a,
        mu=mu,
    )
    print_rows(found, json=json)


def _numbers(text: str, option: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{option} {text!r}: expected numbers, comma-separated") from None
