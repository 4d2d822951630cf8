"""Every statement that can be checked by trials, by its key, each with its variants."""

from collections.abc import Mapping
from typing import Final

from saddlescope.theory import (
    curvature_of_graphs,
    proposition3,
    proposition4,
    proposition5,
    theorem1,
)
from saddlescope.theory.statements import Statement

STATEMENTS: Final[Mapping[str, tuple[Statement, ...]]] = {
    "theorem1": (theorem1.THEOREM_1, theorem1.ONE_DIMENSION),
    "proposition3": (
        proposition3.PRINTED,
        proposition3.MEAN_OF_SUM_XI,
        proposition3.CORRECTED,
        proposition3.CORRECTED_XI,
    ),
    "proposition4": (proposition4.PRINTED,),
    "proposition5-1": (proposition5.FIRST,),
    "proposition5-2": (
        proposition5.SECOND,
        proposition5.SECOND_ALIGNED,
        proposition5.SECOND_ONE_STEP,
        proposition5.SECOND_CORRECTED,
    ),
    "weingarten": (curvature_of_graphs.WEINGARTEN,),
}
"""Key to its variants, the printed one first."""
