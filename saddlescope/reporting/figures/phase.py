"""The phase diagram as a figure: both panels, Theorem 1's border, and checkpoints on them."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from saddlescope.reporting.figures.picture import Drawing, Picture
from saddlescope.reporting.selection import Selection

_COLOURS = ("#dfe9f5", "#a9d3b5", "#7fb98f", "#f3dfa2", "#e8b2a0")
_DISTANCE_WORDS = (
    "grows, less than SGD's",
    "shrinks: SAM is drawn in",
    "shrinks, sign alternates",
    "grows less than SGD's, alternates",
    "grows more than SGD's, alternates",
)
_DISPLACEMENT_WORDS = ("smaller than SGD's", "larger than SGD's")
_A, _B = (-7.0, 1.0), (-3.0, 6.0)
"""Powers of ten shown, and more where a point lies beyond."""
_MARKS = {"all": "o", "head": "^", "tail": "v"}


def phase_figure(placed: pd.DataFrame | None = None, *, mu: float = 1.0) -> Figure:
    """Draw both panels; points of one run, group and split are joined in the order of epochs.

    Args:
        placed: rows of `saddlescope.theory.place`, drawn as points; None draws none.
        mu: μ of Theorem 1's border.
    """
    from saddlescope.theory import (
        DISPLACEMENT_REGIONS,
        DISTANCE_REGIONS,
        displacement_region,
        distance_borders,
        distance_region,
        theorem1_border,
    )

    a, b = (
        np.logspace(*_powers(ends, None if placed is None else placed[column]), 400)
        for ends, column in ((_A, "a"), (_B, "b"))
    )
    grid_a, grid_b = np.meshgrid(a, b)
    figure = Figure(figsize=(11.0, 6.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    panels = (
        (left, distance_region(grid_a, grid_b), DISTANCE_REGIONS, _COLOURS),
        (right, displacement_region(grid_b), DISPLACEMENT_REGIONS, (_COLOURS[1], _COLOURS[4])),
    )
    for axes, regions, names, colours in panels:
        axes.pcolormesh(
            a, b, regions, cmap=ListedColormap(list(colours)), vmin=-0.5, vmax=len(names) - 0.5,
            rasterized=True,
        )  # fmt: skip
        axes.plot(a, theorem1_border(a, mu), "k--", lw=1.2)
        axes.set(xscale="log", yscale="log", xlim=a[[0, -1]], ylim=b[[0, -1]])
        axes.set_xlabel("a = η|λ_min|")
        # Plain text: the style of the house rules mathematical markup out.
        axes.xaxis.set_major_formatter(FuncFormatter(_power))
        axes.yaxis.set_major_formatter(FuncFormatter(_power))
    for border in distance_borders(a):
        left.plot(a, border, color="white", lw=0.8)
    left.set_ylabel("b = ρ|λ_min| / ‖∇L‖")
    left.set_title("Distance from the saddle along v_min, one SAM step", fontsize=10)
    right.set_title("Displacement from w₀ along v_min, one SAM step", fontsize=10)
    right.text(3e-7, 30.0, f"above the dashed line Theorem 1\nis possible (μ = {mu:g})", fontsize=8)
    for axes, words, colours, place in (
        (left, _DISTANCE_WORDS, _COLOURS, "outside lower left"),
        (right, _DISPLACEMENT_WORDS, (_COLOURS[1], _COLOURS[4]), "outside lower right"),
    ):
        patches = [Patch(color=c, label=w) for c, w in zip(colours, words, strict=True)]
        figure.legend(handles=patches, loc=place, ncols=2, fontsize=8, frameon=False)  # type: ignore[call-overload]
        _points(axes, placed)
    return figure


def _draw(chosen: Selection) -> Drawing | str:
    placed, left_out = chosen.placing
    note = "; ".join(f"{problem.name} is left out: {problem.reason}" for problem in left_out)
    if chosen.runs and placed.empty:
        return f"No run has a spectrum beside the step it takes. {note}".strip()
    return Drawing(phase_figure(placed if len(placed) else None), note)


phase = Picture(
    name="phase",
    draw=_draw,
    caption="Where measured checkpoints stand: a SAM step near a saddle beside one of SGD, by a = "
    "η|λ_min| and b = ρ|λ_min|/‖∇L‖. Theorem 1 is possible above the dashed line.",
    needs="spectra; nothing",
    section="theory",
    without_runs=True,
)


def _powers(ends: tuple[float, float], values: pd.Series | None) -> tuple[float, float]:
    """Widen a range of powers of ten until it holds every value that has a logarithm."""
    if values is None:
        return ends
    found = values.to_numpy(float)  # of a table without rows they are objects
    found = np.log10(found[(found > 0.0) & np.isfinite(found)])
    return float(np.floor(min([ends[0], *found]))), float(np.ceil(max([ends[1], *found])))


def _power(value: float, _: int) -> str:
    """10⁻³ in letters."""
    exponent = round(np.log10(value))
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _points(axes: Axes, placed: pd.DataFrame | None) -> None:
    if placed is None or placed.empty:
        return
    classes = placed[placed["kind"] == "class"]
    axes.scatter(classes["a"], classes["b"], marker="x", s=10, color="#555555", linewidths=0.6)
    for name, mark in _MARKS.items():
        rows = placed[(placed["kind"] == "group") & (placed["name"] == name)]
        if len(rows):
            for _, path in rows.groupby(["run", "split"]):
                path = path.sort_values("epoch")
                axes.plot(path["a"], path["b"], color="#1b1b1b", linewidth=0.7)
            axes.scatter(rows["a"], rows["b"], marker=mark, s=30, color="#1b1b1b", label=name)
    if len(classes):
        axes.scatter([], [], marker="x", s=10, color="#555555", label="single classes")
    axes.legend(loc="upper right", fontsize=8, framealpha=0.9, title="measured", title_fontsize=8)
