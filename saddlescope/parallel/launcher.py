"""Read what a launcher (torchrun, or another with its variables) says of this process."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """This process among those of its job.

    Attributes:
        rank: of all, from 0.
        size: number of processes.
        local_rank: among those on this machine, from 0.
    """

    rank: int
    size: int
    local_rank: int


def launch() -> Launch | None:
    """Read the launcher's variables; None without one."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    if not all(name in os.environ for name in names):
        return None
    return Launch(*(int(os.environ[name]) for name in names[:3]))


def leads() -> bool:
    """Tell whether this process speaks for the job: rank 0, or the only one."""
    found = launch()
    return found is None or found.rank == 0


def processes_here() -> int:
    """Count this job's processes on this machine, which share its memory; 1 without a launcher."""
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
