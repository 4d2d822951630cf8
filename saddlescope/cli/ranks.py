"""A command as one of several processes that a launcher (torchrun) started: one of them speaks."""

import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import typer

from saddlescope.errors import UsageError
from saddlescope.parallel import end, job_board, join, launch, leave, see_the_others_off

if TYPE_CHECKING:
    import torch

    from saddlescope.parallel import Ranks

_Given = ParamSpec("_Given")
_Answer = TypeVar("_Answer")


def sharing(shard: str, device: "torch.device") -> "Ranks | None":
    """Join the ranks that share the samples of a row; None where they share the rows.

    Raises:
        UsageError: samples are to be shared and there is nobody to share them with.
    """
    if shard == "classes":
        return None
    if job_board() is None:
        raise UsageError(
            "--shard samples needs several processes: torchrun --nproc-per-node 2 -m saddlescope "
            "spectrum …"
        )
    return join(device)


def on_all_ranks(command: Callable[_Given, _Answer]) -> Callable[_Given, _Answer]:
    """Let a command run on every rank and end on every rank with one exit code and one message."""

    @functools.wraps(command)
    def wrapped(*args: _Given.args, **kwargs: _Given.kwargs) -> _Answer:
        if launch() is None:
            return command(*args, **kwargs)
        try:
            job_board()
            result = command(*args, **kwargs)
            leave()
        except typer.Exit:  # an answer, not an accident: all ranks came to it
            leave()
            raise
        except BaseException as error:
            message, code = end(error)
            if message:
                print(f"saddlescope: {message}", file=sys.stderr, flush=True)  # noqa: T201
            see_the_others_off()
            sys.exit(code)
        return result

    return wrapped
