"""The instrument: from a loss to λ_max, λ_min and λ_ratio with error bounds, per class.

Imports no other room but the leaf `runs` (for atomic writes): it takes any `torch.nn.Module`, any
criterion, any data.
"""

from saddlescope.curvature.algebra import LinearCombination, difference
from saddlescope.curvature.batches import BatchLoss
from saddlescope.curvature.distributed import Ranks, SharedBatches
from saddlescope.curvature.gauss_newton import GaussNewtonOperator
from saddlescope.curvature.krylov.bounds import Estimate
from saddlescope.curvature.krylov.density import SpectralDensity, spectral_density, trace
from saddlescope.curvature.krylov.eigenpairs import Eigenpairs, top_eigenpairs
from saddlescope.curvature.krylov.energy import SpectralEnergy, spectral_energy
from saddlescope.curvature.krylov.extreme import Ends, extreme_eigenvalues
from saddlescope.curvature.krylov.saved_vectors import save_eigenvectors
from saddlescope.curvature.krylov.search import Search
from saddlescope.curvature.krylov.temple import TempleBound, TempleBounds, temple_bounds
from saddlescope.curvature.matrix_spec import MatrixSpec
from saddlescope.curvature.monitor import CurvatureMonitor
from saddlescope.curvature.named_operators import NamedOperator, build_operator
from saddlescope.curvature.objective import Objective
from saddlescope.curvature.operators import HessianOperator
from saddlescope.curvature.planning import Footprint, MemoryPlan, measure_footprint
from saddlescope.curvature.products.strategy import Programs
from saddlescope.curvature.resampling import bootstrap_spectra
from saddlescope.curvature.samples import Samples, SharedSamples, TensorSamples
from saddlescope.curvature.second_difference import measured_curvature
from saddlescope.curvature.slices import alignment, alignments, loss_plane, loss_slice
from saddlescope.curvature.spectra import (
    SpectrumRow,
    class_spectra,
    iter_spectra,
    measure_operator,
    measure_subset,
    plan_programs,
    subset_operator,
)
from saddlescope.curvature.splitting import CurvatureSplit, split_curvature
from saddlescope.curvature.subsets import count_samples, select_subsets
from saddlescope.curvature.symmetric import MatrixOperator, SymmetricOperator
from saddlescope.curvature.weighted import WeightedOperator, filter_norms
from saddlescope.curvature.weingarten import WeingartenOperator
from saddlescope.stopping import StopRule

__all__ = [
    "BatchLoss",
    "CurvatureMonitor",
    "CurvatureSplit",
    "Eigenpairs",
    "Ends",
    "Estimate",
    "Footprint",
    "GaussNewtonOperator",
    "HessianOperator",
    "LinearCombination",
    "MatrixOperator",
    "MatrixSpec",
    "MemoryPlan",
    "NamedOperator",
    "Objective",
    "Programs",
    "Ranks",
    "Samples",
    "Search",
    "SharedBatches",
    "SharedSamples",
    "SpectralDensity",
    "SpectralEnergy",
    "SpectrumRow",
    "StopRule",
    "SymmetricOperator",
    "TempleBound",
    "TempleBounds",
    "TensorSamples",
    "WeightedOperator",
    "WeingartenOperator",
    "alignment",
    "alignments",
    "bootstrap_spectra",
    "build_operator",
    "class_spectra",
    "count_samples",
    "difference",
    "extreme_eigenvalues",
    "filter_norms",
    "iter_spectra",
    "loss_plane",
    "loss_slice",
    "measure_footprint",
    "measure_operator",
    "measure_subset",
    "measured_curvature",
    "plan_programs",
    "save_eigenvectors",
    "select_subsets",
    "spectral_density",
    "spectral_energy",
    "split_curvature",
    "subset_operator",
    "temple_bounds",
    "top_eigenpairs",
    "trace",
]
