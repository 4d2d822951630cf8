"""Several processes as one job: what their launcher says, their board, how they join and end."""

from saddlescope.parallel.board import Board, RankDied, RankFailed
from saddlescope.parallel.launch import Launch, launch, leads
from saddlescope.parallel.membership import board, end, join, leave, see_the_others_off

__all__ = [
    "Board",
    "Launch",
    "RankDied",
    "RankFailed",
    "board",
    "end",
    "join",
    "launch",
    "leads",
    "leave",
    "see_the_others_off",
]
