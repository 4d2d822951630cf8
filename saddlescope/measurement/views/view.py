"""A view: more of a row's matrix than two numbers, kept beside the table (`--with`)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from saddlescope.measurement.directions import UpdateRule
from saddlescope.measurement.settings import Settings, ViewSettings
from saddlescope.measurement.views.row_work import RowWork

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class View:
    """A view. What its columns hold and mean stands under its name in `runs.schema`.

    Attributes:
        compute: From what the row has at hand to the records; the mathematics is curvature's.
        settings: The `settings` column: every option that decides the numbers, and no other.
        gradients: About what it costs, in gradients of the row's samples, by operation count, of
            the options and the products that an iteration for both ends takes; a product costs 2.
        once: What it costs a job besides, in gradients of all samples.
        from_row: Whether it starts from the row's own iteration; else from its matrix alone.
        of_the_loss: Whether it sets the eigenvectors against the loss, whose second derivative is
            the Hessian and no other operator.
    """

    compute: Callable[[RowWork], Records]
    settings: Callable[[Settings, UpdateRule], str]
    gradients: Callable[[ViewSettings, int], float]
    once: float = 0.0
    from_row: bool = False
    of_the_loss: bool = False
