"""SGD, SAM, ImbSAM, SAM (ext.) and SSE-SAM: one rule, different radii.

The update is Σ_g ∇L_g(w + ρ_g·∇L_g(w)/‖∇L_g(w)‖) over groups g of samples.
"""

from saddlescope.sharpness.groups import GROUP_REDUCTIONS, group_factors, group_losses
from saddlescope.sharpness.methods import Radii, first_epoch, method_radii
from saddlescope.sharpness.optimizer import SharpnessAware

__all__ = [
    "GROUP_REDUCTIONS",
    "Radii",
    "SharpnessAware",
    "first_epoch",
    "group_factors",
    "group_losses",
    "method_radii",
]
