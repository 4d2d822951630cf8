"""Several runs on one device at once: what one leaves idle another takes.

A captured step of a small network fills a fraction of a large GPU. Here runs take turns on the
host, a step each, and every run has a stream of its own, so that the device works at all of them.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from saddlescope.errors import SaddlescopeError, UsageError
from saddlescope.training.arithmetic import arithmetic
from saddlescope.training.recipe import Recipe


def train_together(
    runs: Sequence[tuple[Recipe, Iterator[None]]], *, device: torch.device | str
) -> None:
    """Take the steps of several runs in turn; each ends with the weights it would have alone.

    Args:
        runs: recipe and `training(recipe, …, RunOptions(device=device))` of each.
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
