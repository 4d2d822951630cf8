"""Behind `saddlescope bench`: cases, the other tools, and how they are timed and checked.

Other tools are imported when they are called; none is needed to import this.
"""

from saddlescope.bench.cases import ALL_CASES, Cases
from saddlescope.bench.plan import PARTS, Plan, carry_out
from saddlescope.bench.problems import Problem
from saddlescope.bench.record import Record, read_record
from saddlescope.bench.tools import TOOLS, Tool, installed
from saddlescope.bench.truth import TOLERANCE, Truth, find_truth

__all__ = [
    "ALL_CASES",
    "PARTS",
    "TOLERANCE",
    "TOOLS",
    "Cases",
    "Plan",
    "Problem",
    "Record",
    "Tool",
    "Truth",
    "carry_out",
    "find_truth",
    "installed",
    "read_record",
]
