"""Reads that end: of regular files only, and no more than a bound.

A device such as /dev/zero never ends, and a named pipe waits for a writer that may never come.
"""

import json
import os
import re
import stat
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saddlescope.errors import DataError, SaddlescopeError

_MOST_DOTS = 300
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"|\'[^\']*\'')

LARGEST_TEXT = 1 << 30
"""Bytes of a log or a table; a recipe has its own bound."""


def read_bytes(path: str | Path, *, limit: int = LARGEST_TEXT) -> bytes:
    """Return the content of a regular file.

    Raises:
        DataError: no such file, not a regular one, larger than `limit` bytes, or not readable.
    """
    try:
        # Without blocking: opening a named pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as handle:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode):
                raise DataError(f"{path}: not a regular file")
            if about.st_size > limit:
                raise DataError(f"{path}: {about.st_size:,} bytes, more than {limit:,}; not read")
            return handle.read(about.st_size + 1)
    except OSError as error:
        raise DataError(f"{path}: not readable: {error.strerror or error}") from None
    except DataError:
        raise
    except ValueError as error:  # a NUL in the name
        raise DataError(f"{str(path)!r}: not readable: {error}") from None


def read_text(path: str | Path, *, limit: int = LARGEST_TEXT) -> str:
    """Return the text of a regular file in UTF-8, every newline as a line feed.

    Raises:
        DataError: as `read_bytes`, or it is not UTF-8.
    """
    try:
        text = read_bytes(path, limit=limit).decode("utf-8")
    except UnicodeDecodeError as error:
        where = f"{error.reason} at byte {error.start}"
        raise DataError(f"{path}: not readable as UTF-8: {where}") from None
    return text.replace("\r\n", "\n")


def parse_toml(text: str) -> dict[str, Any]:
    """Return the content of a TOML file.

    Raises:
        ValueError: it is not TOML, or a key has more parts than anybody's.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        # tomllib takes minutes for a key of some ten thousand parts.
        if _QUOTED.sub("", line).partition("=")[0].count(".") > _MOST_DOTS:
            raise ValueError(f"line {number} has more than {_MOST_DOTS} dots before any =")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError(str(error)) from None


def read_json(path: str | Path, *, limit: int = LARGEST_TEXT) -> Any:
    """Return the content of a JSON file.

    Raises:
        DataError: as `read_text`, or it is not JSON.
    """
    text = read_text(path, limit=limit)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON: {error}") from None


@contextmanager
def record_at(path: Path) -> Iterator[None]:
    """Say of what was read and is not what it should be where it was read.

    Raises:
        DataError: instead of what Python raises on a value that is missing or of another kind.
    """
    try:
        yield
    except SaddlescopeError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{path}: not the record of a run: {type(error).__name__}: {reason}"
        ) from None
