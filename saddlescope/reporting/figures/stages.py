"""Fig. 1 and Fig. 3: head and tail, many, medium and few, before and after the switch of SSE-SAM.

The paper's Fig. 1 is a sketch of its idea; here its two stages are drawn with the accuracies that
runs had. Fig. 3 is the paper's: test accuracy by epoch for SAM, ImbSAM and SSE-SAM.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from saddlescope.palette import method_style
from saddlescope.reporting.figures.canvas import WIDTH, new_figure
from saddlescope.reporting.figures.marks import method_handles
from saddlescope.reporting.figures.picture import Drawing, Picture
from saddlescope.reporting.figures.training import draw_curve, mark_switches, training_scope
from saddlescope.reporting.loading import Run
from saddlescope.reporting.selection import Selection
from saddlescope.reporting.text import SHOTS, percent

_FIG3 = ("sam", "imbsam", "sse-sam")


def _draw_stages(chosen: Selection) -> Drawing | str:
    """Draw SSE-SAM's two stages: test accuracy of head and tail classes by epoch.

    Numbers stand at the last evaluation of stage 1 and at the end; several seeds are a mean and a
    band from the lowest to the highest.
    """
    own = [
        run
        for run in chosen.runs
        if run.method == "sse-sam" and run.switch_epoch and len(run.metrics) > run.switch_epoch
    ]
    if not own:
        return "No SSE-SAM run has reached its second stage."
    if not any(_group_accuracy(run, "head").notna().any() for run in own):
        return "No accuracy by class was recorded."
    figure = new_figure(WIDTH, 3.0)
    axes = figure.subplots()
    switch = min(run.switch_epoch or 0 for run in own)
    last = max(int(run.metrics["epoch"].max()) for run in own)
    axes.axvspan(-0.5, switch - 0.5, color="#eef3f8", linewidth=0)
    axes.axvspan(switch - 0.5, last + 0.5, color="#fbeee2", linewidth=0)
    for group, dashes in (("head", "-"), ("tail", (0, (4, 1.5)))):
        _draw_group(axes, own, group, dashes, switch)
    for x, text in (
        (0, "stage 1: head and tail are perturbed"),
        (switch, "stage 2: only the tail is"),
    ):
        axes.annotate(text, (x, 1.0), xycoords=("data", "axes fraction"), xytext=(4, 3),
                      textcoords="offset points", fontsize=7)  # fmt: skip
    _accuracy_axis(axes)
    axes.set(xlim=(-0.5, last + 0.5), ylim=(0, None), xlabel="epoch")
    axes.set_ylabel("test accuracy of SSE-SAM (%)")
    axes.legend(loc="lower right")
    return Drawing(figure, training_scope(own))


fig1 = Picture(
    name="fig1",
    draw=_draw_stages,
    caption="The two stages of SSE-SAM: test accuracy of head and tail classes, with its values "
    "at the switch and at the end.",
    needs="metrics of SSE-SAM",
)


def _draw_shots(chosen: Selection) -> Drawing | str:
    """Draw Fig. 3: accuracy by shots against the epoch for SAM, ImbSAM and SSE-SAM."""
    own = [run for run in chosen.trained if run.method in _FIG3]
    if not own:
        return "No run of SAM, ImbSAM or SSE-SAM has metrics."
    figure = new_figure(WIDTH, 2.7)
    grid = figure.subplots(1, 3, sharex=True)
    for axes, shot in zip(grid, ("many", "medium", "few"), strict=True):
        for method in _FIG3:
            found = [run for run in own if run.method == method]
            if found:
                draw_curve(axes, found, f"acc_{shot}")
        axes.set(title=SHOTS[shot], xlabel="epoch")
        _accuracy_axis(axes)
    grid[0].set_ylabel("test accuracy (%)")
    mark_switches(grid, own)
    methods = [method for method in _FIG3 if any(run.method == method for run in own)]
    handles = method_handles(methods, lines=True)
    figure.legend(handles=handles, loc="outside upper left", ncols=3)
    return Drawing(figure, training_scope(own))


fig3 = Picture(
    name="fig3",
    draw=_draw_shots,
    caption="Test accuracy of many, medium and few classes by epoch; the switch of SSE-SAM is "
    "marked.",
    needs="metrics of SAM, ImbSAM and SSE-SAM",
)


def _draw_group(axes: Axes, runs: Sequence[Run], group: str, dashes: object, switch: int) -> None:
    curves = pd.concat([_group_accuracy(run, group) for run in runs], axis=1).dropna(how="all")
    if curves.empty:
        return
    mean = curves.mean(axis=1)
    color = method_style("sse-sam").color if group == "tail" else method_style("sam").color
    axes.plot(mean.index, mean, color=color, linestyle=dashes, label=f"{group} classes")
    if len(runs) > 1:
        low, high = curves.min(axis=1), curves.max(axis=1)
        axes.fill_between(mean.index, low, high, color=color, alpha=0.18, linewidth=0)
    before = mean[mean.index < switch]
    for end in (before.tail(1), mean.tail(1)):
        for epoch, value in zip(end.index.to_numpy(), end.to_numpy(), strict=True):
            axes.plot(epoch, value, "o", color=color, markersize=3.5)
            axes.annotate(percent(value), (epoch, value), xytext=(-3, 4), ha="right",
                          textcoords="offset points", fontsize=7, color=color)  # fmt: skip


def _group_accuracy(run: Run, group: str) -> pd.Series:
    """Mean test accuracy over the classes of a group, by epoch; NaN where it was not evaluated."""
    classes = run.group(group)
    values = []
    for accuracies in run.metrics["acc_per_class"]:
        known = isinstance(accuracies, list) and classes and max(classes) < len(accuracies)
        chosen = [accuracies[c] for c in classes] if known else []
        plain = all(isinstance(value, int | float) for value in chosen)
        values.append(float(np.mean(chosen)) if chosen and plain else np.nan)
    return pd.Series(values, index=run.metrics["epoch"], dtype=float)


def _accuracy_axis(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
