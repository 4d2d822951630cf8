"""The buffers of a network, as the pass at w left them.

A perturbed forward pass must not leave traces in BatchNorm's running statistics, spectral norm's
vectors or a layer's own counters, whichever layers the network has at that moment.
"""

import torch
from torch import Tensor, nn

from saddlescope.sharpness.norms import local


class KeptBuffers:
    """A copy of every buffer of a model, to be put back.

    Args:
        model: whose buffers, those of layers added since the last step included; None keeps none.
    """

    def __init__(self, model: nn.Module | None) -> None:
        self._places: list[tuple[nn.Module, str, Tensor | None]] = [
            (module, name, buffer)
            for module in (model.modules() if model is not None else ())
            for name, buffer in module._buffers.items()
        ]
        self._tensors = [local(buffer) for _, _, buffer in self._places if buffer is not None]
        self._copies = [torch.empty_like(tensor) for tensor in self._tensors]
        if self._tensors:
            torch._foreach_copy_(self._copies, self._tensors)

    @torch.no_grad()
    def put_back(self) -> None:
        """Restore contents, and the tensors themselves where a layer has put others in place."""
        for module, name, buffer in self._places:
            module._buffers[name] = buffer
        if self._tensors:
            torch._foreach_copy_(self._tensors, self._copies)
