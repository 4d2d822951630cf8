"""The ends of a matrix that vanishes in float32: measured in float64, or bounded by its rounding.

A class that is fitted so well that float32 rounds its probabilities to 0 and 1 has products of
rounding alone. In float64 they are seen down to gaps of about 30 between the logits; below that the
matrix is zero, within bounds.
"""

import logging
from dataclasses import replace

import torch
from torch import Tensor

from saddlescope.curvature.krylov import (
    Ends,
    Search,
    extreme_eigenvalues,
    random_start,
    start_component,
)
from saddlescope.curvature.operators import NamedOperator, SymmetricOperator
from saddlescope.errors import OperatorError
from saddlescope.stopping import StopRule

log = logging.getLogger("saddlescope.curvature")

_TINY = 1e-4
"""Largest curvature, relative to the loss's natural scale L/‖w‖², that may be called zero."""


def ends_in_double(
    built: NamedOperator, error: OperatorError, stop: StopRule, search: Search
) -> tuple[NamedOperator, Ends]:
    """Measure in float64 what was refused in float32.

    Args:
        built: the matrix in float32.
        error: why it was refused.
        stop: see `extreme_eigenvalues`.
        search: see `extreme_eigenvalues`.

    Returns:
        The matrix in float64, and its ends.

    Raises:
        OperatorError: `error`, where float64 does no better.
    """
    exact = built.in_double()
    if exact is None or built.matrix.dtype != torch.float32:
        raise error
    seen = str(error).partition(" Likely causes")[0].rstrip(".")
    vector = random_start(exact.matrix.size, seed=search.seed).to(exact.matrix.device)
    try:
        exact.matrix.verify()
        product = exact.matrix.matvec(vector)
        rounded = built.matrix.matvec(vector.float()).double()
    except OperatorError:
        raise error from None
    # Both precisions round alike, each in its own units; of a random vector's error, √n makes that
    # of all directions. A hundredfold, because what float32 lost whole shows no more than its size.
    units = 100.0 * torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
    norm = torch.linalg.vector_norm
    noise = float(norm(rounded - product)) * units * exact.matrix.size**0.5
    search = replace(search, noise=max(search.noise or 0.0, noise))
    note = f"measured in float64, because in float32 {seen}"
    try:
        ends = extreme_eigenvalues(exact.matrix, stop, search)
    except OperatorError:
        # With probability ≥ confidence ‖H‖ is at most ‖Hv‖/δ.
        delta = start_component(exact.matrix.size, 1.0 - stop.confidence)
        bound = (float(norm(product)) + noise) / delta
        if bound > _TINY * _natural_curvature(exact):
            raise error from None
        note = f"zero to rounding, in float64 too (‖H‖ is at most {bound:.1e}): in float32 {seen}"
        zero = replace(search, noise=bound, warm_start=None)
        ends = extreme_eigenvalues(_Zero(exact.matrix), stop, zero)
    log.warning("%s", note)
    return exact, replace(ends, notes=(note, *ends.notes))


def _natural_curvature(built: NamedOperator) -> float:
    """1/‖w‖²: the curvature of a loss that changes by 1 over the length of the weights."""
    weights = built.base.objective.vector
    square = sum(float(p.detach().double().square().sum()) for p in weights.tensors)
    return 1.0 / (square or 1.0)


class _Zero(SymmetricOperator):
    """The zero matrix in another's place."""

    def __init__(self, operator: SymmetricOperator) -> None:
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device

    def matvec(self, vector: Tensor) -> Tensor:
        return torch.zeros_like(vector)
