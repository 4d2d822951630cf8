"""Behind `python -m benchmarks`: cases, the other tools, and how they are timed and checked.

Other tools are imported when they are called; none is needed to import this.
"""

from benchmarks.compare.cases import ALL_CASES, Cases
from benchmarks.compare.plan import PARTS, Plan, carry_out
from benchmarks.compare.problems import Problem
from benchmarks.compare.record import Record, read_record
from benchmarks.compare.tools import TOOLS, Tool, installed
from benchmarks.compare.truth import TOLERANCE, Truth, find_truth

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
