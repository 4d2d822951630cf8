"""Lengths of gradients that may be half-precision, tiny, sparse, or shards on several processes.

Every norm here is summed in float32 or better, and none makes a device wait.
"""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor

from saddlescope.errors import UsageError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

_SMALL, _LARGE = 1e-15, 1e18
"""Between them float32 squares neither underflow nor overflow."""


def local(tensor: Tensor) -> Tensor:
    """Return the part of a DTensor that this process holds; any other tensor itself."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def is_sharded(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Tell whether it is a DTensor, asked without the second that importing them takes."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def global_norm(tensors: Sequence[Tensor]) -> Tensor:
    """The L2 norm of all of them together, a scalar in float32 or float64 on the first's device.

    Of no tensors at all it is 0. DTensors count once, whatever processes hold their shards.

    Raises:
        UsageError: a DTensor whose parts are still to be summed.
    """
    if not tensors:
        return torch.zeros(())
    if any(is_sharded(tensor) for tensor in tensors):
        return _square_over_shards(tensors).sqrt()
    return _norm([values(tensor) for tensor in tensors])


def clip_norm(gradients: Sequence[Tensor], most: float) -> None:
    """Scale gradients down in place to norm `most`, as `torch.nn.utils.clip_grad_norm_` does."""
    factor = (most / (global_norm(gradients) + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        local(gradient).mul_(factor.to(gradient.device))


def all_finite(lists: Iterable[Sequence[Tensor | None]]) -> bool:
    """Tell whether no gradient holds Inf or NaN; asks the device."""
    norms = [global_norm([g for g in gradients if g is not None]) for gradients in lists]
    return all(bool(torch.isfinite(norm)) for norm in norms)


def inner_product(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """⟨left, right⟩ over all tensors, from ‖a+b‖² and ‖a−b‖² so that shards need no other rule."""
    if not left:
        return torch.zeros(())
    pairs = list(zip(left, right, strict=True))
    plus, minus = global_norm([a + b for a, b in pairs]), global_norm([a - b for a, b in pairs])
    return (plus.square() - minus.square()) / 4


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    half = any(tensor.dtype.itemsize <= 2 for tensor in tensors)
    short = _together(torch._foreach_norm(list(tensors), 2, torch.float32 if half else None))
    if short.dtype == torch.float64 or short.device.type == "mps":  # which has no float64
        return short
    # In range float32's own result stands; beyond it, squares are summed in float64.
    long = _together(torch._foreach_norm(list(tensors), 2, torch.float64))
    return torch.where((short > _SMALL) & (short < _LARGE), short, long.to(short.dtype))


def _together(norms: Sequence[Tensor]) -> Tensor:
    device = norms[0].device
    if any(norm.device != device for norm in norms):
        norms = [norm.to(device) for norm in norms]
    return torch.linalg.vector_norm(torch.stack(list(norms)))


def values(tensor: Tensor) -> Tensor:
    """Return the entries that a sparse tensor holds, complex ones as pairs; else itself."""
    if tensor.is_complex():
        return torch.view_as_real(tensor)
    # Rows that were looked up twice are two entries until they are coalesced.
    return tensor.coalesce().values() if tensor.layout == torch.sparse_coo else tensor


def _square_over_shards(tensors: Sequence[Tensor]) -> Tensor:
    parts: dict[object, list[Tensor]] = {}
    meshes: dict[object, DTensor] = {}
    for tensor in tensors:
        key: object = None
        if is_sharded(tensor):
            key = (tensor.device_mesh, tensor.placements)
            meshes[key] = tensor
        parts.setdefault(key, []).append(values(local(tensor)))
    total = torch.zeros((), dtype=torch.float64, device=local(tensors[0]).device)
    for key, members in parts.items():
        square = _norm([m for m in members if m.numel()] or members).double().square()
        sample = meshes.get(key)
        for dimension, placement in enumerate(sample.placements if sample is not None else ()):
            if placement.is_partial():
                raise UsageError("a gradient's parts are still to be summed over processes")
            # Whatever is not a copy is a part: FSDP over tensor parallelism has shards of its own.
            if not placement.is_replicate() and sample is not None:
                dist.all_reduce(square, group=sample.device_mesh.get_group(dimension))
        total = total + square.to(total.device)
    return total
