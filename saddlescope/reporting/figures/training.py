"""Training curves and final accuracy by shots, from `metrics.jsonl` alone."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from saddlescope.palette import method_style
from saddlescope.reporting.figures.canvas import WIDTH, drawable, new_figure, value_scale
from saddlescope.reporting.figures.marks import method_handles
from saddlescope.reporting.figures.picture import Drawing, Picture
from saddlescope.reporting.loading import Run
from saddlescope.reporting.selection import Selection, seeds_text
from saddlescope.reporting.text import SHOTS, method_label, percent

_PANELS = {
    "acc_many": "Many, test accuracy (%)",
    "acc_medium": "Medium, test accuracy (%)",
    "acc_few": "Few, test accuracy (%)",
    "acc_avg": "Average, test accuracy (%)",
    "loss_head": "Head classes, loss while training",
    "loss_tail": "Tail classes, loss while training",
}


def _draw_curves(chosen: Selection, *, stacked: bool = False) -> Drawing | str:
    """Draw accuracy by shots and training loss of head and tail against the epoch.

    A method with several training seeds is drawn as their mean, with the range from the lowest
    to the highest as a band. A vertical line marks the first epoch of a second stage.
    """
    trained = chosen.trained
    if not trained:
        return "No training metrics were recorded."
    shape = (6, 1) if stacked else (2, 3)
    figure = new_figure(WIDTH / 2 if stacked else WIDTH, 9.6 if stacked else 4.3)
    grid = figure.subplots(*shape, sharex=True).ravel()
    for axes, (column, title) in zip(grid, _PANELS.items(), strict=True):
        for method in _methods(trained):
            draw_curve(axes, [run for run in trained if run.method == method], column)
        axes.set_title(title, fontsize=7.5)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if column.startswith("acc"):
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
        else:
            value_scale(axes, [y for line in axes.get_lines() for y in line.get_ydata()], axis="y")
    for axes in grid[-1:] if stacked else grid[-3:]:
        axes.set_xlabel("epoch")
    mark_switches(grid, trained)
    figure.legend(
        handles=method_handles(_methods(trained), lines=True),
        loc="outside upper left",
        ncols=2 if stacked else 5,
    )
    return Drawing(figure, training_scope(trained))


training_curves = Picture(
    name="training",
    draw=_draw_curves,
    caption="Test accuracy by shots, and mean training loss of head and tail classes, by epoch. A "
    "dashed vertical line marks the first epoch of a second stage.",
    needs="metrics",
    narrow=partial(_draw_curves, stacked=True),
    section="training",
)


def _draw_bars(chosen: Selection) -> Drawing | str:
    """Draw test accuracy at the last epoch by shots, one bar a method, a dot for each seed."""
    trained = chosen.trained
    if not trained:
        return "No training metrics were recorded."
    figure = new_figure(WIDTH, 2.9)
    draw_shots(figure.subplots(), trained)
    figure.legend(loc="outside upper left", ncols=5)
    return Drawing(figure, training_scope(trained, last=True))


shot_accuracy = Picture(
    name="shots",
    draw=_draw_bars,
    caption="Test accuracy by shots at the last epoch.",
    needs="metrics",
    section="training",
)


def draw_shots(axes: Axes, trained: Sequence[Run]) -> None:
    """Draw the bars of `shot_accuracy` for runs that have metrics."""
    methods = _methods(trained)
    width = 0.82 / len(methods)
    for place, method in enumerate(methods):
        own = [run for run in trained if run.method == method]
        style = method_style(method)
        for x, shot in enumerate(SHOTS):
            values = np.array([run.metrics[f"acc_{shot}"].iloc[-1] for run in own], dtype=float)
            values = values[np.isfinite(values)]
            if not len(values):
                continue
            centre = x + width * (place - (len(methods) - 1) / 2)
            axes.bar(
                centre, values.mean(), width * 0.92, color=style.color, edgecolor="#ffffff",
                hatch=style.hatch, label=drawable(method_label(method)) if x == 0 else None,
            )  # fmt: skip
            if len(values) > 1:
                jitter = width * 0.25 * np.linspace(-1, 1, len(values))
                axes.plot(centre + jitter, values, "o", color="#1b1c1e", markersize=2)
            axes.annotate(
                percent(values.mean()),
                (centre, values.max()),
                xytext=(0, 2 if len(values) == 1 else 3.5),
                textcoords="offset points",
                ha="center",
                fontsize=6,
            )
    axes.set_xticks(range(len(SHOTS)), list(SHOTS.values()))
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(0, 1.05)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
    axes.set_ylabel("test accuracy (%)")
    axes.grid(visible=False, axis="x")


def training_scope(trained: Sequence[Run], *, last: bool = False) -> str:
    """Say in one line: epochs, sample count, seeds and how seeds are drawn."""
    ends = sorted({int(run.metrics["epoch"].iloc[-1]) for run in trained})
    parts = [f"last epoch {', '.join(map(str, ends))}"] if last else []
    sizes = sorted({sum(run.counts) for run in trained if run.counts})
    if sizes:
        parts.append(f"{', '.join(map(str, sizes))} training samples")
    parts.append(seeds_text(trained))
    if len(trained) > len(_methods(trained)):
        parts.append("bars: mean, dots: runs" if last else "line: mean of runs, band: range")
    return " · ".join(parts)


def _methods(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.method for run in runs))


def draw_curve(axes: Axes, runs: list[Run], column: str) -> None:
    """Draw one method's mean over seeds, and the range as a band, against the epoch."""
    curves = pd.concat(
        [run.metrics.set_index("epoch")[column] for run in runs], axis=1
    ).sort_index()
    curves = curves.dropna(how="all")
    if curves.empty:
        return
    style = method_style(runs[0].method)
    mean = curves.mean(axis=1)
    # Markers few enough to tell lines apart without hiding them, staggered between methods.
    every = max(1, len(mean) // 5)
    offset = sum(map(ord, runs[0].method)) % every
    axes.plot(
        mean.index, mean, color=style.color, linestyle=style.dashes, marker=style.marker,
        markersize=3.5, markevery=(offset, every),
    )  # fmt: skip
    if len(runs) > 1:
        low, high = curves.min(axis=1), curves.max(axis=1)
        axes.fill_between(mean.index, low, high, color=style.color, alpha=0.18, linewidth=0)


def mark_switches(grid: np.ndarray, runs: Sequence[Run]) -> None:
    """Mark the first epoch of each method's second stage in every panel."""
    switches = {
        (run.method, run.switch_epoch)
        for run in runs
        if run.switch_epoch is not None and run.switch_epoch <= run.metrics["epoch"].max()
    }
    for number, axes in enumerate(grid):
        for method, epoch in sorted(switches):
            color = method_style(method).color
            axes.axvline(epoch, color=color, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1.5)
            if number == 0:
                axes.annotate(
                    "stage 2", (epoch, 0.02), xycoords=("data", "axes fraction"), xytext=(3, 0),
                    textcoords="offset points", fontsize=6.5, color=color,
                )  # fmt: skip
