"""A command as one of several processes that a launcher (torchrun) started: one of them speaks.

Without a launcher's variables in the environment nothing here does anything. With them the ranks
share a board (`saddlescope.measurement.board`). A rank that fails says why there; the first to do
so also says it on stderr, and all others end with its exit code, silently.
"""

import functools
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from saddlescope.errors import ExitCode, SaddlescopeError, UsageError

if TYPE_CHECKING:
    import torch

    from saddlescope.curvature import Ranks
    from saddlescope.measurement.board import Board

_PATIENCE = timedelta(minutes=30)
"""How long a collective waits for a rank that is alive and silent, as torch's own default."""

_FIRST_WORD_SECONDS = 2.0
"""What fails on every rank, rank 0 reports: the others give it this long."""

_CAUSE_SECONDS = 5.0
"""How long a failed collective looks for the rank that let it down."""


@dataclass(frozen=True)
class Launch:
    """What the launcher says of this process.

    Attributes:
        rank: of all, from 0.
        size: number of processes.
        local_rank: among those on this machine, from 0.
    """

    rank: int
    size: int
    local_rank: int


def launch() -> Launch | None:
    """What torchrun, or another launcher with its variables, says; None without one."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    if not all(name in os.environ for name in names):
        return None
    return Launch(*(int(os.environ[name]) for name in names[:3]))


def leads() -> bool:
    """Whether this process speaks for the job: rank 0, or the only one."""
    found = launch()
    return found is None or found.rank == 0


@functools.cache
def board() -> "Board | None":
    """The board of this job; None without a launcher."""
    found = launch()
    if found is None:
        return None
    from torch.distributed.rendezvous import rendezvous

    from saddlescope.measurement.board import Board

    store, _, _ = next(rendezvous("env://", found.rank, found.size, timeout=_PATIENCE))
    return Board(store, found.rank, found.size)


def sharing(shard: str, device: "torch.device") -> "Ranks | None":
    """The ranks that share the samples of a row; None where they share the rows.

    Raises:
        UsageError: samples are to be shared and there is nobody to share them with.
    """
    if shard == "classes":
        return None
    posted = board()
    if posted is None:
        raise UsageError(
            "--shard samples needs several processes: torchrun --nproc-per-node 2 -m saddlescope "
            "spectrum …"
        )
    import torch
    from torch import distributed

    from saddlescope.curvature import Ranks

    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=distributed.PrefixStore("group", posted.store),
        rank=posted.rank,
        world_size=posted.size,
        timeout=_PATIENCE,
    )
    return Ranks(distributed.group.WORLD)


def on_all_ranks(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command run on every rank and end on every rank with one exit code and one message."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if launch() is None:
            return command(*args, **kwargs)
        try:
            board()
            result = command(*args, **kwargs)
            _leave()
        except typer.Exit:  # an answer, not an accident: all ranks came to it
            _leave()
            raise
        except BaseException as error:
            _end(error)
        return result

    return wrapped


def _leave() -> None:
    """End in good order: rank 0 last, because the board may be its own."""
    from torch import distributed

    shared = board()
    assert shared is not None
    if distributed.is_initialized():
        distributed.destroy_process_group()
    shared.leave()
    for rank in range(1, shared.size) if shared.rank == 0 else ():
        shared.wait_for(f"left/{rank}", should_stop=lambda: False)


def _end(error: BaseException) -> NoReturn:
    """End at once, with one message from all ranks together.

    Not by an exception: a communicator that still waits for another rank could keep this process
    alive. Everything finished is on disk.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # a launcher now stops all ranks: say why first
        signal.signal(number, signal.SIG_IGN)
    found = launch()
    rank = found.rank if found else 0
    try:
        message, code = _verdict(error, rank)
    except Exception as lost:  # the board itself is gone, and with it whoever kept it
        message, code = f"lost the other ranks ({_first_line(lost)})", ExitCode.FAILED
    if message:
        where = "" if isinstance(error, UsageError) else f"rank {rank}: "
        print(f"saddlescope: {where}{' '.join(message.split())}", file=sys.stderr)  # noqa: T201
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _verdict(error: BaseException, rank: int) -> tuple[str, int]:
    """What to say (nothing where another rank has said it) and the exit code."""
    from saddlescope.measurement.board import POLL_SECONDS, RankDied, RankFailed

    shared = board()
    assert shared is not None
    expected = isinstance(error, SaddlescopeError | KeyboardInterrupt | OSError)
    # Rank 0 speaks for all where it fails as well. A failed collective, which no error of ours
    # is, has its cause on another rank, of which we may hear a moment later.
    patience = (_FIRST_WORD_SECONDS if rank else 0.0) if expected else _CAUSE_SECONDS
    until = time.monotonic() + patience
    while not isinstance(error, RankFailed | RankDied):
        try:
            shared.look(now=True)
        except (RankFailed, RankDied) as cause:
            error = cause
        if time.monotonic() >= until:
            break
        time.sleep(POLL_SECONDS)
    if isinstance(error, RankFailed):
        return "", error.exit_code
    if not isinstance(error, SaddlescopeError | KeyboardInterrupt | OSError):
        traceback.print_exception(error)
    code = ExitCode.FAILED
    if isinstance(error, SaddlescopeError):
        code = error.exit_code
    elif isinstance(error, KeyboardInterrupt):
        code = ExitCode.INTERRUPTED
    message = "interrupted" if isinstance(error, KeyboardInterrupt) else _described(error)
    if shared.fail(message, code):
        return message, code
    return "", shared.read("failed")["code"]


def _described(error: BaseException) -> str:
    if isinstance(error, SaddlescopeError):
        return str(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
