"""The things every command shares: errors as one line, progress, signals, the device."""

import contextlib
import functools
import logging
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import typer

from saddlescope.errors import ExitCode, SaddlescopeError, UsageError, described
from saddlescope.parallel import launch, leads
from saddlescope.stages import progress

if TYPE_CHECKING:
    import torch


def say(message: str) -> None:
    """Text on stderr; of several ranks, rank 0's.

    What would act on a terminal (an escape sequence in a file's name) is shown as its escape.
    """
    if leads():
        with contextlib.suppress(BrokenPipeError):
            typer.echo("\n".join(map(_harmless, message.split("\n"))), err=True)


def print_path(path: Path) -> None:
    """Return a path on stdout, as it is; on a terminal without what would act there."""
    # With colour: typer would otherwise take what looks like one out of the name.
    shown = _harmless(str(path)) if sys.stdout.isatty() else str(path)
    typer.echo(shown, color=True)


def _harmless(line: str) -> str:
    """The line with what cannot be printed as its escape."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in line
    )


_Given = ParamSpec("_Given")
_Answer = TypeVar("_Answer")

_LONGEST_LINE = 2000
"""Characters of an error; what it quotes may be of any length."""


class _Said(logging.Handler):
    """Writes log records as the command writes everything else it says."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def show_log() -> None:
    """Show what the instrument logs (which kind of product it chose, and why) on stderr."""
    logger = logging.getLogger("saddlescope")
    if not any(isinstance(handler, _Said) for handler in logger.handlers):
        logger.addHandler(_Said())
    logger.setLevel(logging.INFO)


def one_line_errors(command: Callable[_Given, _Answer]) -> Callable[_Given, _Answer]:
    """Turn what a command raises on purpose into one line on stderr and an exit code.

    While it runs, stderr says how far it is: a bar on a terminal, elsewhere a line a minute.
    """

    @functools.wraps(command)
    def wrapped(*args: _Given.args, **kwargs: _Given.kwargs) -> _Answer:
        try:
            with progress(log=say):
                return command(*args, **kwargs)
        except SaddlescopeError as error:
            line = described(error)
            say(
                f"saddlescope: {line if len(line) <= _LONGEST_LINE else line[:_LONGEST_LINE] + '…'}"
            )
            raise typer.Exit(error.exit_code) from None
        except MemoryError:
            say("saddlescope: memory ran out")
            raise typer.Exit(ExitCode.FAILED) from None
        except KeyboardInterrupt:
            say("saddlescope: interrupted")
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                sys.stderr.close()  # the reader has gone: nothing is left to say, or to whom
                raise typer.Exit(ExitCode.FAILED) from None
            say(f"saddlescope: {described(error)}")
            raise typer.Exit(ExitCode.FAILED) from None

    return wrapped


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Yield a question that turns true after SIGINT or SIGTERM; a second SIGINT ends at once."""
    caught: list[int] = []

    def note(number: int, _frame: object) -> None:
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def choose_device(name: str) -> "torch.device":
    """Resolve auto, cpu, cuda or cuda:N and say what was chosen.

    Of several ranks on a machine each takes the CUDA device of its own number.

    Raises:
        UsageError: not such a name, or CUDA asked for and not there; never a silent fallback.
    """
    import torch

    if name == "auto":
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    else:
        try:
            device = torch.device(name)
        except RuntimeError:
            raise UsageError(f"--device {name}: expected auto, cpu, cuda or cuda:N") from None
        if device.type not in ("cpu", "cuda"):
            raise UsageError(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        if device.index is None and (found := launch()) is not None:
            device = torch.device("cuda", found.local_rank)
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise UsageError(
                f"--device {device if name == 'cuda' else name}: this machine has {count} CUDA "
                f"devices that torch {torch.__version__} can use; choose cpu or auto"
            )
        say(f"device: {device} ({torch.cuda.get_device_name(device)})")
    else:
        say("device: cpu")
    return device


def choose_threads(threads: int | None, pixels: int) -> None:
    """Set torch's threads: as asked, else one where a thread's start costs more than it brings.

    At 8x8 images two threads are no faster, and three times slower beside any other load.
    """
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    elif pixels <= 16 * 16:
        torch.set_num_threads(1)


_MOST_NUMBERS = 100_000
"""Classes or seeds that a list may name."""


def number_list(
    text: str, option: str = "--classes", expected: str = "all, none, or numbers"
) -> list[int]:
    """Parse "0,80" or "0-9,80" into numbers; `option` and `expected` are for the message.

    Raises:
        UsageError: anything else.
    """
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,18})(?:-([0-9]{1,18}))?\s*", part)
        if match is None:
            raise UsageError(f"{option} {text[:80]}: expected {expected} such as 0,80 or 0-9")
        span_of = range(int(match[1]), int(match[2] or match[1]) + 1)
        if not span_of:
            raise UsageError(
                f"{option} {text[:80]}: {part.strip()} goes down; write the lower first"
            )
        if len(numbers) + len(span_of) > _MOST_NUMBERS:
            raise UsageError(f"{option} {text[:80]}: more than {_MOST_NUMBERS:,} numbers")
        numbers += span_of
    return numbers
