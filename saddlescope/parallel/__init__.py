"""Several processes as one job: what their launcher says, their board, how they join and end.

`Ranks` needs torch, and is loaded when it is first used: commands parse without.
"""

from typing import TYPE_CHECKING, Any

from saddlescope.parallel.board import Board, RankDied, RankFailed
from saddlescope.parallel.launcher import Launch, launch, leads, processes_here
from saddlescope.parallel.membership import end, job_board, join, leave, see_the_others_off

if TYPE_CHECKING:
    from saddlescope.parallel.ranks import ALONE, Ranks, ranks_of

__all__ = [
    "ALONE", "Board", "Launch", "RankDied", "RankFailed", "Ranks", "end", "job_board", "join",
    "launch", "leads", "leave", "processes_here", "ranks_of", "see_the_others_off",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in ("ALONE", "Ranks", "ranks_of"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from saddlescope.parallel import ranks

    return getattr(ranks, name)
