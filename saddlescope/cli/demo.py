"""`saddlescope demo`: five optimisers on digits, every class measured, one report."""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Annotated

import typer

from saddlescope.cli import options
from saddlescope.cli.console import choose_device, one_line_errors, say, span, stop_on_signal
from saddlescope.errors import ExitCode, Interrupted, SaddlescopeError
from saddlescope.runs import METHODS, end_with_parent

GROUPS = ("all", "head", "tail")

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
    from saddlescope.reporting import load_runs, summary_text, write_report
    from saddlescope.runs import RunFolder
    from saddlescope.training import packaged_recipe

    where = choose_device(device)
    workers = min(len(METHODS), jobs or os.cpu_count() or 1)
    folders = []
    with (
        stop_on_signal() as should_stop,
        ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=end_with_parent,
            initargs=(os.getpid(),),
        ) as pool,
    ):
        waiting: dict[Future[str], str] = {}
        # Longest first, so that no worker is left with the longest at the end.
        for method in reversed(METHODS):
            recipe = packaged_recipe(
                "digits-lt", overrides=[*(overrides or ()), f"method.name={method}"]
            )
            folders.append(RunFolder(output / recipe.run_name).path)
            work = pool.submit(one_method, recipe, folders[-1], str(where), os.getpid())
            waiting[work] = method
        try:
            _wait_for(waiting, should_stop)
        except BaseException:
            _stop(pool)
            raise

    runs, problems = load_runs(folders)
    if problems:
        raise SaddlescopeError(f"{len(problems)} runs cannot be read back: {problems[0]}")
    report = write_report(folders, output / "report.html")
    typer.echo(summary_text(runs))
    say(f"report: {report.path}")


def _wait_for(waiting: dict[Future[str], str], should_stop: Callable[[], bool]) -> None:
    """Say what each method comes back with.

    Raises:
        Interrupted: a signal arrived here, or in the process of a method.
        SaddlescopeError: such a process is gone, or what it raised.
    """
    left = set(waiting)
    while left:
        done, left = wait(left, timeout=_LOOK_SECONDS, return_when=FIRST_COMPLETED)
        if should_stop():
            raise Interrupted("stopped; run the command again to go on")
        for future in done:
            try:
                say(f"{METHODS[waiting[future]]}: {future.result()}")
            except BrokenProcessPool:
                raise SaddlescopeError(
                    "the process of a method was killed from outside, or memory ran out; run the "
                    "command again to go on"
                ) from None


def _stop(pool: ProcessPoolExecutor) -> None:
    """Begin nothing more, and let what is under way save its state."""
    pool.shutdown(wait=False, cancel_futures=True)
    for process in multiprocessing.active_children():
        process.terminate()
    pool.shutdown()


def one_method(recipe: "object", path: Path, device: str, parent: int) -> str:
    """Train and measure one method in a process of its own; return what to say of it."""
    try:
        return _train_and_measure(recipe, path, device)
    finally:
        if os.getppid() != parent:  # nobody waits for the answer, nor ends this process
            os._exit(ExitCode.INTERRUPTED)


def _train_and_measure(recipe: "object", path: Path, device: str) -> str:
    import time

    import torch

    from saddlescope.measurement import Settings, SpectrumJob, run_target
    from saddlescope.runs import RunFolder
    from saddlescope.training import Recipe, train
    from saddlescope.training.restore import load_section

    assert isinstance(recipe, Recipe)
    torch.set_num_threads(1)  # 8x8 images: a second thread costs more than it brings
    folder, began = RunFolder(path), time.perf_counter()
    with stop_on_signal() as should_stop:
        data = load_section(recipe.data)
        train(recipe, data, folder, device=device, resume=True, should_stop=should_stop)
        trained = time.perf_counter()
        target = run_target(folder, device=device)
        job = SpectrumJob.plan(
            target,
            groups=GROUPS,
            # Certified to 5 %: the bars of the report are then narrow enough to compare.
            settings=Settings(rtol=0.05, certify=True),
            path=folder.spectrum_file("last", "train"),
        )
        rows = job.run(should_stop=should_stop)
    products = sum(row["matvecs"] for row in rows)
    return (
        f"trained in {span(trained - began)}, {len(rows)} spectra with {products} products in "
        f"{span(time.perf_counter() - trained)}"
    )
