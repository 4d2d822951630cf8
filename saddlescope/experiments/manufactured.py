"""Saddles of a given network, made by hand from a checkpoint of it.

Symmetric: the channels of every hidden layer are made equal two by two. Units that compute the same
get the same gradient, so gradient steps never tell them apart: along the directions that would, the
gradient vanishes, and a network that is only stuck by symmetry curves down there (Fukumizu and
Amari, Neural Networks 2000).

Rank-deficient: the first layer's weights and the last layer's are zero, and the last bias is the
logarithm of the class shares. The features no longer depend on the input and the outputs not on the
features, so for the mean cross-entropy over these samples the gradient is zero to rounding; the
second derivatives between the two layers are not, which makes it a strict saddle unless no unit is
active.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from saddlescope.errors import UsageError

STARTS: Final = ("checkpoint", "symmetric", "rank-deficient")
"""Where `measure_escape` starts."""


def manufacture(model: nn.Module, start: str, targets: Tensor) -> None:
    """Move a network to a saddle, in place.

    Args:
        model: whose first weight matrix or kernel reads the input, whose last gives the logits, and
            whose channels meet their positions nowhere in between (no flattened feature maps).
        start: of `STARTS`; "checkpoint" moves nothing.
        targets: class numbers of the samples, shape (n,).

    Raises:
        UsageError: an unknown start, or a network without two such layers; grouped convolutions
            where channels are to be paired.
    """
    makers: dict[str, Callable[[], None]] = {
        "checkpoint": lambda: None,
        "symmetric": lambda: _symmetrise(model),
        "rank-deficient": lambda: _deprive_of_rank(model, targets),
    }
    if start not in makers:
        raise UsageError(f"no start {start!r}: choose from {', '.join(STARTS)}")
    with torch.no_grad():
        makers[start]()


def displace(parameters: Sequence[Tensor], length: float, seed: int) -> None:
    """Add a random displacement of a given length to the parameters, in place."""
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]
    whole = torch.stack([n.square().sum() for n in noise]).sum().sqrt()
    with torch.no_grad():
        for parameter, part in zip(parameters, noise, strict=True):
            parameter.add_((part * (length / whole)).to(parameter))


def _layers(model: nn.Module) -> list[nn.Module]:
    """Modules with a weight matrix or kernel of their own, in the order they are registered."""
    found = [
        module
        for module in model.modules()
        if any(p.dim() >= 2 for p in module.parameters(recurse=False))
    ]
    if len(found) < 2:
        raise UsageError("a manufactured saddle needs a network with at least two weight layers")
    return found


def _symmetrise(model: nn.Module) -> None:
    first, *_, last = _layers(model)
    for module in model.modules():
        if getattr(module, "groups", 1) != 1:
            raise UsageError("symmetric: grouped convolutions are not paired; try rank-deficient")
        for tensor in _own_tensors(module):
            # Classes and input channels are told apart from outside, and stay as they are.
            swapped = tensor if module is last else _swap(tensor, 0)
            if tensor.dim() >= 2 and module is not first:
                swapped = _swap(swapped, 1)
            tensor.copy_(0.5 * (tensor + swapped))


def _own_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Parameters and statistics with channels."""
    yield from (p for p in module.parameters(recurse=False) if p.dim() > 0)
    yield from (b for b in module.buffers(recurse=False) if b.dim() > 0 and b.is_floating_point())


def _swap(tensor: Tensor, dim: int) -> Tensor:
    """Neighbours exchanged, 0 with 1, 2 with 3; the last of an odd number stays."""
    size = tensor.shape[dim]
    order = torch.arange(size, device=tensor.device)
    even = size - size % 2
    order[:even] = order[:even].view(-1, 2).flip(1).reshape(-1)
    return tensor.index_select(dim, order)


def _deprive_of_rank(model: nn.Module, targets: Tensor) -> None:
    layers = _layers(model)
    first, last = layers[0], layers[-1]
    if not isinstance(last, nn.Linear):
        raise UsageError(
            f"rank-deficient: needs a linear last layer, not {type(last).__name__}; try symmetric"
        )
    for layer in (first, last):
        assert isinstance(layer.weight, Tensor)
        layer.weight.zero_()
    if last.bias is not None:
        counts = torch.bincount(targets.cpu().long(), minlength=last.out_features).double()
        # A class without samples would get −∞; a half is as good as none of many.
        shares = counts.clamp(min=0.5) / counts.sum()
        last.bias.copy_(shares.log().to(last.bias))
