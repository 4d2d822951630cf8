"""Tables, figures and the HTML report, drawn from run folders and from nothing else."""

from saddlescope.reporting.checks import check_text
from saddlescope.reporting.figures import (
    extremes_by_class,
    fig4,
    ratio_by_class,
    save_figure,
    shot_accuracy,
    training_curves,
)
from saddlescope.reporting.findings import Findings, find
from saddlescope.reporting.judging import Claim
from saddlescope.reporting.loading import Problem, Run, load_runs
from saddlescope.reporting.palette import method_style, use_house_style
from saddlescope.reporting.paper import paper_table, paper_text, printed_rows
from saddlescope.reporting.report import Report, write_report
from saddlescope.reporting.tables import (
    accuracy_table,
    class_table,
    spectrum_table,
    to_csv,
    to_latex,
    to_markdown,
)
from saddlescope.reporting.terminal import spectrum_text, summary_text

__all__ = [
    "Claim",
    "Findings",
    "Problem",
    "Report",
    "Run",
    "accuracy_table",
    "check_text",
    "class_table",
    "extremes_by_class",
    "fig4",
    "find",
    "load_runs",
    "method_style",
    "paper_table",
    "paper_text",
    "printed_rows",
    "ratio_by_class",
    "save_figure",
    "shot_accuracy",
    "spectrum_table",
    "spectrum_text",
    "summary_text",
    "to_csv",
    "to_latex",
    "to_markdown",
    "training_curves",
    "use_house_style",
    "write_report",
]
