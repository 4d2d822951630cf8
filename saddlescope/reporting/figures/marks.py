"""The marks of a bounded eigenvalue: a point, its interval, and honest shapes for what is open.

Filled: negative curvature resolved. Open: not converged, or λ_min above zero. Open with an arrow:
unresolved, λ_min's interval touches zero, so that λ_ratio has a lower bound and no upper one.
"""

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.path import Path as Outline

from saddlescope.palette import MethodStyle, method_style
from saddlescope.reporting.figures.canvas import drawable
from saddlescope.reporting.text import method_label

RESOLVED: Final = "negative-curvature"

_GREY: Final = "#6b7075"
_ARROW: Final = Outline([(-1, 0), (1, 0), (0.3, 0.5), (1, 0), (0.3, -0.5)], [1, 2, 2, 1, 2])


def draw_values(
    axes: Axes,
    positions: np.ndarray,
    rows: pd.DataFrame,
    quantity: str,
    *,
    style: MethodStyle,
    size: float = 5,
    horizontal: bool = False,
) -> np.ndarray:
    """Draw values with their intervals and return where the markers stand (NaN: nowhere).

    Args:
        axes: Where; its scale and limits must be set before.
        positions: One for each row, on the axis of methods or classes.
        rows: Columns `quantity`, its `_lower` and `_upper`, and `verdict`, which decides between
            filled and open. Without a finite upper bound an arrow leaves the lower one.
        quantity: Such as `lambda_ratio`.
        style: The method's.
        size: Marker size in points; intervals get end caps when there is room for them.
        horizontal: Values run along x instead of y.
    """
    value, lower, upper = (
        rows[quantity + end].to_numpy(dtype=float) for end in ("", "_lower", "_upper")
    )
    verdict = rows["verdict"].to_numpy(dtype=str)
    ratio = quantity == "lambda_ratio"
    bounded = np.isfinite(upper) & np.isfinite(value) & ~(ratio & (verdict == "unresolved"))
    anchors = np.where(bounded, value, lower)
    anchors[~np.isfinite(anchors)] = np.nan
    below = np.nan_to_num(np.maximum(anchors - lower, 0), posinf=0)
    above = np.where(bounded, np.nan_to_num(np.maximum(upper - anchors, 0), posinf=0), 0)
    # Where λ_min itself is drawn the zero line shows what is unresolved; only ratios open up.
    opened = (verdict != RESOLVED) if ratio else (verdict == "not-converged")
    for face, chosen in ((style.color, ~opened), ("#ffffff", opened)):
        chosen = chosen & np.isfinite(anchors)
        if not chosen.any():
            continue
        error: dict[str, Any] = {"xerr" if horizontal else "yerr": [below[chosen], above[chosen]]}
        place = (positions[chosen], anchors[chosen])
        axes.errorbar(
            *(reversed(place) if horizontal else place),
            **error,
            color=style.color,
            marker=style.marker,
            markersize=size,
            markerfacecolor=face,
            elinewidth=1.0,
            capsize=size / 2 if size > 3 else 0,
            linestyle="none",
            zorder=3,
        )
    for number in np.flatnonzero(~bounded & np.isfinite(anchors)):
        _arrow(axes, positions[number], anchors[number], style, size, horizontal=horizontal)
    return anchors


def state_handles(verdicts: Iterable[str]) -> list[Line2D]:
    """Make legend entries for the open shapes that occur; none when everything is resolved."""
    found = set(verdicts)
    handles = []
    if "unresolved" in found:
        label = "arrow: unresolved, a lower bound only"
        handles.append(_handle(_ARROW, label, 12))
    if found & {"not-converged", "positive"}:
        handles.append(_handle("o", "open: not converged, or λ_min > 0"))
    return handles


def method_handles(methods: Iterable[str], *, lines: bool = False) -> list[Line2D]:
    """Make legend entries of the methods, as points or as lines."""
    handles = []
    for method in methods:
        style = method_style(method)
        handles.append(
            Line2D(
                [],
                [],
                color=style.color,
                marker=style.marker,
                linestyle=style.dashes if lines else "none",
                label=drawable(method_label(method)),
            )
        )
    return handles


def _handle(marker: str | Outline, label: str, size: float | None = None) -> Line2D:
    return Line2D(
        [], [], linestyle="none", color=_GREY, markerfacecolor="none", marker=marker,
        markersize=size, label=label,
    )  # fmt: skip


def _arrow(
    axes: Axes, position: float, anchor: float, style: MethodStyle, size: float, *, horizontal: bool
) -> None:
    # The head of "<|-" is at the text's end, which is the one given as an offset.
    axes.annotate(
        "",
        xy=(anchor, position) if horizontal else (position, anchor),
        xytext=(20, 0) if horizontal else (0, 15),
        textcoords="offset points",
        arrowprops={"arrowstyle": "<|-", "color": style.color, "lw": 1, "shrinkB": size / 2},
        annotation_clip=False,
        zorder=2.5,
    )
