"""From products to eigenvalues, densities and eigenpairs with bounds: Lanczos and what it tells."""

from saddlescope.curvature.krylov.bounds import Estimate, start_component
from saddlescope.curvature.krylov.density import SpectralDensity, spectral_density, trace
from saddlescope.curvature.krylov.eigenpairs import Eigenpairs, top_eigenpairs
from saddlescope.curvature.krylov.energy import SpectralEnergy, spectral_energy
from saddlescope.curvature.krylov.extreme import (
    Ends,
    EndsOptions,
    StopReason,
    Verdict,
    extreme_eigenvalues,
)
from saddlescope.curvature.krylov.lanczos import Lanczos, random_start
from saddlescope.curvature.krylov.saved_vectors import save_eigenvectors
from saddlescope.curvature.krylov.search import Search
from saddlescope.curvature.krylov.temple import TempleBound, TempleBounds, temple_bounds
