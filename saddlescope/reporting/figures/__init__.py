"""The figures, each a function from runs to a `matplotlib.figure.Figure`."""

from saddlescope.reporting.figures.canvas import save_figure
from saddlescope.reporting.figures.classes import extremes_by_class, ratio_by_class
from saddlescope.reporting.figures.epochs import eigenvalues_by_epoch
from saddlescope.reporting.figures.landscape import loss_planes, loss_slices, spectral_densities
from saddlescope.reporting.figures.ratio import fig4
from saddlescope.reporting.figures.saddles import fig2
from saddlescope.reporting.figures.stages import fig1, fig3
from saddlescope.reporting.figures.summary import summary
from saddlescope.reporting.figures.training import shot_accuracy, training_curves

__all__ = [
    "eigenvalues_by_epoch",
    "extremes_by_class",
    "fig1",
    "fig2",
    "fig3",
    "fig4",
    "loss_planes",
    "loss_slices",
    "ratio_by_class",
    "save_figure",
    "shot_accuracy",
    "spectral_densities",
    "summary",
    "training_curves",
]
