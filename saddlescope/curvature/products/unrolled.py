"""A convolution as one matrix product over a whole batch, for small maps of many channels.

torch's float64 convolution on a CPU multiplies sample by sample: 512 filters with the 16 columns of
a 4x4 map, and reads the filters anew for each sample. Without the patches of all samples in one
matrix the float64 check of a ResNet-34 takes 1.2 times as long for 5 images and 1.4 times for 12
(benchmarks/convolutions.py). Where a map has more positions than there are filters, gathering the
patches in this order costs more than it saves.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Size, Tensor

MANY = 4.0
"""Filters a position of the output from which on it pays: 512 at 4x4 and 256 at 8x8, not 128."""


def pays(positions: int, weight: Tensor, dilation: Sequence[int], groups: int) -> bool:
    """Return whether a convolution of so many output positions is faster so, and can be done so."""
    plain = groups == 1 and all(step == 1 for step in dilation)
    return plain and len(weight) >= MANY * positions


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """Return x∗W + b, as torch's."""
    patches, positions = _patches(x, weight.shape[2:], stride, padding)
    filters = weight.reshape(len(weight), -1)
    product = patches @ filters.T if bias is None else F.linear(patches, filters, bias)
    return product.view(len(x), *positions, len(weight)).movedim(-1, 1).contiguous()


def gradients(
    g: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    mask: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of ⟨g, x∗W + b⟩ in x, W and b, those that the mask asks for."""
    rows = g.movedim(1, -1).reshape(-1, len(weight))
    in_weight = None
    if mask[1]:
        patches, _ = _patches(x, weight.shape[2:], stride, padding)
        in_weight = (rows.T @ patches).view_as(weight)
    return (
        _gathered(g, rows, x, weight, stride, padding) if mask[0] else None,
        in_weight,
        rows.sum(0) if mask[2] else None,
    )


def _patches(
    x: Tensor, kernel: Size, stride: Sequence[int], padding: Sequence[int]
) -> tuple[Tensor, Size]:
    """What each output position sees, a row each: (samples · positions, channels · taps)."""
    dimensions = len(kernel)
    x = F.pad(x, [width for size in reversed(padding) for width in (size, size)])
    for axis, (taps, step) in enumerate(zip(kernel, stride, strict=True), start=2):
        x = x.unfold(axis, taps, step)
    positions = x.shape[2 : 2 + dimensions]
    axes = (0, *range(2, 2 + dimensions), 1, *range(2 + dimensions, 2 + 2 * dimensions))
    return x.permute(axes).reshape(len(x) * positions.numel(), -1), positions


def _gathered(
    g: Tensor,
    rows: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
) -> Tensor:
    """The gradient in x: each tap's share, added where that tap saw the padded input."""
    kernel, positions = weight.shape[2:], g.shape[2:]
    shares = (rows @ weight.reshape(len(weight), -1)).view(
        len(g), *positions, weight.shape[1], *kernel
    )
    lengths = [n + 2 * width for n, width in zip(x.shape[2:], padding, strict=True)]
    padded = g.new_zeros(len(g), *lengths, weight.shape[1])
    for tap in itertools.product(*map(range, kernel)):
        seen = tuple(
            slice(first, first + step * (count - 1) + 1, step)
            for first, step, count in zip(tap, stride, positions, strict=True)
        )
        share: tuple[Any, ...] = (..., *tap)
        padded[(slice(None), *seen)] += shares[share]
    inside = tuple(slice(width, width + n) for n, width in zip(x.shape[2:], padding, strict=True))
    return padded[(slice(None), *inside)].movedim(-1, 1).contiguous()
