"""Every figure that is drawn from run folders, by name, with what it is and what it needs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure

from saddlescope.reporting import figures
from saddlescope.reporting.loading import Run
from saddlescope.reporting.paper import TABLE_TITLES, paper_table, paper_text
from saddlescope.reporting.tables import to_csv, to_latex, to_markdown
from saddlescope.runs import write_text


@dataclass(frozen=True)
class Entry:
    """One figure.

    Attributes:
        draw: From runs to the figure; without its data a figure that says what is missing.
        caption: One or two sentences: what is drawn.
        needs: What the run folders must hold.
        recipe: What trains the runs of the paper's figure; empty where there is none.
    """

    draw: Callable[[Sequence[Run]], Figure]
    caption: str
    needs: str
    recipe: str = ""


PICTURES: Final[Mapping[str, Entry]] = {
    "summary": Entry(
        figures.summary,
        "One page: the answer in words, λ_ratio by method and class, accuracy by shots.",
        "spectra and metrics",
    ),
    "fig1": Entry(
        figures.fig1,
        "The two stages of SSE-SAM: test accuracy of head and tail classes, with its values at "
        "the switch and at the end.",
        "metrics of SSE-SAM",
        "train/fig3.toml",
    ),
    "fig3": Entry(
        figures.fig3,
        "Test accuracy of many, medium and few classes by epoch; the switch of SSE-SAM is marked.",
        "metrics of SAM, ImbSAM and SSE-SAM",
        "train/fig3.toml",
    ),
    "fig4": Entry(
        figures.fig4,
        "λ_ratio by method: all samples, the most frequent class and a tail class. Bars are the "
        "bounds of each network's eigenvalues, points its seeds.",
        "spectra",
        "train/fig4.toml",
    ),
    "ratio": Entry(
        figures.ratio_by_class,
        "λ_ratio of every class, from the most frequent to the rarest, with bounds.",
        "spectra of classes",
    ),
    "extremes": Entry(
        figures.extremes_by_class,
        "The largest and the smallest eigenvalue of every class, with bounds.",
        "spectra of classes",
    ),
    "training": Entry(
        figures.training_curves,
        "Test accuracy by shots and training loss of head and tail, by epoch.",
        "metrics",
    ),
    "shots": Entry(figures.shot_accuracy, "Test accuracy by shots at the last epoch.", "metrics"),
    "epochs": Entry(
        figures.eigenvalues_by_epoch,
        "λ_max, λ_min and their ratio along the training, with bounds as bands.",
        "train --monitor, or spectra of several checkpoints",
    ),
    "density": Entry(
        figures.spectral_densities,
        "Density of the Hessian's eigenvalues, with both ends marked.",
        "spectrum --with density",
    ),
    "slices": Entry(
        figures.loss_slices,
        "The loss along v_max and v_min around each checkpoint.",
        "spectrum --with slices",
    ),
    "plane": Entry(
        figures.loss_planes,
        "The loss over the plane of v_max and v_min, as contours and as a surface.",
        "spectrum --with plane",
    ),
}
"""Name to figure."""

TABLES: Final[Mapping[str, int]] = {f"table{number}": number for number in TABLE_TITLES}
"""Name to the number of a table of the paper."""


def save_table(runs: Sequence[Run], name: str, folder: str | Path) -> list[Path]:
    """Write a table of the paper as CSV (every cell, with its command), Markdown and LaTeX.

    Args:
        runs: What `load_runs` returned.
        name: Of `TABLES`.
        folder: Where.
    """
    frame = paper_table(runs, TABLES[name])
    text = paper_text(frame)
    contents = {
        "csv": to_csv(frame),
        "md": f"{TABLE_TITLES[TABLES[name]]}. Measured, and in brackets as the paper prints it; "
        "mean ± standard deviation over training seeds, last epoch, percent.\n\n"
        + to_markdown(text),
        "tex": to_latex(text.drop(columns="to fill")),
    }
    paths = []
    for ending, content in contents.items():
        paths.append(Path(folder) / f"{name}.{ending}")
        write_text(paths[-1], content)
    return paths
