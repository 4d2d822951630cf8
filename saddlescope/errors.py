"""Errors a person can act on, and the exit code each one ends the command with.

Every message is one line that names what was wrong, where, and what to do. The command line
prints it and exits; the library raises it.
"""

import difflib
from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the `saddlescope` command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_CONVERGED = 3
    DATA = 4
    INTERRUPTED = 130


class SaddlescopeError(Exception):
    """Base of every error raised on purpose."""

    exit_code = ExitCode.FAILED


class UsageError(SaddlescopeError, ValueError):
    """An argument, option or recipe that cannot be meant."""

    exit_code = ExitCode.USAGE


class DataError(SaddlescopeError, ValueError):
    """A data set or checkpoint that is missing, broken or not the one asked for."""

    exit_code = ExitCode.DATA


class OperatorError(SaddlescopeError, RuntimeError):
    """An operator that is not one fixed symmetric matrix, or that returned NaN or Inf."""


class MemoryLimitError(SaddlescopeError, RuntimeError):
    """Memory ran out, and nothing smaller is left to try."""


class Interrupted(SaddlescopeError):  # noqa: N818 - it is a state, not a mistake
    """SIGINT or SIGTERM arrived; everything finished so far is on disk."""

    exit_code = ExitCode.INTERRUPTED


def nearest(name: object, known: Iterable[str], *, cutoff: float = 0.4) -> str | None:
    """Return the known name that another one is closest to; None where none is close."""
    return next(iter(difflib.get_close_matches(str(name), list(known), n=1, cutoff=cutoff)), None)


def unknown(kind: str, name: object, known: Iterable[str]) -> UsageError:
    """Make the error for a name that is not one of the known ones; it says the nearest."""
    near = nearest(name, known, cutoff=0.5)
    hint = "" if near is None else f"did you mean {near!r}? "
    return UsageError(f"unknown {kind} {name!r}: {hint}choose from {', '.join(known)}")


def described(error: BaseException) -> str:
    """Say in one line what happened, whatever was raised."""
    if isinstance(error, SaddlescopeError):
        return " ".join(str(error).split())
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    return f"{type(error).__name__}: {first_line(error)}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
