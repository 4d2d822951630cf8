"""Memory: how much may be used, and how much the tensors at hand keep alive."""

import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode  # as torch's own flop counter does
from torch.utils._pytree import tree_leaves

from saddlescope.errors import SaddlescopeError, UsageError
from saddlescope.parallel import processes_here

FREE_SHARE = 0.4
"""Of free memory, what is retained between products; the rest is left for basis and work."""

_LEAST_CAPACITY = 8
"""Vectors of the smallest basis that can be restarted."""


def available_bytes(device: torch.device) -> int:
    """Return the free memory of the device, in bytes; of a CPU, this process's part of it."""
    if device.type == "cuda":
        # What the allocator holds and nobody uses is free, though not to the driver's eyes.
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + held)
    return _free_host_bytes() // processes_here()


def _free_host_bytes() -> int:
    try:
        with open("/proc/meminfo") as handle:
            for line in handle:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


_OUT_OF_MEMORY = (
    "can't allocate memory",  # c10's CPU allocator
    "ALLOC_FAILED",  # cuBLAS and cuDNN
    "out of memory",  # CUDA's own: what the driver refuses outside torch's allocator
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out: a CUDA device's, a CPU's, or a library's.

    So does one that another error has taken the place of: ending a CUDA graph's capture fails when
    memory ran out inside it.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(seen, RuntimeError) and any(word in str(seen) for word in _OUT_OF_MEMORY):
            return True
        # An error raised after another was dealt with is its own.
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return False


def default_budget(device: torch.device) -> int:
    """Return the bytes for retained graphs: `FREE_SHARE` of what is free."""
    return int(FREE_SHARE * available_bytes(device))


def basis_capacity(
    size: int, dtype: torch.dtype, device: torch.device, *, wanted: int, memory: int | None = None
) -> int:
    """Count the vectors of a Krylov basis besides the residual's: those wanted or those that fit.

    Args:
        size: n, the length of a vector.
        dtype: of the basis.
        device: where it is kept.
        wanted: products that are to be taken at most.
        memory: bytes for the basis; None takes a share of what is free.

    Raises:
        UsageError: too few to iterate with; says what would do.
    """
    each = size * dtype.itemsize
    budget = default_budget(device) if memory is None else memory
    capacity = min(wanted, size, budget // each - 1)
    if capacity < min(_LEAST_CAPACITY, wanted, size):
        raise UsageError(
            f"the Krylov basis needs at least {_LEAST_CAPACITY + 1} vectors of {each / 2**20:.3g} "
            f"MiB, {(_LEAST_CAPACITY + 1) * each / 2**20:.3g} MiB in all; {budget / 2**20:.3g} MiB "
            "are free for it: free memory, or restrict the parameters"
        )
    return int(capacity)


OVERWRITTEN = "modified by an inplace operation"
"""Torch's words of a tensor that was saved for a derivative and then written to."""


class StorageMeter:
    """Add up the memory behind tensors, each storage once, whole storages for views.

    Attributes:
        nbytes: the sum so far.
    """

    def __init__(self) -> None:
        self.nbytes = 0
        self._seen: set[int] = set()

    def add(self, tensor: Tensor) -> None:
        """Count a tensor; one without a storage of its own (sparse, torch.func's) by its values."""
        try:
            storage = tensor.untyped_storage()
            key, nbytes = storage.data_ptr(), storage.nbytes()
        except (RuntimeError, NotImplementedError):
            values = tensor._values() if tensor.layout == torch.sparse_coo else tensor
            key, nbytes = id(tensor), values.numel() * values.element_size()
        if key not in self._seen:
            self._seen.add(key)
            self.nbytes += nbytes

    @contextmanager
    def graph(self) -> Iterator[None]:
        """Count what autograd saves meanwhile: all that a graph keeps alive, parameters too.

        Raises:
            RuntimeError: what was saved had been written to when it was read meanwhile. Under such
                hooks autograd leaves that to them.
        """
        building = True

        def pack(tensor: Tensor) -> tuple[Tensor, int]:
            self.add(tensor)
            # Detached: a node that holds its own output with its history holds itself, and is
            # never freed (pytorch#115255). Autograd puts the history back when it unpacks.
            return tensor.detach(), tensor._version

        def unpack(saved: tuple[Tensor, int]) -> Tensor:
            tensor, version = saved
            # Later on, parameters and buffers may have been elsewhere, and are back: see `Tensors`.
            if building and tensor._version != version:
                raise RuntimeError(
                    f"a saved tensor of shape {tuple(tensor.shape)} has been {OVERWRITTEN}"
                )
            return tensor

        try:
            with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
                yield
        finally:
            building = False


def storage_bytes(values: Iterable[Any]) -> int:
    """Return the bytes behind the tensors among `values`, each storage once."""
    meter = StorageMeter()
    for value in values:
        if isinstance(value, Tensor):
            meter.add(value)
    return meter.nbytes


def metered(build: Callable[[], list[Tensor]]) -> int:
    """Build a graph; returns the bytes that it keeps alive.

    Args:
        build: builds it, and returns the tensors that hold it.
    """
    meter = StorageMeter()
    try:
        with meter.graph():
            build()
        return meter.nbytes
    except Exception as error:
        if is_out_of_memory(error) or isinstance(error, SaddlescopeError):
            raise
    # torch.func differentiates under no such hooks: there the graph is read when it is there.
    return _graph_bytes(build())


def _graph_bytes(tensors: list[Tensor]) -> int:
    """Bytes of what the nodes behind some tensors have saved."""
    meter, seen = StorageMeter(), set()
    open_nodes: list[Any] = [tensor.grad_fn for tensor in tensors]
    while open_nodes:
        node = open_nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        open_nodes += [following for following, _ in node.next_functions]
        for name in dir(node):
            if name.startswith("_saved_") or name == "saved_tensors":
                for value in tree_leaves(getattr(node, name)):
                    if isinstance(value, Tensor):
                        meter.add(value)
    return meter.nbytes


class LiveMeter(TorchDispatchMode):
    """Record the bytes alive, of what is allocated while it is on, after every operation.

    Attributes:
        live: bytes alive now.
        record: bytes alive after each operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.record: list[int] = []
        self._watched: dict[int, Any] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        # What an operation is given and nobody made meanwhile was there before: it counts nothing.
        self._watch((args, kwargs), new=False)
        result = func(*args, **(kwargs or {}))
        self._watch(result, new=True)
        self.record.append(self.live)
        return result

    def _watch(self, values: Any, *, new: bool) -> None:
        for value in tree_leaves(values):
            if not isinstance(value, Tensor):
                continue
            try:
                storage = value.untyped_storage()
            except (RuntimeError, NotImplementedError):  # sparse, or one of torch.func's
                continue
            key = storage._cdata
            if key in self._watched:
                continue
            nbytes = storage.nbytes() if new else 0
            self._watched[key] = weakref.ref(storage, self._forget(key, nbytes))
            self.live += nbytes

    def _forget(self, key: int, nbytes: int) -> Callable[[Any], None]:
        def gone(_: Any) -> None:
            self.live -= nbytes
            del self._watched[key]

        return gone
