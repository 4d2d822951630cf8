"""SGD, SAM, ImbSAM, SAM (ext.) and SSE-SAM: one rule, different radii.

The update is Σ_g ∇L_g(w + ρ_g·∇L_g(w)/‖∇L_g(w)‖) over groups g of samples.
"""

from saddlescope.runs import Radii, RadiusOptions, first_epoch, method_radii
from saddlescope.sharpness.ascent import Ascent
from saddlescope.sharpness.groups import (
    GROUP_REDUCTIONS,
    class_losses,
    focal_losses,
    group_factors,
    group_losses,
)
from saddlescope.sharpness.optimizer import SharpnessAware
from saddlescope.sharpness.options import StepOptions

__all__ = [
    "GROUP_REDUCTIONS", "Ascent", "Radii", "RadiusOptions", "SharpnessAware", "StepOptions",
    "class_losses", "first_epoch", "focal_losses", "group_factors", "group_losses", "method_radii",
]  # fmt: skip
