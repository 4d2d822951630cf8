"""`saddlescope demo`: five optimisers on digits, every class measured, one report."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saddlescope.cli import options
from saddlescope.cli.console import choose_device, one_line_errors, say, stop_on_signal
from saddlescope.errors import ExitCode, Interrupted, SaddlescopeError
from saddlescope.runs import METHODS, RunFolder, count_lines, end_with_parent
from saddlescope.stages import Stage, span

if TYPE_CHECKING:
    from saddlescope.training import Recipe

GROUPS = ("all", "head", "tail")

ROWS = len(GROUPS) + 10
"""Of a table: the groups and the ten digits."""

_STOPPED = "stopped; run the command again to go on"

_LOOK_SECONDS = 0.2
"""Between two looks at whether a signal has come."""


@one_line_errors
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the runs and the report.")
    ] = Path("runs/demo"),
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Methods at a time; by default one a core.")
    ] = None,
    overrides: options.Overrides = None,
    device: options.Device = "cpu",
) -> None:
    """Train the five methods on digits, measure all, head, tail and every class, write a report.

    Started again, it goes on with what is missing. Prints a compact table on stdout.
    """
    from saddlescope.reporting import select_runs, summary_text, write_report
    from saddlescope.training import packaged_recipe

    where = choose_device(device)
    workers = min(len(METHODS), jobs or os.cpu_count() or 1)
    recipes = {
        method: packaged_recipe(
            "digits-lt", overrides=[*(overrides or ()), f"method.name={method}"]
        )
        for method in METHODS
    }
    folders = {method: output / recipe.run_name for method, recipe in recipes.items()}
    with (
        stop_on_signal() as should_stop,
        ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=end_with_parent,
            initargs=(os.getpid(),),
        ) as pool,
    ):

        def begin(method: str) -> Future[str]:
            arguments = (recipes[method], folders[method], str(where), os.getpid())
            # Ctrl-C comes to this process alone, which tells the others: they begin with imports,
            # and one that is interrupted there prints a traceback.
            heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                return pool.submit(one_method, *arguments)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, heard)

        try:
            # SSE-SAM, the longest, first: no worker is left with it at the end.
            share = partial(_share, recipes, folders)
            _carry_out(list(METHODS), begin, workers, should_stop, share)
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()
            raise

    chosen = select_runs(folders.values())
    if problems := chosen.problems:
        raise SaddlescopeError(f"{len(problems)} runs cannot be read back: {problems[0]}")
    report = write_report(chosen, output / "report.html")
    typer.echo(summary_text(chosen))
    say(f"report: {report.path}")


def _carry_out(
    methods: list[str],
    begin: Callable[[str], Future[str]],
    at_a_time: int,
    should_stop: Callable[[], bool],
    share: Callable[[], float],
) -> None:
    """Begin the methods, the last one first, and say what each comes back with.

    No more are handed over than there are processes: those under way are the ones named.

    Raises:
        Interrupted: a signal arrived here.
        SaddlescopeError: such a process is gone, or what it raised.
    """
    left, running = list(methods), dict[Future[str], str]()
    try:
        with Stage("demo") as stage:
            while left or running:
                while left and len(running) < at_a_time:
                    method = left.pop()
                    running[begin(method)] = method
                done, _ = wait(running, timeout=_LOOK_SECONDS, return_when=FIRST_COMPLETED)
                if should_stop():
                    raise Interrupted(_STOPPED)
                for future in done:
                    say(f"{METHODS[running.pop(future)].label}: {future.result()}")
                stage.update(share(), lambda: ", ".join(METHODS[m].label for m in running.values()))
    except BrokenProcessPool:
        if should_stop():  # the signal has come to the processes too
            raise Interrupted(_STOPPED) from None
        raise SaddlescopeError(
            "the process of a method was killed from outside, or memory ran out; run the command "
            "again to go on"
        ) from None


def _share(recipes: "Mapping[str, Recipe]", paths: Mapping[str, Path]) -> float:
    """How far all methods are, in [0, 1]: training takes about two thirds of the time."""
    share = 0.0
    for method, recipe in recipes.items():
        run = RunFolder(paths[method])
        trained = count_lines(run.metrics_file) / recipe.training.epochs
        measured = max(0, count_lines(run.spectrum_file("last", "train")) - 1) / ROWS
        share += (2.0 * trained + measured) / 3.0
    return min(1.0, share / len(recipes))


def one_method(recipe: "Recipe", path: Path, device: str, parent: int) -> str:
    """Train and measure one method in a process of its own; return what to say of it.

    Told to end, the process ends with what it has saved. It does not go back to the pool for more:
    another one may have been ended there while it held the lock of the queue, which none gets then.
    """
    with stop_on_signal() as should_stop:
        try:
            return _train_and_measure(recipe, path, device, should_stop)
        finally:
            if should_stop():
                os._exit(ExitCode.INTERRUPTED)
            end_with_parent(parent)  # if it has gone, nobody waits for the answer


def _train_and_measure(
    recipe: "Recipe", path: Path, device: str, should_stop: Callable[[], bool]
) -> str:
    import torch

    from saddlescope.curvature import StopRule
    from saddlescope.measurement import Settings, SpectrumJob, run_target
    from saddlescope.training import RunOptions, load_section, train

    torch.set_num_threads(1)  # 8x8 images: a second thread costs more than it brings
    folder, began = RunFolder(path), time.perf_counter()
    data = load_section(recipe.data)
    train(recipe, data, folder, RunOptions(device=device, resume=True, should_stop=should_stop))
    trained = time.perf_counter()
    target = run_target(folder, device=device)
    job = SpectrumJob.plan(
        target,
        groups=GROUPS,
        # Certified to 5 %: the bars of the report are then narrow enough to compare.
        settings=Settings(StopRule(rtol=0.05, certify=True)),
        path=folder.spectrum_file("last", "train"),
    )
    rows = job.run(should_stop=should_stop)
    products = sum(row["matvecs"] for row in rows)
    return (
        f"trained in {span(trained - began)}, {len(rows)} spectra with {products} products in "
        f"{span(time.perf_counter() - trained)}"
    )
