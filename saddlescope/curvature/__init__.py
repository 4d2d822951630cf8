"""The instrument: from a loss to λ_max, λ_min and λ_ratio with error bounds, per class.

Imports no other room but the leaf `runs` (for atomic writes): it takes any `torch.nn.Module`, any
criterion, any data.
"""

from saddlescope.curvature.algebra import LinearCombination, difference
from saddlescope.curvature.bounds import Estimate
from saddlescope.curvature.density import SpectralDensity, spectral_density, trace
from saddlescope.curvature.eigenpairs import Eigenpairs, save_eigenvectors, top_eigenpairs
from saddlescope.curvature.extreme import Ends, extreme_eigenvalues
from saddlescope.curvature.gauss_newton import GaussNewtonOperator
from saddlescope.curvature.monitor import CurvatureMonitor
from saddlescope.curvature.objective import Objective
from saddlescope.curvature.operators import HessianOperator, MatrixOperator, SymmetricOperator
from saddlescope.curvature.planning import Footprint, MemoryPlan, measure_footprint
from saddlescope.curvature.resampling import bootstrap_spectra
from saddlescope.curvature.samples import Samples, TensorSamples
from saddlescope.curvature.second_difference import measured_curvature
from saddlescope.curvature.slices import alignment, alignments, loss_plane, loss_slice
from saddlescope.curvature.spectra import (
    SpectrumRow,
    class_spectra,
    count_samples,
    iter_spectra,
    measure_subset,
    plan_programs,
    select_subsets,
)
from saddlescope.curvature.strategy import Programs
from saddlescope.curvature.weingarten import WeingartenOperator

__all__ = [
    "CurvatureMonitor",
    "Eigenpairs",
    "Ends",
    "Estimate",
    "Footprint",
    "GaussNewtonOperator",
    "HessianOperator",
    "LinearCombination",
    "MatrixOperator",
    "MemoryPlan",
    "Objective",
    "Programs",
    "Samples",
    "SpectralDensity",
    "SpectrumRow",
    "SymmetricOperator",
    "TensorSamples",
    "WeingartenOperator",
    "alignment",
    "alignments",
    "bootstrap_spectra",
    "class_spectra",
    "count_samples",
    "difference",
    "extreme_eigenvalues",
    "iter_spectra",
    "loss_plane",
    "loss_slice",
    "measure_footprint",
    "measure_subset",
    "measured_curvature",
    "plan_programs",
    "save_eigenvectors",
    "select_subsets",
    "spectral_density",
    "top_eigenpairs",
    "trace",
]
