"""One page: the answer in words, λ_ratio by method and by class, accuracy by shots."""

import textwrap

from saddlescope.reporting.figures.canvas import RATIO_LABEL, drawable, new_figure
from saddlescope.reporting.figures.classes import draw_classes
from saddlescope.reporting.figures.marks import method_handles
from saddlescope.reporting.figures.picture import Drawing, Picture
from saddlescope.reporting.figures.ratio import draw_panel
from saddlescope.reporting.figures.training import draw_shots
from saddlescope.reporting.findings import find
from saddlescope.reporting.selection import Selection


def _draw(chosen: Selection) -> Drawing | str:
    trained = chosen.trained
    methods = list(dict.fromkeys(run.method for run in chosen.runs))
    classes = bool(chosen.names("class"))
    if not (chosen.panels or trained):
        return "Nothing was measured."
    figure = new_figure(8.27, 9.6)
    figure.suptitle("Is this network at a saddle?", x=0.02, ha="left", fontsize=13, weight="bold")
    heights = [1.5, *([1.7] if chosen.panels else []), *([2.2] if classes else [])]
    if trained:
        heights.append(2.0)
    rest = iter(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False).ravel())
    text = find(chosen).paragraph
    lines = textwrap.wrap(drawable(text, 1200), 112)
    top = next(rest)
    top.text(0.02, 0.9, "\n".join(lines), fontsize=8.5, va="top", linespacing=1.5)
    top.legend(handles=method_handles(methods), loc="lower left", ncols=5)
    if chosen.panels:
        grid = next(rest).subplots(1, len(chosen.panels), sharey=True, squeeze=False).ravel()
        for axes, panel in zip(grid, chosen.panels, strict=True):
            draw_panel(axes, chosen, panel, chosen.methods)
    if classes:
        axes = next(rest).subplots()
        draw_classes(axes, chosen, "lambda_ratio")
        axes.set_ylabel(RATIO_LABEL, parse_math=True)
    if trained:
        axes = next(rest).subplots()
        draw_shots(axes, trained)
        axes.set_title("Test accuracy by shots, last epoch")
    return Drawing(figure, chosen.scope())


summary = Picture(
    name="summary",
    draw=_draw,
    caption="One page: the answer in words, λ_ratio by method and class, accuracy by shots.",
    needs="spectra and metrics",
)
