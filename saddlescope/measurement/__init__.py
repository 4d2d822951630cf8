"""From a checkpoint to a spectrum table on disk, restartable row by row.

Joins what the other rooms know: a network and its data (from a run folder, or anybody's), the
instrument, and the table's file.
"""

from saddlescope.measurement.foreign import foreign_target
from saddlescope.measurement.job import Settings, SpectrumJob
from saddlescope.measurement.plan import PlannedRow, plan_rows
from saddlescope.measurement.target import Target, run_target

__all__ = [
    "PlannedRow",
    "Settings",
    "SpectrumJob",
    "Target",
    "foreign_target",
    "plan_rows",
    "run_target",
]
