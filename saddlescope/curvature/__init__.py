"""The instrument: from a loss to λ_max, λ_min and λ_ratio with error bounds, per class.

Imports no other room but the leaf `runs` (for atomic writes): it takes any `torch.nn.Module`, any
criterion, any data.
"""

from saddlescope.curvature.forecast import Footprint, MemoryPlan, measure_footprint
from saddlescope.curvature.krylov import (
    Eigenpairs,
    Ends,
    Estimate,
    Search,
    SpectralDensity,
    SpectralEnergy,
    TempleBound,
    TempleBounds,
    extreme_eigenvalues,
    random_start,
    save_eigenvectors,
    spectral_density,
    spectral_energy,
    temple_bounds,
    top_eigenpairs,
    trace,
)
from saddlescope.curvature.landscape import (
    CurvatureSplit,
    alignment,
    alignments,
    loss_plane,
    loss_slice,
    measured_curvature,
    split_curvature,
)
from saddlescope.curvature.memory import available_bytes
from saddlescope.curvature.objective import (
    BatchLoss,
    Criterion,
    Grouping,
    Groups,
    Objective,
    ParameterVector,
    SampleBatches,
    Samples,
    SharedBatches,
    SharedSamples,
    Subset,
    TensorSamples,
    as_patterns,
    as_samples,
    batch_of,
    call_with,
    check_call,
    class_numbers,
    count_samples,
    described,
    exact_arithmetic,
    first_line,
    map_tensors,
    samples_checksum,
    select_parameters,
    select_subsets,
    subset_indices,
    tf32,
    uncompiled,
    untouched,
    usual_batch_size,
)
from saddlescope.curvature.operators import (
    GaussNewtonOperator,
    HessianOperator,
    LinearCombination,
    MatrixOperator,
    MatrixSpec,
    NamedOperator,
    SymmetricOperator,
    WeightedOperator,
    WeingartenOperator,
    build_operator,
    difference,
    filter_norms,
)
from saddlescope.curvature.products import (
    TYPICAL_PRODUCTS,
    CudaGraphs,
    Programs,
    Recorder,
    Strategy,
)
from saddlescope.curvature.seeds import derived_seed
from saddlescope.curvature.tables import (
    CurvatureMonitor,
    NothingToResample,
    SpectrumRow,
    bootstrap_spectra,
    class_spectra,
    interval_rank,
    iter_spectra,
    measure_operator,
    measure_subset,
    plan_programs,
    subset_operator,
)
from saddlescope.parallel import ALONE, Ranks
from saddlescope.stopping import StopRule

__all__ = [
    "ALONE", "TYPICAL_PRODUCTS", "BatchLoss", "Criterion", "CudaGraphs", "CurvatureMonitor",
    "CurvatureSplit", "Eigenpairs", "Ends", "Estimate", "Footprint", "GaussNewtonOperator",
    "Grouping", "Groups", "HessianOperator", "LinearCombination", "MatrixOperator", "MatrixSpec",
    "MemoryPlan", "NamedOperator", "NothingToResample", "Objective", "ParameterVector", "Programs",
    "Ranks", "Recorder", "SampleBatches", "Samples", "Search", "SharedBatches", "SharedSamples",
    "SpectralDensity", "SpectralEnergy", "SpectrumRow", "StopRule", "Strategy", "Subset",
    "SymmetricOperator", "TempleBound", "TempleBounds", "TensorSamples", "WeightedOperator",
    "WeingartenOperator", "alignment", "alignments", "as_patterns", "as_samples", "available_bytes",
    "batch_of", "bootstrap_spectra", "build_operator", "call_with", "check_call", "class_numbers",
    "class_spectra", "count_samples", "derived_seed", "described", "difference", "exact_arithmetic",
    "extreme_eigenvalues", "filter_norms", "first_line", "interval_rank", "iter_spectra",
    "loss_plane", "loss_slice", "map_tensors", "measure_footprint", "measure_operator",
    "measure_subset", "measured_curvature", "plan_programs", "random_start",
    "samples_checksum", "save_eigenvectors", "select_parameters", "select_subsets",
    "spectral_density", "spectral_energy", "split_curvature",
    "subset_indices", "subset_operator", "temple_bounds", "tf32", "top_eigenpairs", "trace",
    "uncompiled", "untouched", "usual_batch_size",
]  # fmt: skip
