"""Standard streams as they may be: closed, full, of an encoding without λ."""

import codecs
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from saddlescope.errors import ExitCode

_HANDLER = "saddlescope"


def prepare_streams() -> None:
    """Make stdout take any text; end with one line where there is no stdout.

    What could not be read as text (a name that is not UTF-8) is written as the bytes that it was,
    what the encoding lacks as its escape.
    """
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for good
    if sys.stdout is None:
        sys.stderr.write(
            "saddlescope: standard output is closed; send it to /dev/null if nobody reads it\n"
        )
        sys.exit(ExitCode.FAILED)
    codecs.register_error(_HANDLER, _written)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors=_HANDLER)


def _written(error: UnicodeError) -> tuple[bytes, int]:
    assert isinstance(error, UnicodeEncodeError)
    piece = error.object[error.start : error.end]
    try:
        return piece.encode("ascii", "surrogateescape"), error.end
    except UnicodeEncodeError:
        return piece.encode("ascii", "backslashreplace"), error.end


def flushing(command: Callable[[], object]) -> NoReturn:
    """Run a command that ends by `SystemExit`, and have all it printed written before.

    A disk that is full shows itself only then; left to the interpreter it would be a traceback.
    """
    code: object = ExitCode.OK
    try:
        try:
            command()
        except SystemExit as end:
            code = end.code
        sys.stdout.flush()
    except OSError as error:
        if error.filename is not None:  # a file's, not the stream's
            raise
        if not code and not isinstance(error, BrokenPipeError):
            sys.stderr.write(f"saddlescope: standard output: {error.strerror}\n")
        # The interpreter will try once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = code or ExitCode.FAILED
    sys.exit(code)  # type: ignore[arg-type]
