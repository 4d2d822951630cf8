"""The figures, each a `Picture`: from a selection of runs to a `matplotlib.figure.Figure`."""

from collections.abc import Mapping
from typing import Final

from saddlescope.reporting.figures.canvas import save_figure
from saddlescope.reporting.figures.classes import extremes_by_class, ratio_by_class
from saddlescope.reporting.figures.epochs import eigenvalues_by_epoch
from saddlescope.reporting.figures.landscape import loss_planes, loss_slices, spectral_densities
from saddlescope.reporting.figures.phase import phase, phase_figure
from saddlescope.reporting.figures.picture import Drawing, Picture
from saddlescope.reporting.figures.ratio import fig4
from saddlescope.reporting.figures.saddles import fig2
from saddlescope.reporting.figures.stages import fig1, fig3
from saddlescope.reporting.figures.summary import summary
from saddlescope.reporting.figures.training import shot_accuracy, training_curves

PICTURES: Final[Mapping[str, Picture]] = {
    picture.name: picture
    for picture in (
        summary,
        fig1,
        fig2,
        fig3,
        fig4,
        ratio_by_class,
        extremes_by_class,
        eigenvalues_by_epoch,
        spectral_densities,
        loss_slices,
        loss_planes,
        training_curves,
        shot_accuracy,
        phase,
    )
}
"""Every figure by name, in the order of the gallery and of the report."""
