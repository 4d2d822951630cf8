"""From a checkpoint to a spectrum table on disk, restartable row by row, and checks of it.

Joins what the other rooms know: a network and its data (from a run folder, or anybody's), the
instrument, and the table's file.
"""

from saddlescope.measurement.agreement import CheckRow, contradictions
from saddlescope.measurement.checking import check_target, smallest_class
from saddlescope.measurement.foreign import foreign_target
from saddlescope.measurement.job import Settings, SpectrumJob
from saddlescope.measurement.target import Target, run_target

__all__ = [
    "CheckRow",
    "Settings",
    "SpectrumJob",
    "Target",
    "check_target",
    "contradictions",
    "foreign_target",
    "run_target",
    "smallest_class",
]
