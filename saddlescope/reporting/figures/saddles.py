"""Fig. 2: the walks of SGD and SAM from near a saddle, over the loss they walk on."""

import numpy as np
from matplotlib.ticker import FuncFormatter

from saddlescope.palette import method_style
from saddlescope.reporting.figures.canvas import WIDTH, new_figure
from saddlescope.reporting.figures.marks import method_handles
from saddlescope.reporting.figures.picture import Drawing, Picture
from saddlescope.reporting.selection import Selection


def _draw(_: Selection) -> Drawing:
    """Draw one panel for each loss."""
    from saddlescope.theory import figure2

    panels = figure2()
    figure = new_figure(WIDTH, 3.2)
    grid = figure.subplots(1, len(panels), squeeze=False).ravel()
    for axes, panel in zip(grid, panels, strict=True):
        points = np.concatenate(list(panel.paths.values()))
        low, high = points.min(0), points.max(0)
        reach = np.abs(points).max(0)
        x = np.linspace(
            low[0] - 0.15 * (high[0] - low[0]), high[0] + 0.15 * (high[0] - low[0]), 161
        )
        if panel.small is None:
            y = np.linspace(-1.25 * reach[1], 1.25 * reach[1], 161)
        else:
            side = np.logspace(np.log10(panel.small) - 1, np.log10(4 * reach[1]), 80)
            y = np.concatenate([-side[::-1], [0.0], side])
            axes.set_yscale("symlog", linthresh=panel.small)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0e}" if v else "0"))
        mesh = np.stack(np.meshgrid(x, y), -1)
        values = panel.loss(mesh.reshape(-1, 2)).reshape(mesh.shape[:2])
        axes.contourf(x, y, values, 14, cmap="Greys", alpha=0.45)
        for method, path in panel.paths.items():
            style = method_style(method)
            axes.plot(path[:, 0], path[:, 1], color=style.color, marker=style.marker,
                      linestyle=style.dashes, markersize=2.5, linewidth=1)  # fmt: skip
        first = next(iter(panel.paths.values()))[0]
        axes.plot(*first, "o", color="#1b1c1e", markersize=5, markerfacecolor="none")
        axes.grid(visible=False)
        axes.set(xlabel="x", ylabel="y (along v_min)", title=panel.title)
    methods = dict.fromkeys(method for panel in panels for method in panel.paths)
    handles = method_handles(methods, lines=True)
    figure.legend(handles=handles, loc="outside upper left", ncols=2)
    words = [f"{side}: {p.caption}" for side, p in zip(("left", "right"), panels, strict=True)]
    return Drawing(figure, " · ".join(words))


fig2 = Picture(
    name="fig2",
    draw=_draw,
    caption="SGD and SAM from near a saddle, their true trajectories: where SAM is held at it, and "
    "where Theorem 1 holds. The paper does not give its function.",
    needs="nothing",
    without_runs=True,
)
