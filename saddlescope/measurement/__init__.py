"""From a checkpoint to a spectrum table on disk, restartable row by row, and checks of it.

Joins what the other rooms know: a network and its data (from a run folder, or anybody's), the
instrument, and the table's file.
"""

from saddlescope.measurement.check import CheckRow, check_target, contradictions, smallest_class
from saddlescope.measurement.directions import Direction, UpdateRule, update_directions
from saddlescope.measurement.foreign import foreign_target, imported
from saddlescope.measurement.job import PlannedRow, SpectrumJob, plan_rows
from saddlescope.measurement.settings import Settings, ViewSettings
from saddlescope.measurement.sharding import run_sharded
from saddlescope.measurement.target import Target, run_target
from saddlescope.measurement.views import VIEWS, View
from saddlescope.measurement.whole_loss import WholeLoss, group_members, stratified

__all__ = [
    "VIEWS",
    "CheckRow",
    "Direction",
    "PlannedRow",
    "Settings",
    "SpectrumJob",
    "Target",
    "UpdateRule",
    "View",
    "ViewSettings",
    "WholeLoss",
    "check_target",
    "contradictions",
    "foreign_target",
    "group_members",
    "imported",
    "plan_rows",
    "run_sharded",
    "run_target",
    "smallest_class",
    "stratified",
    "update_directions",
]
