"""A product recorded once on fixed buffers and replayed.

For small batches a GPU spends a product waiting for launches: a ResNet-32's takes several hundred
kernels of a few microseconds each. A captured CUDA graph launches them as one. It reads and writes
fixed addresses, so whatever a product needs is copied into its buffers first, once for each
linearisation, and the direction for each product.

What is recorded costs memory beside the product's own: it is counted, given back when memory runs
out, and a function that cannot be recorded is run as it is.

Only a GPU can gain by it, and none has measured it yet: so all of it is in this file, behind one
switch, `Programs(replay=False)`. Everything but `CudaGraphs` is independent of the device.
"""

import contextlib
import logging
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from saddlescope.curvature.memory import default_budget, is_out_of_memory, storage_bytes
from saddlescope.curvature.objective import Batch, Objective
from saddlescope.curvature.products.linearisations import Traced
from saddlescope.curvature.products.recording import first_line
from saddlescope.curvature.products.tracing import TracedProgram

log = logging.getLogger("saddlescope.curvature")

Recorder = Callable[[Callable[[], list[Tensor]]], tuple[list[Tensor], Callable[[], None]]]
"""Runs a function once; returns its results and how to compute them anew, in place."""

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Batch sizes that are recorded. A batch is filled up to the next one with samples of weight 0, at
most a half more, so that 100 classes of different sizes need few recordings."""


TRACING_PAYS_FROM_ROWS = 40
"""Rows of a job from which tracing is worth its seconds on CUDA, where launches cost more than
arithmetic: replayed products of a small row are estimated to save 0.2 s a row. Not measured yet."""


def recorded_size(count: int) -> int | None:
    """Return the size a batch is filled up to; None where it is too large to wait for launches."""
    return next((size for size in SIZES if size >= count), None)


class Replay:
    """Record a function of what was kept and of a direction on buffers of its own.

    Several linearisations may share one: each is copied in when its turn comes.

    Args:
        function: (kept, direction) -> tensors; no host synchronisation, no new sizes.
        kept: tensors and numbers, of the sizes that it will be called with.
        direction: tensors.
        record: how; see `CudaGraphs`.

    Attributes:
        nbytes: of its buffers and results; not what the function needs while it runs.
    """

    def __init__(
        self,
        function: Callable[[list[Any], list[Tensor]], list[Tensor]],
        kept: Sequence[Any],
        direction: Sequence[Tensor],
        *,
        record: Recorder,
    ) -> None:
        self._kept = [value.clone() if isinstance(value, Tensor) else value for value in kept]
        self._direction = [part.clone() for part in direction]
        self._holder: Callable[[], object | None] = lambda: None
        self._results, self._run = record(lambda: function(self._kept, self._direction))
        self.nbytes = storage_bytes([*self._kept, *self._direction, *self._results])

    def __call__(
        self, holder: object, kept: Sequence[Any], direction: Sequence[Tensor]
    ) -> list[Tensor]:
        """The function's results, in buffers that the next call overwrites.

        Args:
            holder: whose `kept` these are; copied only if another's were used last.
            kept: as in the constructor, of the same sizes.
            direction: likewise.
        """
        if self._holder() is not holder:
            _copy(self._kept, kept)
            self._holder = weakref.ref(holder)
        _copy(self._direction, direction)
        self._run()
        return self._results


def _copy(buffers: Sequence[Any], values: Sequence[Any]) -> None:
    pairs = [(b, v) for b, v in zip(buffers, values, strict=True) if isinstance(b, Tensor)]
    torch._foreach_copy_([buffer for buffer, _ in pairs], [value for _, value in pairs])


class Recordings:
    """Keep the recordings of one function, by batch size.

    Args:
        record: how; see `CudaGraphs`.
    """

    def __init__(self, record: Recorder) -> None:
        self.record = record
        # None: recording this size failed, and is not tried again.
        self._made: dict[int, Replay | None] = {}
        _everywhere.add(self)

    @property
    def nbytes(self) -> int:
        """Return the bytes that the recordings keep."""
        return sum(made.nbytes for made in self._made.values() if made is not None)

    def get(
        self,
        size: int,
        function: Callable[[list[Any], list[Tensor]], list[Tensor]],
        kept: Sequence[Any],
        direction: Sequence[Tensor],
    ) -> Replay | None:
        """Return the recording of a size, made at the first call; None where there can be none.

        Args:
            size: of the batch.
            function: see `Replay`.
            kept: see `Replay`.
            direction: see `Replay`, at least one tensor.
        """
        if size not in self._made:
            # What it runs in comes on top: as much again, as a product's intermediates are.
            needed = 2 * storage_bytes([*kept, *direction])
            if self.nbytes + needed > default_budget(direction[0].device):
                self.free()
            try:
                self._made[size] = Replay(function, kept, direction, record=self.record)
            except RuntimeError as error:
                self._made[size] = None
                reason = "out of memory" if is_out_of_memory(error) else first_line(error)
                log.warning(
                    "products: batches of %d samples are launched kernel by kernel, because they "
                    "could not be recorded: %s", size, reason,
                )  # fmt: skip
        return self._made[size]

    def free(self) -> None:
        """Give the recordings back; what could not be recorded is remembered."""
        self._made = {size: None for size, made in self._made.items() if made is None}


_everywhere: weakref.WeakSet[Recordings] = weakref.WeakSet()


def free_recordings() -> bool:
    """Give all recordings of this process back; they are made anew when they are needed.

    Returns:
        Whether there were any.
    """
    held = [recordings for recordings in _everywhere if recordings.nbytes]
    for recordings in held:
        recordings.free()
    return bool(held)


def replayed_size(program: TracedProgram, objective: Objective) -> int | None:
    """Return the size to fill a row up to and record; None where a product is run as it is.

    Rows of several batches would copy what each needs into the buffers for every product.
    """
    alone = objective.largest == objective.n
    if objective.vector.device.type != "cuda" or not (alone and program.elements):
        return None
    return recorded_size(objective.n)


class Replayed(Traced):
    """Fill a batch up to a size, with samples of weight 0, and replay products of that size.

    Args:
        program: the recording of the two halves.
        objective: whose batch it is.
        batch: one of its batches.
        exact: see `Traced`.
        size: samples that it is filled up to.
        recordings: of this program's products.
    """

    def __init__(
        self,
        program: TracedProgram,
        objective: Objective,
        batch: Batch,
        *,
        exact: bool = False,
        size: int,
        recordings: Recordings,
    ) -> None:
        self.size, self._recordings = size, recordings
        super().__init__(program, objective, batch, exact=exact)

    def _given(self, inputs: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        if self.size <= len(targets):
            return inputs, targets, weights
        none = weights.new_zeros(self.size - len(targets))
        return _filled(inputs, self.size), _filled(targets, self.size), torch.cat([weights, none])

    def _tangent(self, parts: list[Tensor]) -> list[Tensor]:
        replay = self._recordings.get(self.size, self._program.product, self._values, parts)
        return super()._tangent(parts) if replay is None else replay(self, self._values, parts)


def _filled(batch: Tensor, size: int) -> Tensor:
    """The batch with its first sample repeated up to a size, in its memory layout."""
    copies = batch[:1].expand(size - len(batch), *batch.shape[1:])
    filled = torch.cat([batch, copies])
    if batch.dim() == 4 and batch.is_contiguous(memory_format=torch.channels_last):
        return filled.contiguous(memory_format=torch.channels_last)
    return filled


class CudaGraphs:
    """Capture functions' kernels on the current CUDA device; a `Recorder`.

    All captures of one recorder share a pool of memory, so at most one of them may run at a time.

    Args:
        stream: where to capture; None takes one of torch's. Captures that are to run at once need
            a recorder and a stream each: libraries keep their scratch memory by stream.
        warm_ups: calls beforehand, in which libraries choose kernels and workspaces.
    """

    def __init__(self, *, stream: torch.cuda.Stream | None = None, warm_ups: int = 2) -> None:
        self._stream, self._warm_ups = stream, warm_ups
        self._pool: Any = None

    def __call__(
        self, function: Callable[[], list[Tensor]]
    ) -> tuple[list[Tensor], Callable[[], None]]:
        """See `Recorder`.

        Raises:
            RuntimeError: it does something that cannot be captured, or memory ran out.
        """
        outside = torch.cuda.current_stream()
        aside = self._stream or torch.cuda.Stream()
        aside.wait_stream(outside)
        with torch.cuda.stream(aside):
            for _ in range(self._warm_ups):
                function()
        outside.wait_stream(aside)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        try:
            # No other thread may use the device meanwhile ("global"): autograd's own takes part.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                results = function()
        except BaseException:
            # Where ending the capture fails too, torch leaves its stream and its pool in use.
            torch.cuda.set_stream(outside)
            _stop_allocating(self._pool)
            self._pool = None
            raise
        return results, graph.replay


def _stop_allocating(pool: Any) -> None:
    """Take a pool out of use that a failed capture may have left in it."""
    # It may not be in use, and not every torch has such a call.
    with contextlib.suppress(RuntimeError, AttributeError):
        torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
