"""Batches cut anew: some of their samples, in batches of another size."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from saddlescope.curvature.objective.batches import map_tensors
from saddlescope.curvature.objective.counting import (
    batch_count,
    chosen,
    divided,
    divisible,
    has_rows,
)
from saddlescope.curvature.objective.sources import is_fixed
from saddlescope.errors import DataError


@dataclass(frozen=True)
class Recut:
    """Yield samples of given batches in batches of at most `size`.

    Small ones that follow each other are joined where their tensors are alike; what is larger is
    divided.

    Attributes:
        source: the batches.
        size: samples of a batch.
        whole: whether a batch is not a pair (inputs, targets).
        picked: positions of the samples over all batches, int64, ascending, some perhaps several
            times; None takes all.
    """

    source: Iterable[Any]
    size: int
    whole: bool = False
    picked: Tensor | None = None

    @property
    def fixed(self) -> bool:
        """Return whether every pass gives the same by construction."""
        return is_fixed(self.source)

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches.

        Raises:
            DataError: one that is to be divided cannot be.
        """
        waiting: list[Any] = []
        held, kind = 0, None
        for part, samples in self._parts():
            own = _kind(part, samples)
            if waiting and (own is None or own != kind or held + samples > self.size):
                yield _joined(waiting)
                waiting, held = [], 0
            waiting.append(part)
            held, kind = held + samples, own
        if waiting:
            yield _joined(waiting)

    def _parts(self) -> Iterator[tuple[Any, int]]:
        """What is picked of each batch, none larger than `size`, with its number of samples."""
        first = 0
        for number, batch in enumerate(self.source):
            samples = batch_count(batch, whole=self.whole)
            rows = None if self.picked is None else self._rows(first, samples)
            first += samples
            taken = samples if rows is None else len(rows)
            if taken == 0:
                continue
            if rows == list(range(samples)):
                rows = None
            if rows is None and samples <= self.size:
                yield batch, samples
                continue
            if not divisible(batch, samples, whole=self.whole):
                raise DataError(
                    f"batch {number + 1} of the data cannot be divided into its {samples} samples: "
                    "its parts must be tensors with one row a sample"
                )
            if rows is not None:
                batch = chosen(batch, samples, rows, whole=self.whole)
            for start, part in zip(
                range(0, taken, self.size),
                divided(batch, taken, self.size, whole=self.whole),
                strict=True,
            ):
                yield part, min(self.size, taken - start)

    def _rows(self, first: int, samples: int) -> list[int]:
        """The rows picked of the batch that begins at a position."""
        assert self.picked is not None
        low, high = torch.searchsorted(self.picked, torch.tensor([first, first + samples])).tolist()
        rows: list[int] = (self.picked[low:high] - first).tolist()
        return rows


def _kind(batch: Any, samples: int) -> Any:
    """What two batches must have in common to be joined; None where they cannot be."""
    parts = batch if isinstance(batch, tuple) else (batch,)
    if not all(part is None or has_rows(part, samples) for part in parts):
        return None
    shapes: list[Any] = []

    def see(tensor: Tensor) -> str:
        shapes.append((tensor.shape[1:], tensor.dtype, tensor.device, tensor.requires_grad))
        return ""

    # What is left are containers, and texts of a whole batch.
    return repr(map_tensors(batch, cast("Any", see), words=lambda _: "")), shapes


def _joined(batches: list[Any]) -> Any:
    """One batch of several of a kind."""
    if len(batches) == 1:
        return batches[0]
    columns: list[list[Any]] = []
    for batch in batches:
        column: list[Any] = []
        map_tensors(batch, _noting(column), words=_noting(column))
        columns.append(column)
    together = (
        torch.cat(parts)
        if isinstance(parts[0], Tensor)
        else [word for part in parts for word in part]
        for parts in zip(*columns, strict=True)
    )

    def following(_: Any) -> Any:
        return next(together)

    return map_tensors(batches[0], following, words=following)


def _noting(column: list[Any]) -> Callable[[Any], Any]:
    def note(leaf: Any) -> Any:
        column.append(leaf)
        return leaf

    return note
