"""The figures of the study, from the table that study_results.py gathers."""

from collections.abc import Callable
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from saddlescope.palette import OTHER, MethodStyle, method_style

ARMS: Final = {
    "sgd": "SGD",
    "sam": "SAM",
    "imbsam": "ImbSAM",
    "sam-ext": "SAM (ext.)",
    "sse-sam": "SSE-SAM",
    "sgd-then-imbsam": "SGD, then ImbSAM",
    "sam-ext-then-sgd": "SAM (ext.), then SGD",
    "epochs204-sgd": "SGD, 204 epochs",
}
"""What the name of a run says between "study-" and "-seedN", in the order of the tables."""

OWN_STYLES: Final = {
    "sgd-then-imbsam": OTHER,
    "sam-ext-then-sgd": MethodStyle("#6a4c93", "#a98fd0", "X", (0, (3, 1.5, 1, 1.5)), "oo"),
    "epochs204-sgd": MethodStyle("#8c6d31", "#c9a95f", "*", (0, (1, 2)), "--"),
}
"""Of the arms that are no method of the paper."""

ROWS: Final = ("all", "0", "4", "7", "9", "tail")
SWITCH: Final = 42
GREY: Final = "#6b7075"


def arm_style(arm: str) -> MethodStyle:
    """Return the style of an arm."""
    return OWN_STYLES.get(arm) or method_style(arm)


def at_the_end(rows: pd.DataFrame, operator: str = "hessian", split: str = "train") -> pd.DataFrame:
    """Choose the rows of last epochs, in the order of the tables."""
    last = rows[(rows.operator == operator) & (rows.split == split) & (rows.checkpoint == "last")]
    keys = {"place": last.name.map(ROWS.index), "order": last.arm.map(list(ARMS).index)}
    return last.assign(**keys).sort_values(["place", "order", "seed"])


def in_order(arms: pd.Series) -> list[str]:
    """Return the arms that are there, in the order of the tables."""
    return [arm for arm in ARMS if arm in set(arms)]


def title(name: str) -> str:
    """Name a row as the page does."""
    return name if name in ("tail", "all") else f"class {name}"


def ratio_figure(rows: pd.DataFrame) -> Figure:
    """Draw λ_ratio by row and method: a mark and interval a seed, a line for the geometric mean."""
    last = at_the_end(rows)
    arms, names = in_order(last.arm), [name for name in ROWS if name in set(last.name)]
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(arms)
    for place, name in enumerate(names):
        for index, arm in enumerate(arms):
            own, style = last[(last.name == name) & (last.arm == arm)], arm_style(arm)
            if own.empty:
                continue
            centre = place + (index - (len(arms) - 1) / 2) * width
            mean = float(np.exp(np.log(own.lambda_ratio).mean()))
            axes.plot(centre + np.array([-0.4, 0.4]) * width, [mean, mean], color=style.color)
            ends = own[["lambda_ratio_lower", "lambda_ratio_upper"]].to_numpy().T
            shift = width * (np.linspace(-0.2, 0.2, len(own)) if len(own) > 1 else np.zeros(1))
            axes.errorbar(
                centre + shift,
                own.lambda_ratio,
                np.abs(ends - own.lambda_ratio.to_numpy()),
                linestyle="none",
                marker=style.marker,
                color=style.color,
                markersize=4.5,
                label=ARMS[arm] if name == "9" else None,  # measured of every run
            )
    axes.set_xticks(range(len(names)), [title(name) for name in names])
    axes.set_ylabel("λ_ratio = |λ_max/λ_min|")
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside upper center", ncols=min(len(arms), 5))
    return figure


def gradient_figure(rows: pd.DataFrame) -> Figure:
    """Draw λ_max against ‖∇L‖²/L, with the band of H2."""
    last = at_the_end(rows)
    figure = Figure(figsize=(4.2, 3.6), layout="constrained")
    axes = figure.subplots()
    ends = np.array([last.gradient_loss.min() / 1.4, last.gradient_loss.max() * 1.4])
    axes.fill_between(ends, ends / 1.25, ends * 1.25, alpha=0.12, color=GREY, lw=0)
    axes.plot(ends, ends, color=GREY, lw=0.8)
    _points(axes, last, "gradient_loss", "lambda_max")
    axes.set(xlabel="‖∇L‖²/L of the row", ylabel="λ_max; the band is ± 25 %")
    _logarithmic(axes, "x")
    _logarithmic(axes, "y")
    axes.legend()
    return figure


def matched_figure(rows: pd.DataFrame) -> Figure:
    """Draw λ_ratio against the loss of every row, so that methods are seen at equal losses."""
    last = at_the_end(rows)
    figure = Figure(figsize=(4.6, 3.6), layout="constrained")
    axes = figure.subplots()
    _points(axes, last, "loss", "lambda_ratio")
    axes.set(xlabel="loss L of the row", ylabel="λ_ratio")
    _logarithmic(axes, "x")
    _logarithmic(axes, "y", between=(2, 3, 4))
    axes.legend()
    return figure


def split_figure(rows: pd.DataFrame) -> Figure:
    """Draw λ_min (first seed) as the sum of two parts, and what is left at SAM's distance."""
    last = at_the_end(rows).dropna(subset=["min_gauss_newton"])
    last = last[last.seed == last.seed.min()]
    figure = Figure(figsize=(7.2, 1.0 + 0.17 * len(last)), layout="constrained")
    axes = figure.subplots()
    y = np.arange(len(last))[::-1]
    axes.barh(y, last.min_gauss_newton, color="#0072b2", label="Gauss-Newton, v_minᵀGv_min")
    axes.barh(y, last.min_remainder, color="#d55e00", label="remainder, v_minᵀRv_min")
    axes.plot(last.lambda_min, y, "k|", markersize=9, label="λ_min")
    axes.plot(last.curvature_005, y, "ko", mfc="none", ms=4, label="second difference at 0.05")
    axes.axvline(0.0, color=GREY, lw=0.8)
    labels = [f"{title(row.label)}, {ARMS[row.arm]}, seed {row.seed}" for row in _records(last)]
    axes.set_yticks(y, labels, fontsize=7)
    axes.set_xlabel("curvature along v_min")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def way_figure(rows: pd.DataFrame) -> Figure | None:
    """Draw λ_max, |λ_min| and λ_ratio along a run of each method, with SSE-SAM's switch."""
    way = rows[(rows.operator == "hessian") & (rows.split == "train")]
    way = way[way.arm.isin(list(ARMS)[:5])].assign(absolute=lambda table: table.lambda_min.abs())
    followed = way[way.checkpoint != "last"].groupby("arm").seed.min()
    if followed.empty:
        return None
    way = way[way.seed == way.arm.map(followed)]
    quantities = {"lambda_max": "λ_max", "absolute": "|λ_min|", "lambda_ratio": "λ_ratio"}
    names = ("tail", "7", "9")
    figure = Figure(figsize=(7.2, 5.4), layout="constrained")
    grid = figure.subplots(len(quantities), len(names), sharex=True, sharey="row")
    for line, (column, label) in zip(grid, quantities.items(), strict=True):
        for axes, name in zip(line, names, strict=True):
            for arm in in_order(way.arm):
                own = way[(way.name == name) & (way.arm == arm)].sort_values("epoch")
                _line(axes, own, column, arm)
            axes.axvline(SWITCH - 0.5, color=GREY, lw=0.8, linestyle=":")
            _logarithmic(axes, "y")
        line[0].set_ylabel(label)
    for axes, name in zip(grid[0], names, strict=True):
        axes.set_title(title(name))
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
    handles, labels = grid[0][0].get_legend_handles_labels()
    handles.append(Line2D([], [], color=GREY, lw=0.8, linestyle=":"))
    figure.legend(handles, [*labels, "SSE-SAM's switch"], loc="outside upper center", ncols=6)
    return figure


def loss_figure(rows: pd.DataFrame) -> Figure:
    """Draw what a step of 0.05 along v_min and along −∇L leaves of the row's loss."""
    last = at_the_end(rows).dropna(subset=["descent"])
    last = last.assign(
        best=last[["min_ahead", "min_behind"]].min(axis=1) / last.loss,
        down=last.descent / last.loss,
    )
    figure = Figure(figsize=(4.2, 3.6), layout="constrained")
    axes = figure.subplots()
    _points(axes, last, "down", "best")
    axes.axline((0.5, 0.5), slope=1, color=GREY, lw=0.8)
    axes.set(xlim=(0, 1.05), ylim=(0, 1.05))
    axes.set(xlabel="share of the loss left, 0.05 along −∇L", ylabel="0.05 along v_min or −v_min")
    axes.legend(loc="lower right")
    return figure


def slices_figure(rows: pd.DataFrame) -> Figure | None:
    """Draw the loss of class 9 and of the tail along v_max and v_min, downhill to the right."""
    if "slice_min" not in rows:
        return None
    last = at_the_end(rows).dropna(subset=["slice_min"])
    last = last[last.seed == last.seed.min()]
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    for line, name in zip(grid, ("9", "tail"), strict=True):
        own = last[last.name == name]
        for axes, end in zip(line, ("max", "min"), strict=True):
            for row in _records(own):
                style = arm_style(row.arm)
                drawn = {"color": style.color, "linestyle": style.dashes, "label": ARMS[row.arm]}
                losses, w = row[f"slice_{end}"], len(row.slice_radii) // 2
                turn = -1 if losses[w - 1] < losses[w + 1] else 1  # an eigenvector has no sign
                axes.plot(row.slice_radii, losses[::turn], **drawn)
            for radius in (-0.05, 0.05):
                axes.axvline(radius, color=GREY, lw=0.8, linestyle=":")
            _logarithmic(axes, "y", between=())
            axes.set_title(f"{title(name)}, along v_{end}")
        line[0].set(ylabel="loss", ylim=(1e-3, None))
    for axes in grid[-1]:
        axes.set_xlabel("distance from w; dotted: 0.05, SAM's ρ")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return figure


def escape_figure(steps: pd.DataFrame) -> Figure:
    """Draw how far whole-batch steps of each method go along v_min, from each start."""
    starts = {"checkpoint": "from the trained network", "rank-deficient": "from a saddle of it"}
    there = [start for start in starts if start in set(steps.start)]
    figure = Figure(figsize=(3.6 * len(there), 3.2), layout="constrained")
    for axes, start in zip(np.atleast_1d(figure.subplots(1, len(there))), there, strict=True):
        own = steps[steps.start == start]
        for arm in ARMS:
            along, style = own[own.method == arm].sort_values("step"), arm_style(arm)
            if not along.empty:
                drawn = {"color": style.color, "linestyle": style.dashes, "label": ARMS[arm]}
                axes.plot(along.step, along.along.abs(), **drawn)
        axes.set(title=starts[start], xlabel="step", ylabel="|⟨v_min, w_t − w_0⟩|")
        _logarithmic(axes, "y", between=())
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=5)
    return figure


def _records(rows: pd.DataFrame) -> list[pd.Series]:
    return [row for _, row in rows.rename(columns={"name": "label"}).iterrows()]


def _points(axes: Axes, rows: pd.DataFrame, x: str, y: str) -> None:
    for arm in in_order(rows.arm):
        own, style = rows[rows.arm == arm], arm_style(arm)
        drawn = {"color": style.color, "marker": style.marker, "label": ARMS[arm]}
        axes.plot(own[x], own[y], linestyle="none", alpha=0.85, **drawn)


def _line(axes: Axes, rows: pd.DataFrame, column: str, arm: str) -> None:
    style = arm_style(arm)
    drawn = {"color": style.color, "marker": style.marker, "label": ARMS[arm]}
    axes.plot(rows.epoch, rows[column], linestyle=style.dashes, markersize=4, **drawn)


def _logarithmic(axes: Axes, which: str, between: tuple[int, ...] = (2, 5)) -> None:
    """Make an axis logarithmic, with plain numbers at each decade and between."""
    getattr(axes, f"set_{which}scale")("log", subs=between)
    axis = axes.xaxis if which == "x" else axes.yaxis
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axis.set_major_formatter(plain)
    axis.set_minor_formatter(plain)


FIGURES: Final[dict[str, Callable[[pd.DataFrame], Figure | None]]] = {
    "ratio": ratio_figure,
    "gradient": gradient_figure,
    "matched": matched_figure,
    "split": split_figure,
    "way": way_figure,
    "loss": loss_figure,
    "slices": slices_figure,
}
"""Name of a file, after "study-", to what draws it; None where nothing is measured yet."""
