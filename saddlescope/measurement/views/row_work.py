"""One row of a job: its matrix and its two ends, made once and shared by the row and its views."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from saddlescope.curvature import (
    Ends,
    NamedOperator,
    Search,
    SpectrumRow,
    Subset,
    SymmetricOperator,
    derived_seed,
    measure_operator,
    subset_operator,
)
from saddlescope.measurement.directions import Direction
from saddlescope.measurement.kept_products import ProductsFile
from saddlescope.measurement.settings import Settings
from saddlescope.measurement.target import Target


@dataclass(eq=False)
class RowWork:
    """One row of a job, and what its views share; each part is made when a view asks for it.

    Attributes:
        target: what is measured.
        subset: of which samples.
        seed: of the table.
        settings: of the row; its matrix holds the traced products of the job.
        directions: gives the update directions of the job.
        check: called after every product; raises to stop the job.
        folder: of the views' files; None keeps no views.
        products: keeps the products of the matrix until all is done.
    """

    target: Target
    subset: Subset
    seed: int
    settings: Settings
    directions: Callable[[], tuple[Direction, ...]]
    check: Callable[[int, float, float], None]
    folder: Path | None
    products: ProductsFile

    @cached_property
    def built(self) -> NamedOperator:
        """The row's matrix."""
        target, matrix = self.target, self.settings.matrix
        return self.products.around(
            lambda: subset_operator(
                target.model, target.criterion, target.samples, self.subset, matrix
            )
        )

    @cached_property
    def measured(self) -> SpectrumRow:
        """The row with its eigenvectors; the same numbers as in the table."""
        return self.measure(eigenvectors=True)

    @property
    def ends(self) -> Ends:
        """Both ends, with eigenvectors."""
        return self.measured.ends

    def measure(self, *, eigenvectors: bool) -> SpectrumRow:
        """Measure the row of the table."""
        search = Search(seed=self.seed, progress=self.check, eigenvectors=eigenvectors)
        row = measure_operator(self.built, self.subset, self.settings.stop, search)
        if row.dtype != str(self.built.matrix.dtype).removeprefix("torch."):
            self.built = self.built.in_double() or self.built  # for the views too
        if eigenvectors:
            self.measured = row
        return row

    def own_seed(self, view: str) -> int:
        """Return the seed of a view of this row."""
        return derived_seed(self.seed, view, self.subset.kind, self.subset.name)

    def count(self, compute: Callable[[Any], Any]) -> tuple[Any, float]:
        """Run something on the matrix, and count the gradients that it spends."""
        matrix = self.built.matrix
        matrix.gradient_cost = 0.0
        found = compute(_Watched(matrix, self.check))
        return found, round(matrix.gradient_cost, 2)


class _Watched(SymmetricOperator):
    """An operator that lets a job stop after each of its products."""

    def __init__(
        self, matrix: SymmetricOperator, check: Callable[[int, float, float], None]
    ) -> None:
        self.parts = (matrix,)
        self.size, self.dtype, self.device = matrix.size, matrix.dtype, matrix.device
        self._matrix, self._after, self._products = matrix, check, 0

    def matvec(self, vector: Tensor) -> Tensor:
        product = self._matrix.matvec(vector)
        self._products += 1
        self._after(self._products, float("nan"), float("nan"))
        return product

    def reference(self) -> SymmetricOperator | None:
        return self._matrix.reference()

    def product_error(self, vector: Tensor, product: Tensor) -> float | None:
        return self._matrix.product_error(vector, product)
