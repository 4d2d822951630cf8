"""Tables, figures and the HTML report, drawn from run folders and spectrum tables alone."""

from saddlescope.palette import house_style, method_style, use_house_style
from saddlescope.reporting.checks import check_text
from saddlescope.reporting.figures import (
    PICTURES,
    Drawing,
    Picture,
    eigenvalues_by_epoch,
    extremes_by_class,
    fig1,
    fig2,
    fig3,
    fig4,
    loss_planes,
    loss_slices,
    phase,
    phase_figure,
    ratio_by_class,
    save_figure,
    shot_accuracy,
    spectral_densities,
    summary,
    training_curves,
)
from saddlescope.reporting.findings import Findings, find
from saddlescope.reporting.frames import (
    accuracy_table,
    class_table,
    spectrum_table,
    to_csv,
    to_latex,
    to_markdown,
)
from saddlescope.reporting.judging import Claim
from saddlescope.reporting.loading import Problem, Run, load_runs
from saddlescope.reporting.paper import (
    PAPER_COLUMNS,
    TABLES,
    paper_table,
    paper_text,
    printed_rows,
    save_table,
)
from saddlescope.reporting.report import Report, write_report
from saddlescope.reporting.selection import Ratio, Selection, select, select_runs
from saddlescope.reporting.terminal import spectrum_text, summary_text

__all__ = [
    "PAPER_COLUMNS",
    "PICTURES",
    "TABLES",
    "Claim",
    "Drawing",
    "Findings",
    "Picture",
    "Problem",
    "Ratio",
    "Report",
    "Run",
    "Selection",
    "accuracy_table",
    "check_text",
    "class_table",
    "eigenvalues_by_epoch",
    "extremes_by_class",
    "fig1",
    "fig2",
    "fig3",
    "fig4",
    "find",
    "house_style",
    "load_runs",
    "loss_planes",
    "loss_slices",
    "method_style",
    "paper_table",
    "paper_text",
    "phase",
    "phase_figure",
    "printed_rows",
    "ratio_by_class",
    "save_figure",
    "save_table",
    "select",
    "select_runs",
    "shot_accuracy",
    "spectral_densities",
    "spectrum_table",
    "spectrum_text",
    "summary",
    "summary_text",
    "to_csv",
    "to_latex",
    "to_markdown",
    "training_curves",
    "use_house_style",
    "write_report",
]
