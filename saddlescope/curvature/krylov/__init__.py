"""From products to eigenvalues, densities and eigenpairs with bounds: Lanczos and what it tells."""
