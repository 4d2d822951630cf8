"""What is known of a view before it is computed: whether it can be, its settings, its cost."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from saddlescope.errors import UsageError
from saddlescope.measurement.directions import UpdateRule
from saddlescope.measurement.settings import Settings, ViewSettings
from saddlescope.runs import VIEW_COLUMNS

HESSIAN_ONLY: Final = ("slices", "plane", "alignments", "split")
"""Views that set the eigenvectors against the loss, whose second derivative is the Hessian."""

BELOW: Final = 0.01
"""A split counts as curving down what lies below −0.01·λ_max."""

FLOAT64: Final = 4.0
"""Gradients in float32 that one in float64 takes, about, where there are convolutions."""

SECOND_DIFFERENCE: Final = 60
"""Losses that a measured second difference takes, about."""


def check_views(views: Sequence[str], settings: Settings, path: Path | None) -> None:
    """Refuse what cannot be meant.

    Raises:
        UsageError: an unknown view, one that this operator has not, or nowhere to keep it.
    """
    for view in views:
        if view not in VIEW_COLUMNS:
            raise UsageError(f"there is no view {view!r}: choose from {', '.join(VIEW_COLUMNS)}")
        if view in HESSIAN_ONLY and settings.matrix.operator != "hessian":
            raise UsageError(
                f"the view {view!r} sets eigenvectors against the loss, whose second derivative is "
                f"the Hessian, not {settings.matrix.operator}: leave it out, or the operator"
            )
    if views and path is None:
        raise UsageError("views are files beside the table: name the table with -o")


def view_settings(view: str, settings: Settings, options: ViewSettings, rule: UpdateRule) -> str:
    """The `settings` column of a view: every option that decides its numbers, and no other."""
    row, stop = settings.column(), settings.stop
    return {
        "density": f"steps={options.steps} probes={options.density_probes}",
        "trace": f"probes={options.trace_probes}",
        "eigenvalues": (
            f"k={options.k} rtol={stop.rtol:g} atol={stop.floor:g} "
            f"confidence={stop.confidence:g} max_matvecs={stop.max_matvecs}"
        ),
        "kato-temple": row,
        "eigenvectors": row,
        "slices": f"{row} radius={options.radius:g} points={options.points}",
        "plane": f"{row} radius={options.radius:g} points={options.plane_points}",
        "alignments": f"{row} {rule.column()} batchnorm=eval",
        "split": f"{row} steps={options.steps} below={BELOW:g}",
        "bootstrap": f"{row} resamples={options.resamples} level={options.level:g}",
    }[view]


def expected_gradients(view: str, options: ViewSettings, *, products: int) -> float:
    """About what a view costs, in gradients of the row's samples, by operation count.

    Args:
        view: which.
        options: how.
        products: that an iteration for both ends takes, about; a product costs 2 gradients.
    """
    return {
        "density": 2.0 * options.steps * options.density_probes,
        "trace": 2.0 * options.trace_probes,
        "eigenvalues": 2.0 * 2.0 * 2.0 * max(products, 2 * options.k),
        "kato-temple": 2.0 * products,
        "eigenvectors": 0.0,
        "slices": 2.0 * (options.points + SECOND_DIFFERENCE) / 3.0,
        "plane": options.plane_points**2 / 3.0,
        "alignments": 1.0,
        "split": 2.0 * options.steps + FLOAT64 * (2.0 + 3.0 * (2.0 + 7.0 / 3.0)) + 5.0,
        "bootstrap": options.resamples * (2.0 * products + 2.0),
    }[view]
