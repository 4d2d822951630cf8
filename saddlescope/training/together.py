"""One run, or several on one device at once: what one leaves idle another takes.

A captured step of a small network fills a fraction of a large GPU. Here runs take turns on the
host, a step each, and every run has a stream of its own, so that the device works at all of them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from saddlescope.curvature import ALONE, CurvatureMonitor, Ranks
from saddlescope.errors import SaddlescopeError, UsageError
from saddlescope.longtail import LongTailData
from saddlescope.runs import RunFolder
from saddlescope.training.arithmetic import arithmetic
from saddlescope.training.branching import APART, Branching
from saddlescope.training.recipe import Recipe
from saddlescope.training.trainer import Progress, training


def train(
    recipe: Recipe,
    data: LongTailData,
    folder: RunFolder,
    *,
    device: torch.device | str = "cpu",
    resume: bool = False,
    force: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    report: Callable[[Progress], None] = lambda _: None,
    monitor: CurvatureMonitor | None = None,
    start: Mapping[str, Tensor] | None = None,
    branching: Branching = APART,
    ranks: Ranks = ALONE,
    on_epoch: Callable[[dict[str, Any]], None] = lambda _: None,
) -> RunFolder:
    """Train one network and leave a run folder.

    Args:
        recipe: what to do.
        data: the data set the recipe names, loaded.
        folder: where to write; must not hold a run unless `resume` or `force`.
        device: where to compute.
        resume: go on with what is there; a finished run is left as it is.
        force: delete the run that is there.
        should_stop: asked after every step; True saves the state and raises.
        report: called after every step.
        monitor: measures curvature at the end of the epochs it is due in; its rows go to
            monitor.jsonl, and the weights are the same with and without it. Under ranks its samples
            must be shared by them.
        start: weights of the first stage, where the recipe has a second (`[decoupling]`); of no
            use to a run that is there already.
        branching: another run to go on from, and what to keep for others that go on from here.
        ranks: the processes that share each batch. The losses are those of one process within
            rounding, but for BatchNorm that sees a rank's part alone.
        on_epoch: called with each new row of metrics.jsonl, on rank 0.

    Raises:
        UsageError: the folder holds a run, or another recipe's run, or another process trains it; a
            second stage without a first.
        DataError: the trunk was trained on other data.
        Interrupted: `should_stop` said so; the state is on disk.
        SaddlescopeError: the loss became NaN or Inf; the checkpoint before it, if any, is kept.
    """
    with arithmetic(recipe.training):
        for _ in training(
            recipe,
            data,
            folder,
            device=device,
            resume=resume,
            force=force,
            should_stop=should_stop,
            report=report,
            monitor=monitor,
            start=start,
            branching=branching,
            ranks=ranks,
            on_epoch=on_epoch,
        ):
            pass
    return folder


def train_together(
    runs: Sequence[tuple[Recipe, Iterator[None]]], *, device: torch.device | str
) -> None:
    """Take the steps of several runs in turn; each ends with the weights it would have alone.

    Args:
        runs: recipe and `training(recipe, …, device=device)` of each.
        device: of them all.

    Raises:
        UsageError: they differ in `training.precision` or `training.deterministic`, which hold for
            the whole process.
        SaddlescopeError: what a run has raised first, after the others have ended or been stopped.
    """
    settings = [recipe.training for recipe, _ in runs]
    if len({(one.precision, one.deterministic) for one in settings}) > 1:
        raise UsageError("runs that train together need one training.precision and .deterministic")
    with arithmetic(settings[0]):
        waiting = [(steps, _stream(torch.device(device))) for _, steps in runs]
        failed: SaddlescopeError | None = None
        while waiting:
            going_on = []
            for steps, stream in waiting:
                try:
                    with _on(stream):
                        next(steps)
                    going_on.append((steps, stream))
                except StopIteration:
                    pass
                except SaddlescopeError as error:
                    failed = failed or error
            waiting = going_on
    if failed is not None:
        raise failed


def _stream(device: torch.device) -> torch.cuda.Stream | None:
    if device.type != "cuda":
        return None
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))  # where the data may still be on its way
    return stream


def _on(stream: torch.cuda.Stream | None) -> AbstractContextManager[object]:
    return nullcontext() if stream is None else torch.cuda.stream(stream)
