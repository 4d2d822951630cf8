"""One holder at a time: locks that end with their process, however that ends.

A lock is an empty file `.NAME.saddlescope-lock` beside what it guards. The holder removes it before
letting go. Whoever opened it before that would then hold a file that nobody else can find, so it
looks whether the path still leads to what it has locked, and otherwise begins anew.
"""

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

from saddlescope.errors import UsageError

try:
    import fcntl
except ImportError:  # not on this system: nothing is guarded
    fcntl = None  # type: ignore[assignment]

_LOOK_SECONDS = 0.02
_WITHOUT_LOCKS = (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL)
"""Errors of a file system that has no locks."""


def lock_file(guarded: Path) -> Path:
    """Where the lock of a file or folder is."""
    return guarded.parent / f".{guarded.name}.saddlescope-lock"


@contextlib.contextmanager
def one_writer(guarded: Path, *, patience: float = 2.0) -> Iterator[None]:
    """Hold a file or folder that need not exist yet.

    Args:
        guarded: what to hold.
        patience: seconds to wait for another holder; one that was told to stop needs a moment.

    Raises:
        UsageError: another process holds it.
    """
    guarded = guarded.resolve()
    guarded.parent.mkdir(parents=True, exist_ok=True)
    path, until = lock_file(guarded), time.monotonic() + patience
    while (descriptor := _try_lock(path)) is None:
        if time.monotonic() > until:
            raise UsageError(f"{guarded}: another process is writing here; wait for it or stop it")
        time.sleep(_LOOK_SECONDS)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _try_lock(path: Path) -> int | None:
    """A descriptor that holds the lock; None while another one does."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _leads_to(path, descriptor):
            return descriptor
    except BlockingIOError:
        pass
    except OSError as error:
        if error.errno in _WITHOUT_LOCKS:
            return descriptor
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _leads_to(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
