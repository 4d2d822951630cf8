"""This process as a member of a job: how it joins the others, and how it ends with them.

A rank that fails says why on the board. The first to do so also says it on stderr, and all others
end with its exit code, silently.
"""

import contextlib
import functools
import signal
import threading
import time
import traceback
from datetime import timedelta
from typing import TYPE_CHECKING

from saddlescope.errors import ExitCode, SaddlescopeError, UsageError, described, first_line
from saddlescope.parallel.board import POLL_SECONDS, Board, RankDied, RankFailed
from saddlescope.parallel.launcher import launch

if TYPE_CHECKING:
    import torch

    from saddlescope.parallel.ranks import Ranks

_PATIENCE = timedelta(minutes=30)
"""How long a collective waits for a rank that is alive and silent, as torch's own default."""

_LAST_SECONDS = 2.0
"""What a rank that ends allows the others: to report what fails on every rank, to be found as the
one that let a collective down, and to read why the job ends. Rank 0, with whom the board may go,
allows them all three."""

_done = threading.Event()
_watchers: list[threading.Thread] = []


@functools.cache
def job_board() -> Board | None:
    """Meet the other ranks on the board of this job; None without a launcher."""
    found = launch()
    if found is None:
        return None
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://", found.rank, found.size, timeout=_PATIENCE))
    return Board(store, found.rank, found.size)


def join(device: "torch.device") -> "Ranks":
    """Join the process group of this job's ranks; one process alone without a launcher."""
    from saddlescope.parallel.ranks import Ranks

    posted = job_board()
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


def leave() -> None:
    """End in good order: rank 0 last, because the board may be its own."""
    from torch import distributed

    shared = job_board()
    assert shared is not None
    _stop_watching()
    if distributed.is_initialized():
        distributed.destroy_process_group()
    shared.leave()
    if shared.rank == 0:
        shared.wait_for_others(3 * _LAST_SECONDS)


def end(error: BaseException) -> tuple[str, int]:
    """End with the others after an error; everything finished is on disk.

    Returns:
        What this rank has to say, nothing where another one says it, and its exit code.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # a launcher now stops all ranks: say why first
        signal.signal(number, signal.SIG_IGN)
    found = launch()
    rank = found.rank if found else 0
    try:
        message, code = _last_words(error, rank)
    except Exception as lost:  # the board itself is gone, and with it the rank that kept it
        message, code = f"rank {rank}: lost the others ({first_line(lost)})", ExitCode.FAILED
    _stop_watching()
    _abort()
    return message, code


def see_the_others_off() -> None:
    """Say on the board that this process is gone; the board's keeper lets the others read it."""
    with contextlib.suppress(Exception):
        shared = job_board()
        if shared is not None:
            shared.leave()
            if shared.rank == 0:
                shared.wait_for_others(3 * _LAST_SECONDS)


def _watch(shared: Board) -> None:
    """Wake the main thread if another rank has ended.

    It may be waiting in a collective for that very rank. Gloo notices by itself, NCCL does not.
    """
    while not _done.wait(_LAST_SECONDS / 4):
        try:
            shared.look(now=True)
        except SaddlescopeError:
            if not _done.wait(_LAST_SECONDS / 2):  # the main thread may see it too
                _abort()
            return
        except Exception:  # the board is gone: so is the rank that kept it
            return


def _stop_watching() -> None:
    _done.set()
    for watcher in _watchers:  # a thread inside torch must not outlive the interpreter
        watcher.join()


def _abort() -> None:
    """Give up what the group still waits for: it would keep this process alive."""
    from torch import distributed

    if distributed.is_initialized():
        with contextlib.suppress(Exception):
            distributed.distributed_c10d._abort_process_group()


def _last_words(error: BaseException, rank: int) -> tuple[str, int]:
    shared = job_board()
    assert shared is not None
    message = "interrupted" if isinstance(error, KeyboardInterrupt) else described(error)
    if not isinstance(error, RankFailed | RankDied):  # those say what another rank has said
        shared.post(f"why/{rank}", message)
    cause = _cause(error, shared)
    if isinstance(cause, RankFailed):
        return "", cause.exit_code
    code: int = getattr(cause, "exit_code", ExitCode.FAILED)
    if isinstance(cause, KeyboardInterrupt):
        code = ExitCode.INTERRUPTED
    message = message if cause is error else described(cause)
    if not shared.fail(message, code):
        return "", shared.read("failed")["code"]
    # An option is wrong on all ranks alike; a network may fail on the samples of one.
    everybodys = isinstance(cause, UsageError) and _is_everybodys(message, shared)
    if not isinstance(cause, RankDied) and not everybodys:
        message = f"rank {rank}: {message}"
    if not _is_expected(cause):
        traceback.print_exception(cause)
    return message, code


def _cause(error: BaseException, shared: Board) -> BaseException:
    """Why this rank ends: its own error, or what befell another rank before."""
    from torch import distributed

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


def _is_everybodys(message: str, shared: Board) -> bool:
    """Whether every rank says the same."""
    until = time.monotonic() + _LAST_SECONDS
    while True:
        said = [shared.read(f"why/{rank}") for rank in range(shared.size)]
        if None not in said or time.monotonic() >= until:
            return said == [message] * shared.size
        time.sleep(POLL_SECONDS)


def _is_expected(error: BaseException) -> bool:
    """Whether one line says all there is to say."""
    return isinstance(error, SaddlescopeError | KeyboardInterrupt | OSError)
