"""The paper's theory, checked: every statement as an object, and where real networks stand in it.

Theorem 1, Propositions 3, 4 and 5, Theorem 6 and the Weingarten map, as printed and as corrected,
on quadratic losses and smooth saddles in float64. Nothing here needs torch.
"""

from saddlescope.theory.catalogue import STATEMENTS
from saddlescope.theory.curvature_of_graphs import principal_curvatures, weingarten
from saddlescope.theory.figure2 import SaddlePanel, figure2
from saddlescope.theory.measured import bound_terms
from saddlescope.theory.phase import (
    DISPLACEMENT_REGIONS,
    DISTANCE_REGIONS,
    displacement_region,
    distance_borders,
    distance_region,
    theorem1_border,
)
from saddlescope.theory.placing import place
from saddlescope.theory.search import find_counterexample, violates
from saddlescope.theory.statements import Judgement, Statement, Tally, check
from saddlescope.theory.surfaces import (
    Surface,
    SurfaceShare,
    double_well,
    escape_steps,
    matrix_factorisation,
    monkey_saddle,
    two_layer_linear,
)
from saddlescope.theory.theorem1 import horizon_table, largest_horizon, threshold
from saddlescope.theory.theorem6 import Bound, Terms, check_rho, generalisation_bound
from saddlescope.theory.trajectories import Part, Share, walk

__all__ = [
    "DISPLACEMENT_REGIONS",
    "DISTANCE_REGIONS",
    "STATEMENTS",
    "Bound",
    "Judgement",
    "Part",
    "SaddlePanel",
    "Share",
    "Statement",
    "Surface",
    "SurfaceShare",
    "Tally",
    "Terms",
    "bound_terms",
    "check",
    "check_rho",
    "displacement_region",
    "distance_borders",
    "distance_region",
    "double_well",
    "escape_steps",
    "figure2",
    "find_counterexample",
    "generalisation_bound",
    "horizon_table",
    "largest_horizon",
    "matrix_factorisation",
    "monkey_saddle",
    "place",
    "principal_curvatures",
    "theorem1_border",
    "threshold",
    "two_layer_linear",
    "violates",
    "walk",
    "weingarten",
]
