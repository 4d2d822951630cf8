"""Classes and groups as the rows of a table, once or along a training run."""

from saddlescope.curvature.tables.monitor import CurvatureMonitor
from saddlescope.curvature.tables.resampling import (
    NothingToResample,
    bootstrap_spectra,
    interval_rank,
)
from saddlescope.curvature.tables.spectra import (
    SpectrumRow,
    class_spectra,
    iter_spectra,
    measure_operator,
    measure_subset,
    plan_programs,
    subset_operator,
)
