"""What the theory speaks of, measured at checkpoints of real networks.

Escape along v_min from a checkpoint or a manufactured saddle (Theorem 1), gradients of head and
tail (Propositions 3 and 4), mini-batch gradients along v_min (Remark 2), the worst point of a ball
(Eq. 2, Theorem 6).
"""

from saddlescope.experiments.escape import ESCAPE_COLUMNS, ESCAPE_METHODS, Walk, measure_escape
from saddlescope.experiments.gradients import GRADIENT_COLUMNS, group_gradients, logged_gradients
from saddlescope.experiments.manufactured import STARTS, manufacture
from saddlescope.experiments.minibatch import MINIBATCH_COLUMNS, negative_curvature_moments
from saddlescope.experiments.sharpest import SHARPEST_COLUMNS, inner_maximum, largest_curvature

__all__ = [
    "ESCAPE_COLUMNS",
    "ESCAPE_METHODS",
    "GRADIENT_COLUMNS",
    "MINIBATCH_COLUMNS",
    "SHARPEST_COLUMNS",
    "STARTS",
    "Walk",
    "group_gradients",
    "inner_maximum",
    "largest_curvature",
    "logged_gradients",
    "manufacture",
    "measure_escape",
    "negative_curvature_moments",
]
