"""Fig. 4's layout: λ_ratio by method for all samples, the most frequent class and a tail class.

The paper shows bars of point values from one network each. Here every measured network is a
point with the bounds of its own eigenvalues, so that one sees which differences the numerics
support, and training seeds lie side by side, so that one sees which differences the training
does.
"""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from saddlescope.palette import method_style
from saddlescope.reporting.figures.canvas import (
    RATIO_LABEL,
    WIDTH,
    drawable,
    new_figure,
    value_scale,
)
from saddlescope.reporting.figures.marks import draw_values, state_handles
from saddlescope.reporting.figures.picture import Drawing, Picture
from saddlescope.reporting.selection import Panel, Selection, spread
from saddlescope.reporting.text import method_label, number


def _draw(chosen: Selection, *, stacked: bool = False) -> Drawing | str:
    """Draw λ_ratio by method in up to three panels, each with a scale of its own."""
    panels, methods = chosen.panels, chosen.methods
    if not panels:
        return "No spectrum was measured."
    points = max(len(_points(chosen, panel, method)) for panel in panels for method in methods)
    row = 0.26 + 0.06 * min(points, 8)
    height = 0.75 + row * len(methods)
    if stacked:
        figure = new_figure(WIDTH / 2, height * len(panels) + 0.2)
    else:
        figure = new_figure(WIDTH, height + 0.35)
    shape = (len(panels), 1) if stacked else (1, len(panels))
    grid = figure.subplots(*shape, sharey=not stacked, squeeze=False).ravel()
    for axes, panel in zip(grid, panels, strict=True):
        draw_panel(axes, chosen, panel, methods)
    shown = {verdict for panel in panels for verdict in panel_rows(chosen, panel)["verdict"]}
    handles = state_handles(shown)
    if handles:
        figure.legend(handles=handles, loc="outside upper right", ncols=1 if stacked else 2)
    return Drawing(figure, chosen.scope())


fig4 = Picture(
    name="fig4",
    draw=_draw,
    caption="λ_ratio by method, in the layout of the paper's Fig. 4: all samples, the most "
    "frequent class and a tail class. Points are networks, horizontal bars the bounds of their "
    "eigenvalues; each panel has a scale of its own.",
    needs="spectra",
    narrow=partial(_draw, stacked=True),
    section="ratio",
)


def draw_panel(axes: Axes, chosen: Selection, panel: Panel, methods: Sequence[str]) -> None:
    """Draw one panel: a row for each method, a point for each network and start."""
    rows = panel_rows(chosen, panel)
    bounds = rows[["lambda_ratio", "lambda_ratio_lower", "lambda_ratio_upper"]]
    room = not np.isfinite(bounds["lambda_ratio_upper"].to_numpy(dtype=float)).all()
    value_scale(axes, bounds.to_numpy(dtype=float).ravel(), axis="x", room=room)
    for y, method in enumerate(methods):
        points = _points(chosen, panel, method)
        if points.empty:
            _remark(axes, y, "not measured")
            continue
        step = 0.5 / max(len(points), 3)
        anchors = draw_values(
            axes,
            y + step * (np.arange(len(points)) - (len(points) - 1) / 2),
            points,
            "lambda_ratio",
            style=method_style(method),
            size=5 if len(points) == 1 else 3.5,
            horizontal=True,
        )
        if len(points) == 1:
            _label(axes, anchors[0], y, str(points["verdict"].iloc[0]))
    axes.set_yticks(range(len(methods)), [drawable(method_label(m)) for m in methods])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(methods) - 0.5, -0.6)
    axes.grid(visible=False, axis="y")
    axes.set_title(f"{panel.title} (n = {spread(rows['n'].dropna().astype(int))})")
    axes.set_xlabel(RATIO_LABEL, parse_math=True)


def _label(axes: Axes, anchor: float, y: float, verdict: str) -> None:
    """Write the number over its mark, or the verdict where there is no number."""
    if math.isnan(anchor):
        _remark(axes, y, verdict)
        return
    text = number(anchor) if verdict != "unresolved" else f"unresolved, ≥ {number(anchor)}"
    right = axes.transAxes.inverted().transform(axes.transData.transform((anchor, y)))[0] > 0.75
    axes.annotate(
        text,
        (anchor, y),
        xytext=(6 if right and len(text) > 8 else 0, 5),
        textcoords="offset points",
        ha="right" if right and len(text) > 8 else "center",
        fontsize=6.5,
    )


def _remark(axes: Axes, y: float, text: str) -> None:
    """Say in words why a row has no mark."""
    across = axes.get_yaxis_transform()
    axes.text(0.02, y, drawable(text), transform=across, va="center", fontsize=6.5)


def panel_rows(chosen: Selection, panel: Panel) -> pd.DataFrame:
    """Return the rows of one panel, every network and start."""
    rows = chosen.rows
    return rows[(rows["kind"] == panel.kind) & (rows["name"] == panel.name)]


def _points(chosen: Selection, panel: Panel, method: str) -> pd.DataFrame:
    rows = panel_rows(chosen, panel)
    return rows[rows["method"] == method].sort_values(["index", "seed"], kind="stable")
