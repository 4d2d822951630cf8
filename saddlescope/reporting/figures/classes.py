"""Figures by class: λ_ratio, λ_max and λ_min against the class, with every method's bounds."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saddlescope.palette import method_style
from saddlescope.reporting.figures.canvas import (
    RATIO_LABEL,
    WIDTH,
    new_figure,
    signed_scale,
    value_scale,
)
from saddlescope.reporting.figures.marks import RESOLVED, draw_values, method_handles, state_handles
from saddlescope.reporting.figures.picture import Drawing, Picture
from saddlescope.reporting.selection import WORST_FIRST, Selection

_CROWDED = 1500
"""Marks beyond which a method's networks are drawn as one: nobody can tell so many apart."""


def _draw_ratios(chosen: Selection) -> Drawing | str:
    """Draw λ_ratio against the class, one mark for each network, start and class."""
    if not chosen.names("class"):
        return "No class was measured."
    figure = new_figure(WIDTH, 3.3)
    axes = figure.subplots()
    draw_classes(axes, chosen, "lambda_ratio")
    axes.set_ylabel(RATIO_LABEL, parse_math=True)
    _legend(figure, chosen)
    states = state_handles(chosen.rows.loc[chosen.rows["kind"] == "class", "verdict"])
    if states:
        axes.legend(handles=states, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    return Drawing(figure, _note(chosen))


ratio_by_class = Picture(
    name="ratio",
    draw=_draw_ratios,
    caption="λ_ratio of every class, from the most frequent to the rarest, with bounds.",
    needs="spectra of classes",
    section="classes",
)


def _draw_extremes(chosen: Selection) -> Drawing | str:
    """Draw λ_max above and λ_min below, against the class.

    λ_min's axis is linear, or symmetric-logarithmic where its values span more than a factor of
    twenty; the line at zero separates negative from positive curvature.
    """
    if not chosen.names("class"):
        return "No class was measured."
    figure = new_figure(WIDTH, 4.8)
    upper, lower = figure.subplots(2, 1, sharex=True)
    _draw(upper, chosen, "lambda_max")
    upper.set_ylabel(r"$\lambda_\mathrm{max}$", parse_math=True)
    _draw(lower, chosen, "lambda_min")
    lower.axhline(0, color="#6b7075", linewidth=0.8, zorder=2)
    lower.set_ylabel(r"$\lambda_\mathrm{min}$", parse_math=True)
    _class_axis(lower, chosen)
    _legend(figure, chosen)
    return Drawing(figure, _note(chosen))


extremes_by_class = Picture(
    name="extremes",
    draw=_draw_extremes,
    caption="The largest (above) and the smallest (below) eigenvalue of every class, with bounds.",
    needs="spectra of classes",
    section="classes",
)


def draw_classes(axes: Axes, chosen: Selection, quantity: str) -> None:
    """Draw a quantity against the class, with the axis of classes under it."""
    _draw(axes, chosen, quantity)
    _class_axis(axes, chosen)


def _draw(axes: Axes, chosen: Selection, quantity: str) -> None:
    """Marks with bounds, side by side within a class, joined by a faint line for each network."""
    names = chosen.names("class")
    rows = chosen.rows[chosen.rows["kind"] == "class"]
    every = rows[[quantity, f"{quantity}_lower", f"{quantity}_upper"]].to_numpy(dtype=float)
    if quantity == "lambda_min":
        signed_scale(axes, every.ravel())
    else:
        value_scale(axes, every.ravel(), axis="y", room=not np.isfinite(every).all())
    shown = _condensed(rows, quantity) if _crowded(chosen) else _by_network(rows)
    step = min(0.14, 0.72 / len(shown))
    for place, (method, own) in enumerate(shown):
        own = own.assign(x=[names.index(name) for name in own["name"]])
        own = own.sort_values("x", kind="stable")
        style = method_style(method)
        x = own["x"].to_numpy(dtype=float) + step * (place - (len(shown) - 1) / 2)
        size = 4.5 if len(names) <= 20 else 2.5
        y = draw_values(axes, x, own, quantity, style=style, size=size)
        # A line through a lower bound would draw a trend that nobody measured.
        resolved = own["verdict"].to_numpy(dtype=str) == RESOLVED
        broken = y if quantity != "lambda_ratio" else np.where(resolved, y, np.nan)
        axes.plot(x, broken, color=style.color, linewidth=0.7, alpha=0.45, zorder=2)


def _crowded(chosen: Selection) -> bool:
    """Whether there are too many networks for a mark each."""
    return bool((chosen.rows["kind"] == "class").sum() > _CROWDED)


def _note(chosen: Selection) -> str:
    crowd = " · marks: median of a method's networks, bars: hull of their bounds"
    return chosen.scope() + (crowd if _crowded(chosen) else "")


def _by_network(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Method and rows of each network."""
    ordered = rows.sort_values(["index", "seed"], kind="stable")
    return [(str(own["method"].iloc[0]), own) for _, own in ordered.groupby("index")]


def _condensed(rows: pd.DataFrame, quantity: str) -> list[tuple[str, pd.DataFrame]]:
    """Each method's networks as one: the most cautious verdict, the hull of the bounds."""
    shown = []
    for method in dict.fromkeys(rows.sort_values("index")["method"]):
        classes = []
        for name, own in rows[rows["method"] == method].groupby("name", sort=False):
            values = own[[quantity, f"{quantity}_lower", f"{quantity}_upper"]].astype(float)
            verdicts = set(own["verdict"])
            classes.append(
                {
                    "name": name,
                    quantity: values[quantity].median(),
                    f"{quantity}_lower": values[f"{quantity}_lower"].min(),
                    f"{quantity}_upper": values[f"{quantity}_upper"].max(),
                    "verdict": next((v for v in WORST_FIRST if v in verdicts), min(verdicts)),
                }
            )
        shown.append((str(method), pd.DataFrame(classes)))
    return shown


def _class_axis(axes: Axes, chosen: Selection) -> None:
    """Number and training size of each class, thinned where there are many."""
    names = chosen.names("class")
    sizes = chosen.class_sizes
    step = 1 if len(names) <= 20 else 10
    ticks = list(range(0, len(names), step))
    labels = []
    for tick in ticks:
        name = names[tick]
        size = sizes.get(name)
        labels.append(name if size is None else f"{name}\n{size}")
    axes.set_xticks(ticks, labels)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_xlabel("class, and under it its training samples")
    axes.grid(visible=False, axis="x")


def _legend(figure: Figure, chosen: Selection) -> None:
    figure.legend(handles=method_handles(chosen.methods), loc="outside upper left", ncols=5)
