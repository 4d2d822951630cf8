"""The instrument: from a loss to λ_max, λ_min and λ_ratio with error bounds, per class.

Imports no other room: it takes any `torch.nn.Module`, any criterion, any data.
"""

from saddlescope.curvature.bounds import Estimate
from saddlescope.curvature.extreme import Ends, extreme_eigenvalues
from saddlescope.curvature.objective import Objective
from saddlescope.curvature.operators import HessianOperator, MatrixOperator, SymmetricOperator
from saddlescope.curvature.samples import Samples, TensorSamples
from saddlescope.curvature.spectra import (
    SpectrumRow,
    class_spectra,
    iter_spectra,
    measure_subset,
    plan_programs,
    select_subsets,
)
from saddlescope.curvature.strategy import Programs

__all__ = [
    "Ends",
    "Estimate",
    "HessianOperator",
    "MatrixOperator",
    "Objective",
    "Programs",
    "Samples",
    "SpectrumRow",
    "SymmetricOperator",
    "TensorSamples",
    "class_spectra",
    "extreme_eigenvalues",
    "iter_spectra",
    "measure_subset",
    "plan_programs",
    "select_subsets",
]
