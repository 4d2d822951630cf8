"""Batches that are the same in every pass: kept in memory, or read anew and compared.

A data loader may shuffle, drop the last batch or augment; every pass over it may then be another
set of samples, and every product one of another matrix. So a source is read once and what it gave
is kept. Where that does not fit, it is read anew each time from the random state of its first
reading, and each batch is held to the checksum that it had then.
"""

import random
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from saddlescope.curvature.objective.batches import map_tensors
from saddlescope.errors import OperatorError, UsageError
from saddlescope.parallel import Ranks

FROZEN = (
    "the data came in another order or with other values when they were read again (shuffling or "
    "augmentation): the first reading was kept, and the matrix is that of this one draw"
)
"""The note on a source that changes."""

ONCE = "the data could be read only once, so that it was not seen whether they are random"
"""The note on an iterator."""

Randomness = Literal["refuse", "frozen"]
"""What to do with data that are others when read again: not measure them, or keep one reading."""

REFUSED = (
    "the data came in another order or with other values when they were read again (shuffling or "
    "augmentation), and randomness is 'refuse': switch it off in the data, or take 'frozen' for "
    "the matrix of one draw"
)

OTHER_SEED = 0x5ADD1E
"""Of the random state that data are read again from."""


@dataclass(frozen=True)
class Reading:
    """Say how the samples of an objective are read.

    Attributes:
        memory_budget: bytes that may be kept of the samples; None takes a share of what is free.
        batch_size: samples that are evaluated together: larger batches are divided, smaller ones
            joined where they are alike. None leaves them as they are. Changes memory and speed.
        randomness: what to do with data that are others when read again: "frozen" keeps the first
            reading, and a note says so; "refuse" does not measure it.

    Raises:
        UsageError: another word for the randomness, or a batch size below 1.
    """

    memory_budget: int | None = None
    batch_size: int | None = None
    randomness: Randomness = "frozen"

    def __post_init__(self) -> None:
        if self.randomness not in get_args(Randomness):
            raise UsageError(f"randomness {self.randomness!r}: expected 'refuse' or 'frozen'")
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(f"batch_size = {self.batch_size}: expected at least 1 sample")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> tuple["Reading", dict[str, Any]]:
        """Take its fields out of keywords; return it and the others."""
        names = {field.name for field in fields(cls)}
        own = {name: value for name, value in options.items() if name in names}
        return cls(**own), {name: options[name] for name in options if name not in names}


@dataclass(frozen=True)
class SharedBatches:
    """Hold this rank's batches of an objective whose others lie on other ranks.

    Attributes:
        batches: iterable of (inputs, targets) as for `Objective`; may be empty on some ranks.
        ranks: who has the others.

    Example:
        On each rank, after `torch.distributed.init_process_group`:

        `H = HessianOperator(model, criterion, SharedBatches(mine, Ranks(group.WORLD)))`
    """

    batches: Iterable[Any]
    ranks: Ranks

    def __post_init__(self) -> None:
        # Read more than once: at each pass that is streamed, and by every check.
        if isinstance(self.batches, Iterator):
            object.__setattr__(self, "batches", list(self.batches))

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


class FixedBatches:
    """Give one reading of a source of batches, the same in every pass.

    Args:
        source: iterable of batches. A list, or samples that lie in memory, is fixed as it is; a
            one-shot iterator is kept whatever it takes.
        budget: bytes that may be kept of any other source.

    Attributes:
        nbytes: what is kept beside the source.
    """

    def __init__(self, source: Iterable[Any], *, budget: int) -> None:
        self.nbytes = 0
        self._source: Iterable[Any] = source
        self._settled = is_fixed(source)
        self._sums: list[int] = []
        self._state = _random_state()
        if self._settled:
            return
        once = isinstance(source, Iterator)
        kept: list[Any] | None = []
        for batch in self._read():
            size, checksum = measured(batch)
            self._sums.append(checksum)
            self.nbytes += size
            if kept is not None and (once or self.nbytes <= budget):
                kept.append(batch)
            else:
                kept = None
        if kept is None:
            self.nbytes = 0
        else:
            self._source, self._settled, self._original = kept, True, None if once else source

    _original: Iterable[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches.

        Raises:
            OperatorError: one differs from what it was in the first reading.
        """
        if self._settled:
            yield from self._source
            return
        count = 0
        for batch in self._read():
            if count == len(self._sums) or measured(batch)[1] != self._sums[count]:
                raise OperatorError(
                    f"batch {count + 1} of the data is not what it was at the first reading, and "
                    "the samples do not fit the memory budget, so that no one reading can be kept: "
                    "switch shuffling and augmentation off, or raise memory_budget"
                )
            yield batch
            count += 1
        if count < len(self._sums):
            raise OperatorError(
                f"the data gave {len(self._sums)} batches at the first reading and {count} now: "
                "switch off what drops or resamples"
            )

    def changes(self) -> bool:
        """Read the source once more, from another random state: does it give other batches?"""
        source = self._original if self._settled else self._source
        if source is None or not self._sums:
            return False
        with random_state(OTHER_SEED):
            state = _random_state()
        again = [measured(batch)[1] for batch in self._read(source, state)]
        return again != self._sums

    def _read(self, source: Iterable[Any] | None = None, state: Any = None) -> Iterator[Any]:
        """One pass from the random state of the first; the caller's own state is left alone."""
        state = self._state if state is None else state
        with _swapped(state):
            batches = iter(self._source if source is None else source)
            state = _random_state()
        while True:
            with _swapped(state):
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                state = _random_state()
            yield batch


def is_fixed(source: Any) -> bool:
    """Return whether every pass gives the same tensors by construction."""
    if isinstance(source, SharedBatches):
        return is_fixed(source.batches)
    return isinstance(source, list | tuple | FixedBatches | Tensor) or bool(
        getattr(source, "fixed", False)
    )


def measured(batch: Any) -> tuple[int, int]:
    """Return bytes and checksum of the tensors in a batch, with their shapes and types."""
    size, checksum = 0, 0

    def see(tensor: Tensor) -> Tensor:
        nonlocal size, checksum
        values = tensor.detach()
        if values.layout != torch.strided:
            values = values.to_dense()
        size += values.numel() * values.element_size()
        label = f"{tuple(values.shape)}{values.dtype}".encode()
        raw = values.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        checksum = zlib.crc32(raw.tobytes(), zlib.crc32(label, checksum))
        return tensor

    map_tensors(batch, see)
    return size, checksum


def _random_state() -> tuple[Any, ...]:
    return torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002 - the one that others draw from


def _set(state: tuple[Any, ...]) -> None:
    torch.set_rng_state(state[0])
    random.setstate(state[1])
    np.random.set_state(state[2])  # noqa: NPY002


@contextmanager
def _swapped(state: tuple[Any, ...]) -> Iterator[None]:
    """Swap in another random state while the block runs."""
    before = _random_state()
    _set(state)
    try:
        yield
    finally:
        _set(before)


@contextmanager
def random_state(seed: int | None) -> Iterator[None]:
    """Leave the random states as they are after the block; inside, begin from a seed if given."""
    with _swapped(_random_state()):
        if seed is not None:
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
        yield
