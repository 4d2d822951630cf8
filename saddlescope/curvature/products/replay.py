"""A product recorded once on fixed buffers and replayed.

For small batches a GPU spends a product waiting for launches: a ResNet-32's takes several hundred
kernels of a few microseconds each. A captured CUDA graph launches them as one. It reads and writes
fixed addresses, so whatever a product needs is copied into its buffers first, once for each
linearisation, and the direction for each product.

Everything but `cuda_graph` is independent of the device.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Recorder = Callable[[Callable[[], list[Tensor]]], tuple[list[Tensor], Callable[[], None]]]
"""Runs a function once; returns its results and how to compute them anew, in place."""

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Batch sizes that are recorded. A batch is filled up to the next one with samples of weight 0, at
most a half more, so that 100 classes of different sizes need few recordings."""


def recorded_size(count: int) -> int | None:
    """The size a batch is filled up to; None where it is too large to wait for launches."""
    return next((size for size in SIZES if size >= count), None)


class Replay:
    """A function of what was kept and of a direction, recorded on buffers of its own.

    Several linearisations may share one: each is copied in when its turn comes.

    Args:
        function: (kept, direction) -> tensors; no host synchronisation, no new sizes.
        kept: tensors and numbers, of the sizes that it will be called with.
        direction: tensors.
        record: how; see `cuda_graph`.
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


def cuda_graph(function: Callable[[], list[Tensor]]) -> tuple[list[Tensor], Callable[[], None]]:
    """Capture a function's kernels on the current CUDA device; see `Recorder`.

    Raises:
        RuntimeError: it does something that cannot be captured.
    """
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(2):  # libraries choose their kernels and workspaces on the first calls
            function()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = function()
    return results, graph.replay
