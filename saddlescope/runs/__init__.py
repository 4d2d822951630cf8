"""The run folder: what a run leaves on disk, written so that a kill at any moment loses nothing.

A leaf: it imports no other room, and anyone may use it.
"""

from saddlescope.runs.atomic import atomic_path, to_json, write_bytes, write_json, write_text
from saddlescope.runs.folder import RunFolder, find_runs
from saddlescope.runs.lock import one_writer
from saddlescope.runs.methods import METHODS, ONE_STAGE, Method, RadiusOptions, in_two_stages
from saddlescope.runs.ownership import (
    empty_run_folder,
    foreign_names,
    refuse_foreign_output,
    remove_leftovers,
    shown,
)
from saddlescope.runs.processes import end_with_parent, own_process
from saddlescope.runs.provenance import provenance
from saddlescope.runs.radii import Radii, check_radii, first_epoch, method_radii
from saddlescope.runs.reading import parse_toml, read_bytes, read_json, read_text, record_at
from saddlescope.runs.schema import (
    CLASSIFIERS,
    LOSS_COLUMNS,
    LOSSES,
    METRIC_COLUMNS,
    NORM_COLUMNS,
    OPERATORS,
    SPECTRUM_COLUMNS,
    SPECTRUM_KEY,
    VIEW_COLUMNS,
    VIEW_IDENTITY,
    Columns,
    OperatorName,
    columns,
)
from saddlescope.runs.tables import (
    WHOLE_HESSIAN,
    append_row,
    count_lines,
    csv_text,
    matrix_words,
    of_one_loss,
    read_rows,
    read_spectrum,
    refuse_foreign_table,
    rewrite_rows,
    spectrum_csv,
    write_spectrum,
)
from saddlescope.runs.view_files import (
    read_view,
    typed_record,
    view_columns,
    view_file,
    views_folder,
    write_view,
)

__all__ = [
    "CLASSIFIERS", "LOSSES", "LOSS_COLUMNS", "METHODS", "METRIC_COLUMNS", "NORM_COLUMNS",
    "ONE_STAGE", "OPERATORS", "SPECTRUM_COLUMNS", "SPECTRUM_KEY", "VIEW_COLUMNS", "VIEW_IDENTITY",
    "WHOLE_HESSIAN", "Columns", "Method", "OperatorName", "Radii", "RadiusOptions", "RunFolder",
    "append_row", "atomic_path", "check_radii", "columns", "count_lines", "csv_text",
    "empty_run_folder", "end_with_parent", "find_runs", "first_epoch", "foreign_names",
    "in_two_stages", "matrix_words", "method_radii", "of_one_loss", "one_writer", "own_process",
    "parse_toml", "provenance", "read_bytes", "read_json", "read_rows", "read_spectrum",
    "read_text", "read_view", "record_at", "refuse_foreign_output", "refuse_foreign_table",
    "remove_leftovers", "rewrite_rows", "shown", "spectrum_csv", "to_json", "typed_record",
    "view_columns", "view_file", "views_folder", "write_bytes", "write_json", "write_spectrum",
    "write_text", "write_view",
]  # fmt: skip
