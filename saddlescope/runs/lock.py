"""One writer at a time: a lock that ends with its process, however that ends."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from saddlescope.errors import UsageError

try:
    import fcntl
except ImportError:  # not on this system: runs are then not guarded
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Hold a folder that need not exist yet, by a file `.NAME.lock` beside it.

    Raises:
        UsageError: another process holds it.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.parent / f".{folder.name}.lock"
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    held = False
    try:
        if fcntl is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    f"{folder}: another process is writing here; wait for it or stop it"
                ) from None
            except OSError:
                pass  # a file system without locks
        held = True
        yield
    finally:
        if held:
            path.unlink(missing_ok=True)
        os.close(descriptor)
