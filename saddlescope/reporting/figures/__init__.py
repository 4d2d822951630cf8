"""The figures, each a function from runs to a `matplotlib.figure.Figure`."""

from saddlescope.reporting.figures.canvas import save_figure
from saddlescope.reporting.figures.classes import extremes_by_class, ratio_by_class
from saddlescope.reporting.figures.ratio import fig4
from saddlescope.reporting.figures.training import shot_accuracy, training_curves

__all__ = [
    "extremes_by_class",
    "fig4",
    "ratio_by_class",
    "save_figure",
    "shot_accuracy",
    "training_curves",
]
