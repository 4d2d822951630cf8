"""The loss around a checkpoint: spectral density, and slices and a plane along v_max and v_min.

Drawn from the views that `saddlescope spectrum --with density,slices,plane` keeps.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from saddlescope.palette import method_style
from saddlescope.reporting.figures.canvas import WIDTH, drawable, new_figure
from saddlescope.reporting.figures.marks import method_handles
from saddlescope.reporting.figures.picture import Drawing, Picture
from saddlescope.reporting.loading import Run
from saddlescope.reporting.selection import Selection, seeds_text
from saddlescope.reporting.text import class_order, number, shorten
from saddlescope.runs import WHOLE_HESSIAN, matrix_words

_MOST_PANELS = 3
_COMMAND = "run `saddlescope spectrum RUN --with {}`."


def _draw_densities(chosen: Selection) -> Drawing | str:
    """Draw the density of the Hessian's eigenvalues, both ends marked, by group and method."""
    found = _records(chosen, "density")
    if not found:
        return f"No spectral density was kept: {_COMMAND.format('density')}"
    names = sorted({record["name"] for _, record in found}, key=class_order)[:_MOST_PANELS]
    figure = new_figure(WIDTH, 2.8)
    grid = figure.subplots(1, len(names), squeeze=False).ravel()
    for axes, name in zip(grid, names, strict=True):
        shown = [(run, record) for run, record in found if record["name"] == name]
        reach = 0.0
        for run, record in shown:
            style = method_style(run.method)
            grid_points = np.asarray(record["grid"], dtype=float)
            density = np.asarray(record["density"], dtype=float)
            axes.plot(
                grid_points, np.maximum(density, 1e-12), color=style.color, linewidth=1,
                linestyle=style.dashes,
            )  # fmt: skip
            ends = _ends(run, record)
            axes.plot(ends, [2e-7] * len(ends), marker="|", linestyle="none", markersize=9,
                      color=style.color)  # fmt: skip
            reach = max([reach, *np.abs(ends)])
        axes.set_yscale("log")
        axes.set_ylim(1e-7, None)
        _plain_ticks(axes)
        if reach:
            axes.set_xscale("symlog", linthresh=reach / 100)
            axes.set_xlim(-1.6 * reach, 1.6 * reach)
            axes.xaxis.set_major_formatter(FuncFormatter(_far_from_zero(reach / 30)))
        axes.set_title(_panel_title(shown[0][1]))
        axes.set_xlabel("eigenvalue")
    grid[0].set_ylabel("density")
    _method_legend(figure, [run for run, _ in found])
    first = found[0][1]
    return Drawing(
        figure,
        f"stochastic Lanczos quadrature, {first['probes']:g} probes of {first['steps']:g} "
        f"steps, widened by σ · ticks below: λ_min and λ_max · {_scope(chosen, found)}",
    )


spectral_densities = Picture(
    name="density",
    draw=_draw_densities,
    caption="Density of the eigenvalues, with both ends marked.",
    needs="spectrum --with density",
    section="around",
)


def _draw_slices(chosen: Selection) -> Drawing | str:
    """Draw the loss along v_max (above) and v_min (below) around each checkpoint, by group."""
    found = _records(chosen, "slices")
    if not found:
        return f"No loss slice was kept: {_COMMAND.format('slices')}"
    names = sorted({record["name"] for _, record in found}, key=class_order)[:_MOST_PANELS]
    figure = new_figure(WIDTH, 4.2)
    grid = figure.subplots(2, len(names), squeeze=False)
    for row, direction in zip(grid, ("v_max", "v_min"), strict=True):
        for axes, name in zip(row, names, strict=True):
            for run, record in found:
                if (record["name"], record["direction"]) != (name, direction):
                    continue
                style = method_style(run.method)
                radii = np.asarray(record["radii"], dtype=float)
                losses = np.asarray(record["losses"], dtype=float)
                middle = losses[len(losses) // 2]
                axes.plot(
                    radii, losses - middle, color=style.color, linestyle=style.dashes, linewidth=1
                )
            axes.axhline(0, color="#6b7075", linewidth=0.6, zorder=1)
            if direction == "v_min":  # the dip of a small λ_min beside walls that are high
                axes.set_yscale("symlog", linthresh=1e-4)
            _plain_ticks(axes, linear=True)
            if direction == "v_max":
                titles = [record for _, record in found if record["name"] == name]
                axes.set_title(_panel_title(titles[0]))
            axes.set_xlabel(f"distance along {direction}")
    for row in grid:
        row[0].set_ylabel("loss − loss at w")
    _method_legend(figure, [run for run, _ in found])
    return Drawing(figure, f"the loss itself along the eigenvectors · {_scope(chosen, found)}")


loss_slices = Picture(
    name="slices",
    draw=_draw_slices,
    caption="The loss along v_max and v_min around each checkpoint.",
    needs="spectrum --with slices",
    section="around",
)


def _draw_planes(chosen: Selection) -> Drawing | str:
    """Draw the loss over the plane of v_max and v_min, of all samples or of the first group kept.

    As contours and as a surface, one column for each of up to three checkpoints.
    """
    found = _records(chosen, "plane")
    if not found:
        return f"No loss plane was kept: {_COMMAND.format('plane')}"
    name = min((record["name"] for _, record in found), key=class_order)
    shown = [(run, record) for run, record in found if record["name"] == name][:_MOST_PANELS]
    figure = new_figure(WIDTH, 4.6)
    for column, (run, record) in enumerate(shown):
        x = np.asarray(record["v_max_radii"], dtype=float)
        y = np.asarray(record["v_min_radii"], dtype=float)
        losses = np.asarray(record["losses"], dtype=float).reshape(len(x), len(y)).T
        flat = figure.add_subplot(2, len(shown), column + 1)
        flat.contourf(x, y, losses, 16, cmap="cividis")
        flat.plot(0, 0, "w+", markersize=8)
        flat.set(xlabel="along v_max", ylabel="along v_min" if column == 0 else "")
        flat.set_title(drawable(run.method_label))
        _plain_ticks(flat, linear=True)
        raised = figure.add_subplot(2, len(shown), len(shown) + column + 1, projection="3d")
        raised.plot_surface(*np.meshgrid(x, y), losses, cmap="cividis", linewidth=0)
        raised.set(xticks=[], yticks=[], zticks=[])
        raised.set_xlabel("v_max", labelpad=-14)
        raised.set_ylabel("v_min", labelpad=-14)
    note = f"{_panel_title(shown[0][1])} · loss on the plane · {_scope(chosen, shown)}"
    return Drawing(figure, note)


loss_planes = Picture(
    name="plane",
    draw=_draw_planes,
    caption="The loss over the plane of v_max and v_min, as contours and as a surface.",
    needs="spectrum --with plane",
    section="around",
)


def _records(chosen: Selection, view: str) -> list[tuple[Run, dict[str, Any]]]:
    """The kept records of the training split, last checkpoint of each run, of what is compared."""
    found = []
    for run in chosen.runs:
        records = [
            record
            for record in run.views.get(view, [])
            if (record["split"], record["criterion"]) == ("train", chosen.criterion)
            and matrix_words(record) == chosen.matrix
            and _has_extent(view, record)
        ]
        epochs = [record["epoch"] for record in records if record["epoch"] is not None]
        latest = max(epochs, default=None)
        found += [(run, record) for record in records if record["epoch"] == latest]
    return found


def _has_extent(view: str, record: Mapping[str, Any]) -> bool:
    """Tell whether there is something to draw: contours need two points each way."""
    if view == "plane":
        wide = min(len(record["v_max_radii"]), len(record["v_min_radii"])) > 1
        return wide and bool(np.isfinite(record["losses"]).any())
    return bool(record["grid" if view == "density" else "losses"])


def _ends(run: Run, record: Mapping[str, Any]) -> list[float]:
    """λ_min and λ_max of the row that a record was made beside."""
    keys = (
        "kind", "name", "split", "criterion", "digest", "seed", "operator", "parameters",
        "weight_decay",
    )  # fmt: skip
    rows = run.spectra
    for key in keys:
        rows = rows[rows[key] == record[key]]
    ends = rows[["lambda_min", "lambda_max"]].to_numpy(dtype=float)
    return [float(value) for value in ends[-1]] if len(ends) else []


def _panel_title(record: Mapping[str, Any]) -> str:
    name = record["name"]
    title = f"Class {name}" if record["kind"] == "class" else f"{name[:1].upper()}{name[1:]}"
    return f"{drawable(title)} (n = {record['n']:g})" if "n" in record else drawable(title)


def _scope(chosen: Selection, found: Sequence[tuple[Run, Mapping[str, Any]]]) -> str:
    """Which checkpoints and which matrix, in words."""
    runs = list(dict.fromkeys(run for run, _ in found))
    epochs = sorted({int(record["epoch"]) for _, record in found if record["epoch"] is not None})
    when = f"after epoch {', '.join(map(str, epochs))} · " if epochs else ""
    what = "" if chosen.matrix == WHOLE_HESSIAN else f"{shorten(chosen.matrix, 40)} · "
    return f"train split · {what}{when}{seeds_text(runs)}"


def _method_legend(figure: Figure, runs: Sequence[Run]) -> None:
    methods = dict.fromkeys(run.method for run in runs)
    handles = method_handles(methods, lines=True)
    figure.legend(handles=handles, loc="outside upper left", ncols=5)


def _far_from_zero(least: float) -> Callable[[float, int], str]:
    """Labels of zero and of ticks farther from it than `least`; nearer ones would overlap."""
    return lambda value, _: (
        f"{value:g}".replace("-", "−") if value == 0 or abs(value) > least else ""
    )


def _plain_ticks(axes: Axes, *, linear: bool = False) -> None:
    """Numbers without mathematical markup, which text from files rules out."""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, 2)))
    if linear:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, 2)))
