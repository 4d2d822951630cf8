"""The board that the processes of one job share: what one posts, the others can read.

It is torch.distributed's key-value store as the launcher (torchrun) set it up. Nothing here waits
for a rank that is gone: whoever waits looks whether another has failed or died meanwhile. A
collective cannot do that, so ranks that share the rows of a table have none.
"""

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from saddlescope.errors import ExitCode, Interrupted, SaddlescopeError

if TYPE_CHECKING:
    from torch.distributed import Store

POLL_SECONDS = 0.05
"""Between two looks at the board while waiting."""

_LOOK_SECONDS = 0.5
"""Between two looks for trouble while computing."""


class RankFailed(SaddlescopeError):  # noqa: N818 - it is the other rank's error
    """Another rank has said why the job ends; this one ends with the same exit code, silently.

    Attributes:
        exit_code: of the rank that failed.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = ExitCode(code)


class RankDied(SaddlescopeError):  # noqa: N818 - it happened elsewhere
    """Another rank's process is gone, and it did not say why."""


@dataclass
class Board:
    """One rank's access to the board.

    Attributes:
        store: the key-value store.
        rank: of this process.
        size: number of processes.
    """

    store: "Store"
    rank: int
    size: int
    _peers: dict[int, tuple[str, int]] = field(default_factory=dict)
    _looked: float = 0.0

    def __post_init__(self) -> None:
        self.store.set(f"process/{self.rank}", json.dumps([_machine(), os.getpid()]))

    def post(self, key: str, value: Any) -> None:
        """Post plain data (NaN and infinity included) under a key."""
        self.store.set(key, json.dumps(value))

    def read(self, key: str) -> Any:
        """Return what was posted under a key; None if nothing was."""
        return json.loads(self.store.get(key)) if self.store.check([key]) else None

    def wait_for(self, key: str, *, should_stop: Callable[[], bool]) -> Any:
        """Wait until something is posted under a key.

        Raises:
            Interrupted: `should_stop` said so.
            RankFailed, RankDied: another rank has ended meanwhile.
        """
        while (value := self.read(key)) is None:
            self.pause(should_stop)
        return value

    def pause(self, should_stop: Callable[[], bool]) -> None:
        """Wait a moment; the errors are those of `wait_for`."""
        self.look(now=True)
        if should_stop():
            raise Interrupted("stopped; finished rows are kept, run again to go on")
        time.sleep(POLL_SECONDS)

    def fail(self, message: str, code: int) -> bool:
        """Say why the job ends; False if that has been said before."""
        # The mark tells two threads apart that say the same.
        said = {"rank": self.rank, "message": message, "code": int(code), "mark": uuid4().hex}
        mine = json.dumps(said)
        return bool(self.store.compare_set("failed", "", mine) == mine.encode())

    def look(self, *, now: bool = False) -> None:
        """Look whether another rank has failed or died, unless that was done just now.

        Raises:
            RankFailed, RankDied: it has.
        """
        if not now and time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        failure = self.read("failed")
        if failure is not None and failure["rank"] != self.rank:
            raise RankFailed(failure["message"], failure["code"])
        for rank in range(self.size):
            if rank != self.rank and self._is_gone(rank) and not self.read(f"left/{rank}"):
                raise RankDied(
                    f"rank {rank} died without a word (killed from outside, or out of memory); "
                    "what was finished is kept, run again to go on"
                )

    def leave(self) -> None:
        """Say that this process ends in good order."""
        self.post(f"left/{self.rank}", True)

    def wait_for_others(self, seconds: float) -> None:
        """Wait until all other ranks have ended, in good order or not, but no longer than this."""
        until = time.monotonic() + seconds
        others = set(range(self.size)) - {self.rank}
        while others and time.monotonic() < until:
            others = {r for r in others if not (self.read(f"left/{r}") or self._is_gone(r))}
            time.sleep(POLL_SECONDS if others else 0.0)

    def _is_gone(self, rank: int) -> bool:
        """Whether a rank's process is no more; of other machines nothing is known here."""
        if rank not in self._peers:
            peer = self.read(f"process/{rank}")
            if peer is None:
                return False
            self._peers[rank] = (peer[0], peer[1])
        machine, process = self._peers[rank]
        return machine == _machine() and not _is_alive(process)


def _machine() -> str:
    """Where process numbers mean the same: the host, and on Linux its process namespace."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _is_alive(process: int) -> bool:
    """Whether a process runs; one that has ended but was not waited for does not."""
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except OSError:
        return True  # not ours to signal, or no /proc here: it exists
    return state not in "ZX"
