"""Products of a row that take long, on disk until the row is: what a cut leaves of hours.

Lanczos asks for the same products in the same order when it is run again, so it is enough to keep
those: a product is found by the bits of its vector, and the iteration, its bounds and its costs
come out as they did. Of another vector (another machine's rounding, say) nothing is found.

    TABLE.csv.saddlescope-products-DIGEST    records of one size, one after the other

The first record holds the loss and the gradient. A matrix whose loss or gradient is another one is
another matrix, whatever its name, and finds an empty file.
"""

import contextlib
import hashlib
import json
import logging
import math
import shutil
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from saddlescope import __version__
from saddlescope.curvature import NamedOperator, Strategy, SymmetricOperator
from saddlescope.errors import OperatorError, UsageError
from saddlescope.runs import one_writer

log = logging.getLogger("saddlescope.measurement")

WORTH = 1.0
"""Seconds that a matrix must take to build, about one gradient, for its products to be kept."""

_DISK_SHARE = 10
"""A file may take the tenth part of what is free on its disk."""

_KEY, _NUMBER, _CHECK = 32, 8, 4
"""Bytes of a record beside those of its vector."""


class Record(NamedTuple):
    """One record: what it is found by, a number (a cost, the loss) and a vector."""

    key: bytes
    number: float
    vector: Tensor


class ProductsFile:
    """The products of one row on disk, while the row and its views are measured.

    As a context it lets go of the file at the end, and removes it, unless the row was cut. What
    made an `OperatorError` is not kept either: the next run is to see for itself.

    Args:
        table: the spectrum table that the row will stand in; None keeps nothing.
        words: that identify the row and its weights and data. When it stops (`settings`) is of no
            account: its products are the same.
        strategy: kind of product.
    """

    def __init__(self, table: Path | None, words: Mapping[str, Any], strategy: Strategy) -> None:
        made = {"saddlescope": __version__, "torch": torch.__version__, "strategy": strategy}
        words = {key: word for key, word in words.items() if key != "settings"}
        told = made | words
        self._told = _digest(json.dumps(told, sort_keys=True, default=str).encode())
        # Found again when the weights have changed too, so that none is left for ever.
        lasting = {key: word for key, word in words.items() if key != "digest"}
        name = _digest(json.dumps(lasting, sort_keys=True, default=str).encode()).hex()[:12]
        self._path = table and table.with_name(f"{table.name}.saddlescope-products-{name}")
        self._open = contextlib.ExitStack()
        self._file: BinaryIO | None = None
        self._layout: tuple[int, torch.dtype] = 0, torch.float32
        self._places: dict[bytes, int] = {}
        self._room = 0

    def __enter__(self) -> "ProductsFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        done = kind is None or issubclass(kind, OperatorError)
        if self._file is not None and self._path is not None and done:
            self._path.unlink(missing_ok=True)
        self._file = None
        self._open.close()

    @property
    def count(self) -> int:
        """Return how many products are kept."""
        return len(self._places)

    def around(self, build: Callable[[], NamedOperator]) -> NamedOperator:
        """Build a matrix, and let its products be kept where it is slow enough for that."""
        began = time.monotonic()
        built = build()
        matrix, ranks = built.matrix, built.matrix.ranks
        slow = time.monotonic() - began >= WORTH and self._path is not None
        if not ranks.first_says(slow):
            return built
        if ranks.rank == 0:
            self._begin(matrix.size, matrix.dtype, built.base.loss, built.base.gradient)
        return replace(built, matrix=KeptProducts(matrix, self))

    def find(self, vector: Tensor) -> Record | None:
        """Look for the product of a vector."""
        if self._file is None:
            return None
        place = self._places.get(_digest(_bytes(vector)))
        return None if place is None else self._read(self._file, place)

    def keep(self, vector: Tensor, product: Tensor, cost: float) -> None:
        """Add a product, as long as there is room."""
        if self._file is None or self._room <= 0:
            return
        key = _digest(_bytes(vector))
        try:
            place = self._file.seek(0, 2)
            self._file.write(_record(key, cost, product))
            self._file.flush()
        except OSError as error:
            log.warning("%s: products are no longer kept: %s", self._path, error)
            self._room = 0
            return
        self._places[key] = place
        self._room -= 1

    @property
    def _length(self) -> int:
        size, dtype = self._layout
        return _KEY + _NUMBER + size * dtype.itemsize + _CHECK

    def _begin(self, size: int, dtype: torch.dtype, loss: float, gradient: Tensor) -> None:
        """Open the file; what it holds counts if it is of this loss and this gradient."""
        assert self._path is not None
        self._layout = size, dtype
        try:
            self._open.enter_context(one_writer(self._path, patience=0.0))
            if not self._is_of(loss, gradient):
                self._path.unlink(missing_ok=True)
                with open(self._path, "xb") as new:
                    new.write(_record(self._told, loss, gradient))
            file = open(self._path, "r+b")  # noqa: SIM115 - closed with the others
            self._open.callback(file.close)
            count = file.seek(0, 2) // self._length
            file.truncate(count * self._length)  # what a kill has left of the last one
            for place in range(self._length, count * self._length, self._length):
                file.seek(place)
                self._places[file.read(_KEY)] = place
            self._room = shutil.disk_usage(self._path.parent).free // _DISK_SHARE // self._length
            self._file = file
        except (OSError, UsageError) as error:  # another process measures this row
            log.info("%s: products are not kept: %s", self._path, error)

    def _is_of(self, loss: float, gradient: Tensor) -> bool:
        assert self._path is not None
        if self._path.is_symlink() or not self._path.is_file():
            return False
        with open(self._path, "rb") as file:
            first = self._read(file, 0)
        if first is None or first.key != self._told:
            return False
        # Half of the digits: a device that adds up in any order gives others each time.
        share = math.sqrt(torch.finfo(gradient.dtype).eps)
        apart = (first.vector - gradient.cpu()).norm() <= share * gradient.norm().cpu()
        return math.isclose(first.number, loss, rel_tol=share) and bool(apart)

    def _read(self, file: BinaryIO, place: int) -> Record | None:
        """The record at a place; None where it is damaged."""
        file.seek(place)
        raw = bytearray(file.read(self._length))
        if len(raw) < self._length or zlib.crc32(raw[:-_CHECK]) != _integer(raw[-_CHECK:]):
            return None
        size, dtype = self._layout
        number = torch.frombuffer(raw, dtype=torch.float64, count=1, offset=_KEY).item()
        vector = torch.frombuffer(raw, dtype=dtype, count=size, offset=_KEY + _NUMBER)
        return Record(bytes(raw[:_KEY]), number, vector.clone())


class KeptProducts(SymmetricOperator):
    """An operator whose products are kept in a file, and taken from it where they are there.

    Args:
        matrix: the operator.
        file: its products; of ranks that share the samples, rank 0's counts.
    """

    def __init__(self, matrix: SymmetricOperator, file: ProductsFile) -> None:
        self.parts = (matrix,)
        self.size, self.dtype, self.device = matrix.size, matrix.dtype, matrix.device
        self._matrix, self._kept = matrix, file

    def matvec(self, vector: Tensor) -> Tensor:
        """Return A·v for v of shape (n,)."""
        found = self._kept.find(vector)
        ranks = self.ranks
        if ranks.first_says(found is not None):
            product = torch.empty_like(vector) if found is None else found.vector.to(vector)
            self.gradient_cost += 0.0 if found is None else found.number
            return ranks.from_first(product)
        before = self._matrix.gradient_cost
        product = self._matrix.matvec(vector)
        self._kept.keep(vector, product, self._matrix.gradient_cost - before)
        return product

    def reference(self) -> SymmetricOperator | None:
        """Return the same matrix in float64."""
        found = self._matrix.reference()
        return self if found is self._matrix else found

    def product_error(self, vector: Tensor, product: Tensor) -> float | None:
        """Measure ‖(A₃₂ − A₆₄)·v‖; see `SymmetricOperator`."""
        return self._matrix.product_error(vector, product)


def _record(key: bytes, number: float, vector: Tensor) -> bytes:
    told = torch.tensor([number], dtype=torch.float64).numpy().tobytes()
    content = key + told + _bytes(vector)
    return content + zlib.crc32(content).to_bytes(_CHECK, "little")


def _bytes(vector: Tensor) -> bytes:
    return vector.detach().cpu().contiguous().numpy().tobytes()


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _integer(content: bytes | bytearray) -> int:
    return int.from_bytes(content, "little")
