"""What a piece of work asks of a device, counted on any: launches, and waits for the host.

A device works through what it is given in order. A launch costs the host some microseconds; a wait
(a number read, a copy from ordinary memory, a mask whose true elements must be counted) costs all
that the device has still to do. On a CPU both are free, so nothing shows there. This mode counts
operations as they are called, and takes torch's `meta` tensors, which have shapes and no content,
for those of a device that is not there: what is read from them is answered with ones.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import torch
from torch import Tensor
from torch.fx.experimental import _config as fx_config
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode  # as torch's own flop counter does
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten

_COUNTED_BY_VALUE = {
    aten.nonzero, aten.masked_select, aten._unique2, aten.unique_dim, aten.unique_consecutive,
    aten.bincount, aten.equal, aten.is_nonzero, aten.repeat_interleave, aten.histc, aten.isin,
}  # fmt: skip
"""Operations whose result has a size, or is a number, that the values decide. (`isin` sorts.)"""

_NO_KERNEL = {
    aten.detach, aten.alias, aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty,
    aten.new_empty_strided, aten._unsafe_view, aten._reshape_alias, aten.lift_fresh, aten.set_,
    aten.result_type, aten.resize_,
}  # fmt: skip


class DeviceCalls(TorchDispatchMode):
    """Counts while it is on.

    Args:
        device: type of the device that is watched; "meta" stands in for one that is not there.

    Attributes:
        launches: operations that compute something on the device. (A fused or foreach operation
            counts once, and may be several kernels.)
        waits: names of the operations for which the host had to wait, in order.
    """

    def __init__(self, device: str = "meta") -> None:
        super().__init__()
        self.device, self.launches = device, 0
        self.waits: list[str] = []
        self._made = _MadeThere(self)

    def __enter__(self) -> Self:
        self._made.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._made.__exit__(*error)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        here = [tensor for tensor in given if tensor.device.type == self.device]
        target = kwargs.get("device")
        arrives = target is not None and torch.device(target).type == self.device
        if here and self._waits(packet, given, here, args, kwargs):
            self.waits.append(str(packet).rpartition(".")[-1])
            if self.device == "meta" and (answer := _answer(packet, args, kwargs)) is not None:
                return answer
        comes = arrives and packet is aten._to_copy and given and not here
        if comes and not kwargs.get("non_blocking"):
            self.waits.append("copy to the device")
        with _assumptions() if self.device == "meta" else nullcontext():
            result = func(*args, **kwargs)
        if (here or arrives) and not func.is_view and packet not in _NO_KERNEL:
            self.launches += 1
        return result

    def _waits(
        self, packet: Any, given: list[Tensor], here: list[Tensor], args: Any, kwargs: Any
    ) -> bool:
        if packet is aten._local_scalar_dense or packet in _COUNTED_BY_VALUE:
            return True
        if packet is aten._to_copy:
            target = kwargs.get("device")
            return target is not None and torch.device(target).type != self.device
        if packet is aten.copy_ and len(here) < len(given):
            return not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
        if packet in (aten.index, aten.index_put, aten.index_put_, aten._unsafe_index):
            chosen = [index for index in args[1] if isinstance(index, Tensor)]
            return any(
                index.dtype in (torch.bool, torch.uint8) or index.device.type != self.device
                for index in chosen
            )
        return False


class _MadeThere(TorchFunctionMode):
    """Finds tensors made of numbers: torch copies them to the device out of other modes' sight."""

    def __init__(self, calls: DeviceCalls) -> None:
        super().__init__()
        self._calls = calls

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and (
            kwargs.get("device") is not None
            and torch.device(kwargs["device"]).type == self._calls.device
            and not isinstance(args[0], Tensor)
        ):
            self._calls.waits.append(func.__name__)
        return func(*args, **kwargs)


def _assumptions() -> AbstractContextManager[object]:
    """A mask without content holds true everywhere."""
    patched: AbstractContextManager[object] = fx_config.patch(  # type: ignore[attr-defined]
        meta_nonzero_assume_all_nonzero=True
    )
    return patched


def _answer(packet: Any, args: Any, kwargs: Any) -> Any:
    """What a tensor without content is taken to hold; None where the operation can run."""
    if packet is aten._local_scalar_dense:
        return torch.ones((), dtype=args[0].dtype).item()
    if packet is aten._to_copy:
        return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
    if packet is aten.equal:
        return True
    return None
