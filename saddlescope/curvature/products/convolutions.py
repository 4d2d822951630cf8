"""Convolutions that cost what they must when they are differentiated twice, or run in float64.

A convolution is a trilinear form T(x, W, g) = ⟨g, x∗W⟩ with one argument left open: its output
leaves g open, the gradient in x leaves x open, the gradient in W leaves W open. The derivative of
each of the three is the other two, so the three are all that any derivative needs, and each has a
kernel of its own. torch's own second derivative takes the gradient in W for another convolution,
whose kernel is as large as the image.

On CPUs a float64 convolution first copies each image patch of the *whole* batch into one matrix.
Beyond some megabytes that matrix is new memory at each call, which the system has to clear. So it
goes in pieces of a few samples. Small maps of many channels go as one matrix product (`unrolled`).

Without either a product of a ResNet-32 takes about as long for 5 images and 1.2 times as long for
40 or 77, a float64 one, its linearisation included, 1.2 to 2.3 times: benchmarks/convolutions.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

from saddlescope.curvature.products import unrolled

_DIMENSIONS = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")

PIECE_BYTES = 4 << 20
"""Of a float64 convolution's patches on a CPU: a few samples, within its cache and its heap."""


@dataclass(frozen=True)
class Geometry:
    """Say what a convolution is besides its tensors.

    Attributes:
        stride, padding, dilation: one number a spatial dimension.
        groups: of channels.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def arguments(self) -> tuple[Any, ...]:
        """Return what `torch.ops.aten.convolution` takes: not transposed, no output padding."""
        none = [0] * len(self.stride)
        return (
            list(self.stride), list(self.padding), list(self.dilation), False, none, self.groups,
        )  # fmt: skip


class TwiceDifferentiable(TorchFunctionMode):
    """Run convolutions so that their second derivative takes the kernels of the first."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        if func in _DIMENSIONS and not types:
            given = dict(zip(_ARGUMENTS, args, strict=False)) | named
            geometry = _geometry(_DIMENSIONS[func], given)
            if geometry is not None:
                inputs, weight, bias = given["input"], given["weight"], given.get("bias")
                return _Convolution.apply(inputs, weight, bias, geometry)
        return func(*args, **named)


def _geometry(dimensions: int, given: dict[str, Any]) -> Geometry | None:
    """None where torch had better do it: one sample without a batch, padding by name, a transform.

    A transform (vmap, grad) inside a loss needs rules that torch's own convolution has.
    """
    padding = given.get("padding", 0)
    if given["input"].dim() != dimensions + 2 or isinstance(padding, str):
        return None
    if torch._C._are_functorch_transforms_active():
        return None
    if len({given[name].dtype for name in ("input", "weight")}) > 1:
        return None

    def each(value: int | Sequence[int]) -> tuple[int, ...]:
        values = (value,) if isinstance(value, int) else tuple(value)
        return values * dimensions if len(values) == 1 else values

    return Geometry(
        each(given.get("stride", 1)),
        each(padding),
        each(given.get("dilation", 1)),
        given.get("groups", 1),
    )


class _Convolution(Function):
    """y = x∗W + b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, at: Geometry) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.at = at
        return convolution(x, weight, bias, *at.arguments)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias, _ = ctx.needs_input_grad
        in_x = in_weight = in_bias = None
        if need_x:
            in_x = _GradientInInput.apply(g, weight, x, ctx.at)
        if need_weight or need_bias:
            needs = need_weight, need_bias
            in_weight, in_bias = _GradientInWeight.apply(g, x, weight, needs, ctx.at)
        return in_x, in_weight, in_bias, None


class _GradientInInput(Function):
    """∂⟨g, x∗W⟩/∂x, bilinear in g and W; of x only the shape and the layout are read."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, weight: Tensor, like: Tensor, at: Geometry) -> Tensor:
        ctx.save_for_backward(g, weight)
        ctx.at = at
        return _gradients(g, like, weight, at, (True, False, False))[0]

    @staticmethod
    def backward(ctx: Any, x: Tensor) -> tuple[Tensor | None, ...]:
        g, weight = ctx.saved_tensors
        need_g, need_weight, _, _ = ctx.needs_input_grad
        in_g = _Convolution.apply(x, weight, None, ctx.at) if need_g else None
        in_weight = None
        if need_weight:
            in_weight, _ = _GradientInWeight.apply(g, x, weight, (True, False), ctx.at)
        return in_g, in_weight, None, None


class _GradientInWeight(Function):
    """∂⟨g, x∗W + b⟩/∂(W, b), linear in g and x; of W only the shape and the layout are read."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, like: Tensor, needs: tuple[bool, bool], at: Geometry
    ) -> tuple[Tensor | None, Tensor | None]:
        ctx.save_for_backward(g, x)
        ctx.at = at
        ctx.set_materialize_grads(False)
        _, in_weight, in_bias = _gradients(g, x, like, at, (False, *needs))
        return in_weight, in_bias

    @staticmethod
    def backward(ctx: Any, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor | None, ...]:
        g, x = ctx.saved_tensors
        need_g, need_x = ctx.needs_input_grad[:2]
        in_g = in_x = None
        if weight is not None:
            in_g = _Convolution.apply(x, weight, bias, ctx.at) if need_g else None
            in_x = _GradientInInput.apply(g, weight, x, ctx.at) if need_x else None
        elif bias is not None and need_g:
            in_g = bias.view(-1, *[1] * (g.dim() - 2)).expand_as(g)
        return in_g, in_x, None, None, None


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    """Do as `torch.ops.aten.convolution` does, in another way where that is faster.

    Args:
        x: images, shape (N, C, …).
        weight: filters.
        bias: one number a filter, if there is one.
        *rest: stride, padding, dilation, transposed, output padding and groups, as there.
    """
    stride, padding, dilation, transposed, _, groups = rest
    way = _way(x, weight, Geometry(tuple(stride), tuple(padding), tuple(dilation), groups))
    apply: Callable[..., Tensor] = torch.ops.aten.convolution.default
    given: tuple[Any, ...] = rest
    if way.unrolled and not transposed:
        apply, given = unrolled.convolve, (stride, padding)
    if way.samples >= len(x):
        return apply(x, weight, bias, *given)
    return torch.cat([apply(part, weight, bias, *given) for part in x.split(way.samples)])


def _gradients(
    g: Tensor, x: Tensor, weight: Tensor, at: Geometry, mask: tuple[bool, bool, bool]
) -> tuple[Any, ...]:
    """Gradients in x, weight and bias, those that the mask asks for."""
    way = _way(x, weight, at)
    apply: Callable[..., tuple[Any, ...]]
    if way.unrolled:
        apply, given = unrolled.gradients, (at.stride, at.padding, mask)
    else:
        apply = torch.ops.aten.convolution_backward.default
        given = ([weight.shape[0]] if mask[2] else None, *at.arguments, list(mask))
    if way.samples >= len(x):
        return apply(g, x, weight, *given)
    parts = [
        apply(one, other, weight, *given)
        for one, other in zip(g.split(way.samples), x.split(way.samples), strict=True)
    ]
    in_x, in_weight, in_bias = zip(*parts, strict=True)
    return (
        torch.cat(in_x) if mask[0] else None,
        torch.stack(in_weight).sum(0) if mask[1] else None,
        torch.stack(in_bias).sum(0) if mask[2] else None,
    )


@dataclass(frozen=True)
class _Way:
    """How a convolution is computed: so many samples at once, by `unrolled` or not."""

    samples: int
    unrolled: bool


def _way(x: Tensor, weight: Tensor, at: Geometry) -> _Way:
    # In float32, and on a GPU, a library has kernels for whole batches.
    if x.dtype != torch.float64 or x.device.type != "cpu":
        return _Way(len(x), unrolled=False)
    outputs = 1
    for length, step in zip(x.shape[2:], at.stride, strict=True):
        outputs *= -(-length // step)
    patches = max(1, weight[0].numel() * outputs * x.dtype.itemsize)
    # A piece is shared by the threads, sample by sample.
    threads = torch.get_num_threads()
    samples = max(1, PIECE_BYTES // (patches * threads)) * threads
    return _Way(samples, unrolled.pays(outputs, weight, at.dilation, at.groups))
