"""Errors a person can act on, and the exit code each one ends the command with.

Every message is one line that names what was wrong, where, and what to do. The command line
prints it and exits; the library raises it.
"""

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
