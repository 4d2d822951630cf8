"""One page: the answer in words, λ_ratio by method and by class, accuracy by shots."""

import textwrap
from collections.abc import Sequence

from matplotlib.figure import Figure

from saddlescope.reporting.figures.canvas import (
    RATIO_LABEL,
    add_note,
    drawable,
    empty_figure,
    in_house_style,
    new_figure,
)
from saddlescope.reporting.figures.classes import draw_classes
from saddlescope.reporting.figures.marks import method_handles
from saddlescope.reporting.figures.ratio import draw_panel
from saddlescope.reporting.figures.training import draw_shots
from saddlescope.reporting.findings import find
from saddlescope.reporting.loading import Run
from saddlescope.reporting.selection import select


@in_house_style
def summary(runs: Sequence[Run], *, split: str = "train", note: bool = True) -> Figure:
    """Draw the one-page summary.

    Args:
        runs: What `load_runs` returned.
        split: The split measured.
        note: Write split, n, seeds and confidence at the foot.
    """
    chosen = select(runs, split=split)
    trained = [run for run in chosen.runs if len(run.metrics)]
    methods = list(dict.fromkeys(run.method for run in chosen.runs))
    classes = bool(chosen.names("class"))
    if not (chosen.panels or trained):
        return empty_figure("Nothing was measured.")
    figure = new_figure(8.27, 9.6)
    figure.suptitle("Is this network at a saddle?", x=0.02, ha="left", fontsize=13, weight="bold")
    heights = [1.5, *([1.7] if chosen.panels else []), *([2.2] if classes else [])]
    if trained:
        heights.append(2.0)
    rest = iter(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False).ravel())
    text = find(runs, split=split).paragraph
    lines = textwrap.wrap(drawable(text, 1200), 112)
    top = next(rest)
    top.text(0.02, 0.9, "\n".join(lines), fontsize=8.5, va="top", linespacing=1.5)
    top.legend(handles=method_handles(methods), loc="lower left", ncols=5)
    if chosen.panels:
        grid = next(rest).subplots(1, len(chosen.panels), sharey=True, squeeze=False).ravel()
        shown = list(
            dict.fromkeys(chosen.runs[i].method for i in sorted(set(chosen.rows["index"])))
        )
        for axes, panel in zip(grid, chosen.panels, strict=True):
            draw_panel(axes, chosen, panel, shown)
    if classes:
        axes = next(rest).subplots()
        draw_classes(axes, chosen, "lambda_ratio")
        axes.set_ylabel(RATIO_LABEL, parse_math=True)
    if trained:
        axes = next(rest).subplots()
        draw_shots(axes, trained)
        axes.set_title("Test accuracy by shots, last epoch")
    if note:
        add_note(figure, chosen.scope())
    return figure
