"""From a checkpoint to a spectrum table on disk, restartable row by row, and checks of it.

Joins what the other rooms know: a network and its data (from a run folder, or anybody's), the
instrument, and the table's file.
"""

from saddlescope.measurement.agreement import CheckRow, contradictions
from saddlescope.measurement.checking import check_target, smallest_class
from saddlescope.measurement.directions import Direction, UpdateRule, update_directions
from saddlescope.measurement.escape import ESCAPE_COLUMNS, ESCAPE_METHODS, measure_escape
from saddlescope.measurement.foreign import foreign_target
from saddlescope.measurement.gradients import GRADIENT_COLUMNS, group_gradients, logged_gradients
from saddlescope.measurement.job import SpectrumJob
from saddlescope.measurement.manufactured import STARTS, manufacture
from saddlescope.measurement.minibatch import MINIBATCH_COLUMNS, negative_curvature_moments
from saddlescope.measurement.plan import PlannedRow, plan_rows
from saddlescope.measurement.settings import Settings, ViewSettings
from saddlescope.measurement.sharding import run_sharded
from saddlescope.measurement.sharpest import SHARPEST_COLUMNS, inner_maximum, largest_curvature
from saddlescope.measurement.target import Target, run_target
from saddlescope.measurement.views import VIEWS

__all__ = [
    "ESCAPE_COLUMNS",
    "ESCAPE_METHODS",
    "GRADIENT_COLUMNS",
    "MINIBATCH_COLUMNS",
    "SHARPEST_COLUMNS",
    "STARTS",
    "VIEWS",
    "CheckRow",
    "Direction",
    "PlannedRow",
    "Settings",
    "SpectrumJob",
    "Target",
    "UpdateRule",
    "ViewSettings",
    "check_target",
    "contradictions",
    "foreign_target",
    "group_gradients",
    "inner_maximum",
    "largest_curvature",
    "logged_gradients",
    "manufacture",
    "measure_escape",
    "negative_curvature_moments",
    "plan_rows",
    "run_sharded",
    "run_target",
    "smallest_class",
    "update_directions",
]
