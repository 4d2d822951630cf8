"""From w to w + ε and back, bit for bit, whatever happens on the way."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from saddlescope.sharpness.ascent import Memory, displacement
from saddlescope.sharpness.buffers import KeptBuffers
from saddlescope.sharpness.gradients import Gradients
from saddlescope.sharpness.norms import local


class Journey:
    """Where the weights were, and the way back.

    Args:
        parameters: that will move, at w.
        model: whose buffers come back too; None for none.

    Attributes:
        parameters: the same.
        finite: whether the gradient of every ascent so far was finite, on the device.
        memory: what to remember if the journey ends in a step.
    """

    finite: Tensor | None = None
    memory: Memory | None = None

    def __init__(self, parameters: Sequence[Tensor], model: nn.Module | None) -> None:
        self.parameters = parameters
        self._points = [local(parameter) for parameter in parameters]
        # w + ε − ε is not w in floating point.
        self._origin = [point.clone() for point in self._points]
        self._buffers = KeptBuffers(model)

    def go(self, gradients: Gradients, rho: float, *, adaptive: bool, guard: bool = False) -> None:
        """Move from w by ε along these gradients (see `displacement`)."""
        moves, norm = displacement(self._points, gradients, rho, adaptive=adaptive, guard=guard)
        finite = torch.isfinite(norm)
        self.finite = finite if self.finite is None else self.finite & finite
        there = [(p, m) for p, m in zip(self._points, moves, strict=True) if m is not None]
        if there:
            points, steps = (list(column) for column in zip(*there, strict=True))
            if all(step.layout == torch.strided for step in steps):
                torch._foreach_add_(points, steps)
            else:
                for point, step in there:
                    point.add_(step)
        torch.clear_autocast_cache()  # casts of the weights at w

    def come_back(self) -> None:
        """Restore weights and buffers."""
        if self._points:
            torch._foreach_copy_(self._points, self._origin)
        self._buffers.put_back()
        torch.clear_autocast_cache()
