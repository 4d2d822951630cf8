"""The views, one module each, by the names under which `runs.schema` lists their columns."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

from saddlescope.errors import UsageError
from saddlescope.measurement.settings import Settings
from saddlescope.measurement.views.row_work import RowWork
from saddlescope.measurement.views.view import Records, View
from saddlescope.runs import VIEW_COLUMNS

VIEWS: Final[Mapping[str, View]] = {
    name: import_module(f"{__name__}.{name.replace('-', '_')}").VIEW for name in VIEW_COLUMNS
}
"""Every view by name, in the order of computation."""


def check_views(names: Sequence[str], settings: Settings, path: Path | None) -> None:
    """Refuse what cannot be meant.

    Raises:
        UsageError: an unknown view, one that this operator has not, or nowhere to keep it.
    """
    for name in names:
        if name not in VIEWS:
            raise UsageError(f"there is no view {name!r}: choose from {', '.join(VIEWS)}")
        if VIEWS[name].of_the_loss and settings.matrix.operator != "hessian":
            raise UsageError(
                f"the view {name!r} sets eigenvectors against the loss, whose second derivative is "
                f"the Hessian, not {settings.matrix.operator}: leave it out, or the operator"
            )
    if names and path is None:
        raise UsageError("views are files beside the table: name the table with -o")
