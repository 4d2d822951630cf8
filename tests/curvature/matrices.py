"""Dense symmetric matrices with a spectrum of choice."""

import numpy as np
import torch


def with_spectrum(values, seed=0) -> torch.Tensor:
    values = torch.as_tensor(values, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(
        torch.randn(len(values), len(values), generator=generator, dtype=torch.float64)
    ).Q
    matrix = basis @ torch.diag(values) @ basis.T
    return (matrix + matrix.T) / 2


def network_like(size=200):
    """A bulk around zero, a few large outliers, some negative ones."""
    bulk = np.random.default_rng(0).normal(0.0, 0.3, size - 7)
    return np.concatenate([bulk, [40.0, 25.0, 12.0, 7.0, -3.0, -5.0, -2.5]])
