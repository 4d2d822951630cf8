"""λ_max, λ_min and λ_ratio along the training, from monitor.jsonl and spectra of checkpoints."""

import pandas as pd
from matplotlib.ticker import FuncFormatter, MaxNLocator

from saddlescope.palette import method_style
from saddlescope.reporting.figures.canvas import (
    RATIO_LABEL,
    WIDTH,
    new_figure,
    signed_scale,
    value_scale,
)
from saddlescope.reporting.figures.marks import method_handles
from saddlescope.reporting.figures.picture import Drawing, Picture
from saddlescope.reporting.loading import MONITOR_COLUMNS, Run
from saddlescope.reporting.selection import Selection, seeds_text
from saddlescope.reporting.text import number
from saddlescope.runs import of_one_loss

_QUANTITIES = {
    "lambda_max": r"$\lambda_\mathrm{max}$",
    "lambda_min": r"$\lambda_\mathrm{min}$",
    "lambda_ratio": RATIO_LABEL,
}


def _draw(chosen: Selection, name: str = "all") -> Drawing | str:
    """Draw both ends of the spectrum and their ratio against the epoch, with bounds as bands.

    Runs measured at two epochs or more are drawn.
    """
    courses = [(run, eigenvalue_course(run, name)) for run in chosen.runs]
    courses = [(run, course) for run, course in courses if len(course) > 1]
    if not courses:
        return "No run was measured at two epochs: train with --monitor."
    figure = new_figure(WIDTH, 2.7)
    grid = figure.subplots(1, 3, sharex=True)
    for axes, (quantity, label) in zip(grid, _QUANTITIES.items(), strict=True):
        for run, course in courses:
            style = method_style(run.method)
            axes.plot(course["epoch"], course[quantity], color=style.color, marker=style.marker,
                      linestyle=style.dashes, markersize=2.5, linewidth=1)  # fmt: skip
            axes.fill_between(course["epoch"], course[f"{quantity}_lower"],
                              course[f"{quantity}_upper"], color=style.color, alpha=0.18,
                              linewidth=0)  # fmt: skip
        axes.set_xlabel("epoch")
        axes.set_ylabel(label, parse_math=True)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        every = pd.concat([course[quantity] for _, course in courses]).to_numpy(dtype=float)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, 2)))
        if quantity == "lambda_min":
            axes.axhline(0, color="#6b7075", linewidth=0.6)
            signed_scale(axes, every)
            if every.max() < 0:
                axes.set_ylim(top=0)
        elif quantity == "lambda_max":
            value_scale(axes, every, axis="y")
    methods = dict.fromkeys(run.method for run, _ in courses)
    handles = method_handles(methods, lines=True)
    figure.legend(handles=handles, loc="outside upper left", ncols=5)
    seeds = seeds_text([run for run, _ in courses])
    return Drawing(figure, f"{name} · train split · bands: bounds of each eigenvalue · {seeds}")


eigenvalues_by_epoch = Picture(
    name="epochs",
    draw=_draw,
    caption="λ_max, λ_min and their ratio along the training, with bounds as bands.",
    needs="train --monitor, or spectra of several checkpoints",
    section="around",
)


def eigenvalue_course(run: Run, name: str) -> pd.DataFrame:
    """List the epochs measured of a group or class, a checkpoint's spectrum before a monitor's."""
    columns = list(MONITOR_COLUMNS)
    own = run.spectra[run.spectra["split"] == "train"]
    if len(run.monitor):  # which measures cross-entropy
        own = own[own["criterion"] == "ce"]
    records = own.to_dict("records")
    rows = pd.DataFrame(of_one_loss(records), columns=columns)
    parts = [part for part in (run.monitor, rows) if len(part)]
    if not parts:
        return run.monitor
    course = pd.concat([part.astype({"epoch": float}) for part in parts], ignore_index=True)
    course = course[(course["name"] == name) & course["epoch"].notna()]
    course = course.drop_duplicates("epoch", keep="last").sort_values("epoch")
    return course.reset_index(drop=True)
