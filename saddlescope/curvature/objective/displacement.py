"""A loss at other weights, the model left as it was bit by bit.

Its parameters are pointed at a scratch vector while the loss is evaluated, never written to, so
retained graphs of an operator stay valid.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from saddlescope.curvature.objective.objective import Objective
from saddlescope.errors import UsageError


@contextmanager
def displaced(
    objective: Objective,
    directions: Sequence[Tensor],
    measure: Callable[[], Any] | None = None,
) -> Iterator[Callable[[tuple[float, ...]], Any]]:
    """Yield coefficients ↦ L(w + Σ coefficient·direction); w is as before when the block ends.

    Args:
        objective: the loss.
        directions: shape (n,) each.
        measure: what is evaluated there; None takes `objective.loss`.

    The parameters' `.data` point into one scratch vector meanwhile. Their own storage is never
    written, so they come back bit by bit, and with them their version counters.
    """
    weights = objective.vector
    moves = []
    for direction in directions:
        weights.split(direction)  # refuses another shape, in words
        if not bool(torch.isfinite(direction).all()):
            raise UsageError("the direction holds NaN or Inf")
        moves.append(direction.detach().to(weights.device, weights.dtype))
    origins = [parameter.data for parameter in weights.tensors]
    base = weights.flatten(origins)
    scratch = base.clone()

    def loss_at(coefficients: tuple[float, ...]) -> Any:
        scratch.copy_(base)
        for coefficient, move in zip(coefficients, moves, strict=True):
            if coefficient:
                scratch.add_(move, alpha=coefficient)
        return objective.loss() if measure is None else measure()

    try:
        for parameter, view in zip(weights.tensors, weights.split(scratch), strict=True):
            parameter.data = view
        yield loss_at
    finally:
        for parameter, origin in zip(weights.tensors, origins, strict=True):
            parameter.data = origin
