"""A command as one of several processes that a launcher (torchrun) started: one of them speaks.

Without a launcher's variables in the environment nothing here does anything. With them the ranks
share a board (`saddlescope.measurement.board`). A rank that fails says why there; the first to do
so also says it on stderr, and all others end with its exit code, silently.
"""

import contextlib
import functools
import os
import signal
import sys
import threading
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

_LAST_SECONDS = 2.0
"""What a rank that ends allows the others: rank 0 to report what fails on every rank, the one that
let a collective down to be found, and all to read why the job ends."""


_done = threading.Event()
_watchers: list[threading.Thread] = []


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
    if board() is None:
        raise UsageError(
            "--shard samples needs several processes: torchrun --nproc-per-node 2 -m saddlescope "
            "spectrum …"
        )
    return join(device)


def join(device: "torch.device") -> "Ranks":
    """The process group of this job's ranks; one process alone without a launcher."""
    from saddlescope.curvature import Ranks

    posted = board()
    if posted is None:
        return Ranks()
    import torch
    from torch import distributed

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
    _watchers.append(threading.Thread(target=_watch, args=(posted,), daemon=True))
    _watchers[0].start()
    return Ranks(distributed.group.WORLD)


def _watch(shared: "Board") -> None:
    """End this process if another rank has ended and the main thread does not notice.

    It may be waiting in a collective for that very rank, and not every backend would wake it.
    """
    while not _done.wait(_LAST_SECONDS / 4):
        try:
            shared.look(now=True)
        except SaddlescopeError as ended:
            if not _done.wait(_LAST_SECONDS / 2):  # should the main thread see it too, it says more
                _say_and_exit(ended, shared.rank)
        except Exception:  # the board is gone: so is the rank that kept it
            return


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
    _done.set()
    for watcher in _watchers:  # a thread inside torch must not outlive the interpreter
        watcher.join()
    if distributed.is_initialized():
        distributed.destroy_process_group()
    shared.leave()
    if shared.rank == 0:
        shared.wait_for_others(_LAST_SECONDS)


def _end(error: BaseException) -> NoReturn:
    """End at once, with one message from all ranks together.

    Not by an exception: a communicator that still waits for another rank could keep this process
    alive. Everything finished is on disk.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # a launcher now stops all ranks: say why first
        signal.signal(number, signal.SIG_IGN)
    found = launch()
    _say_and_exit(error, found.rank if found else 0)


def _say_and_exit(error: BaseException, rank: int) -> NoReturn:
    try:
        message, code = _last_words(error, rank)
    except Exception as lost:  # the board itself is gone, and with it the rank that kept it
        message, code = f"rank {rank}: lost the others ({_first_line(lost)})", ExitCode.FAILED
    if message:
        print(f"saddlescope: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(Exception):
        shared = board()
        if shared is not None:
            shared.leave()
            if rank == 0:  # the board may be this process's own: let the others read why
                shared.wait_for_others(_LAST_SECONDS)
    os._exit(code)


def _last_words(error: BaseException, rank: int) -> tuple[str, int]:
    """What to say, nothing where another rank has said it, and the exit code."""
    from saddlescope.measurement.board import RankDied, RankFailed

    shared = board()
    assert shared is not None
    error = _cause(error, shared)
    if isinstance(error, RankFailed):
        return "", error.exit_code
    message, code = "interrupted", ExitCode.INTERRUPTED
    if not isinstance(error, KeyboardInterrupt):
        message, code = _described(error), getattr(error, "exit_code", ExitCode.FAILED)
    if not isinstance(error, UsageError | RankDied):  # an option is wrong on all ranks alike
        message = f"rank {rank}: {message}"
    if not shared.fail(message, code):
        return "", shared.read("failed")["code"]
    if not _is_expected(error):
        traceback.print_exception(error)
    return message, code


def _cause(error: BaseException, shared: "Board") -> BaseException:
    """Why this rank ends: its own error, or what befell another rank before."""
    from torch import distributed

    from saddlescope.measurement.board import POLL_SECONDS, RankDied, RankFailed

    if isinstance(error, RankFailed | RankDied):
        return error
    # Rank 0 speaks for all where it fails as well. A failed collective, which no error of ours is,
    # has its cause on another rank, of which we may hear a moment later.
    collective = not _is_expected(error) and distributed.is_initialized()
    until = time.monotonic() + (_LAST_SECONDS if shared.rank or collective else 0.0)
    while True:
        try:
            shared.look(now=True)
        except (RankFailed, RankDied) as cause:
            return cause
        if time.monotonic() >= until:
            return error
        time.sleep(POLL_SECONDS)


def _is_expected(error: BaseException) -> bool:
    """Whether one line says all there is to say."""
    return isinstance(error, SaddlescopeError | KeyboardInterrupt | OSError)


def _described(error: BaseException) -> str:
    if isinstance(error, SaddlescopeError):
        return str(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
